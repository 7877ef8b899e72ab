"""Tensors of texts in the Open Inference Protocol, datatype BYTES, and classes as it tells them.

In binary each element is its length, four bytes little-endian, and its bytes; in JSON it is a text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array

BYTES = "BYTES"
MAX_ELEMENTS = 4096
MAX_CLASS_TEXTS = 1 << 16
"""Of one answer: a few hundredths of a second."""


def unpack_texts(name: str, shape: Sequence[int], data: memoryview | Any) -> list[str]:
    """``data``: the binary form, or what JSON held. ``shape``: (N) or (N, 1). Raises InputError."""
    if len(shape) not in (1, 2) or list(shape[1:]) not in ([], [1]) or not 1 <= shape[0] <= MAX_ELEMENTS:
        raise InputError(
            f"input {name[:80]!r} is shaped {list(shape)[:8]}, texts are [N] or [N, 1] with N from 1 to "
            f"{MAX_ELEMENTS}"
        )
    found = _from_binary(name, data) if isinstance(data, memoryview) else _from_json(name, data)
    if len(found) != shape[0]:
        raise InputError(f"input {name[:80]!r} holds {len(found)} texts, its shape says {shape[0]}")
    return found


def _from_binary(name: str, data: memoryview) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(data) and len(found) <= MAX_ELEMENTS:
        size = struct.unpack_from("<I", data, at)[0] if len(data) - at >= 4 else 0
        at += 4
        if size > len(data) - at:
            raise InputError(
                f"input {name[:80]!r}: a text of {size} bytes, {max(0, len(data) - at)} are left"
            )
        found.append(_text(name, bytes(data[at : at + size])))
        at += size
    return found


def _from_json(name: str, data: Any) -> list[str]:
    if isinstance(data, list) and all(isinstance(each, list) and len(each) == 1 for each in data):
        data = [each[0] for each in data]
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise InputError(f"input {name[:80]!r} must be a list of texts")
    return data


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"input {name[:80]!r} holds what is no UTF-8") from error


def pack_texts(texts: Iterable[str]) -> bytes:
    return b"".join([struct.pack("<I", len(data)) + data for data in map(str.encode, texts)])


def classes_of(values: Array, count: int, names: Sequence[str]) -> Array:
    """(N, classes) to (N, count) texts, the highest first: value:number, and :name where there is one.

    Raises InputError, also for more texts than a server may make while others wait.
    """
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        raise InputError(f"classes of an output shaped {list(values.shape)}, it must be [N, CLASSES]")
    texts = len(values) * min(count, values.shape[1])
    if texts > MAX_CLASS_TEXTS:
        raise InputError(f"classes of {len(values)} answers are {texts} texts, limit {MAX_CLASS_TEXTS}")
    best = np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :count]
    labels = names if len(names) == values.shape[1] else ()
    rows = [
        [f"{row[place]:f}:{place}" + (f":{labels[place]}" if labels else "") for place in order]
        for row, order in zip(values, best, strict=True)
    ]
    return np.array(rows, object)
