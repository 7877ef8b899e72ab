"""Given values to the arrays that a model takes, whatever they came as. Raises InputError only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.serving.messages import TensorSpec
from backend.serving.tensor_body import dtype_name

MAX_ITEMS = 1 << 28


def from_json(raw: msgspec.Raw, spec: TensorSpec) -> Array:
    """Nested lists of numbers, as deep as the spec says."""
    try:
        values = _decoder(len(spec.shape), np.dtype(spec.dtype).kind).decode(raw)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"input {spec.name!r}: {error}") from error
    return from_lists(values, spec)


def from_lists(values: Any, spec: TensorSpec) -> Array:
    """Of lists as deep as the spec says."""
    try:
        array = np.asarray(values, np.dtype(spec.dtype))
    except ValueError as error:
        raise InputError(f"input {spec.name!r}: rows of different lengths") from error
    except OverflowError as error:
        raise InputError(f"input {spec.name!r} holds numbers that are not {spec.dtype}") from error
    return fitted(array, spec)


def from_body(body: bytes, spec: TensorSpec) -> Array:
    """Of a body that has the lists of this input as ``inputs``, and nothing else.

    Raises InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    kind, shape = np.dtype(spec.dtype).kind, spec.shape
    lists = _body_decoder(shape, kind).decode(body).inputs
    if not lists or min(shape[1:], default=0) < 1:
        return from_lists(lists, spec)
    # The decoder has counted what is in each list, so numpy need not, which takes several times as long.
    rows = lists
    for _ in shape[2:]:
        rows = list(chain.from_iterable(rows))
    try:
        pack = _row_of(spec.dtype, shape[-1]).pack
        packed = b"".join([pack(*row) for row in rows])
    except (struct.error, OverflowError) as error:
        raise InputError(f"input {spec.name!r} holds numbers that are not {spec.dtype}") from error
    return np.frombuffer(packed, spec.dtype).reshape(len(lists), *shape[1:])


@cache
def _row_of(dtype: str, length: int) -> struct.Struct:
    return struct.Struct(f"{length}{np.dtype(dtype).char}")


@cache
def _body_decoder(shape: tuple[int, ...], kind: str) -> msgspec.json.Decoder[Any]:
    fields = [("inputs", _nested(shape, kind))]
    return msgspec.json.Decoder(msgspec.defstruct("Lists", fields, frozen=True, forbid_unknown_fields=True))


@cache
def _decoder(depth: int, kind: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_nested((-1,) * depth, kind))


def _nested(shape: tuple[int, ...], kind: str) -> Any:
    """Lists so deep and long, -1 for any length, of numbers of numpy's ``kind``."""
    nested: Any = {"f": float, "b": bool}.get(kind, int)
    for size in reversed(shape):
        nested = list[nested]
        if size >= 0:
            nested = Annotated[nested, msgspec.Meta(min_length=size, max_length=size)]
    return nested


def fitted(array: Array, spec: TensorSpec) -> Array:
    """In the dtype of the spec, if that loses no more than precision, and of its shape."""
    if dtype_name(array.dtype) != spec.dtype:
        wanted = np.dtype(spec.dtype)
        whole = array.dtype.kind == "f" and wanted.kind in "iu"
        if whole or not (np.can_cast(array.dtype, wanted, "same_kind") or array.dtype.kind in "iub"):
            raise InputError(f"input {spec.name!r} is {array.dtype.name}, allowed is {spec.dtype}")
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        if wanted.kind in "iu" and not np.array_equal(cast, array):
            raise InputError(f"input {spec.name!r} holds numbers that are not {spec.dtype}")
        array = cast
    fits = len(array.shape) == len(spec.shape) and all(
        wanted in (-1, size) for size, wanted in zip(array.shape, spec.shape, strict=True)
    )
    if not fits or not 0 < array.size <= MAX_ITEMS:
        allowed = ", ".join("any" if size < 0 else str(size) for size in spec.shape)
        raise InputError(f"input {spec.name!r} is shaped {array.shape}, allowed is ({allowed})")
    return array


def all_fitted(arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """By name, in the order of ``specs``."""
    names = [spec.name for spec in specs]
    if arrays.keys() != set(names):
        found = ", ".join(sorted(arrays))[:200] or "none"
        raise InputError(f"inputs {found}, the model takes {', '.join(names) or 'no tensors'}")
    return {spec.name: fitted(arrays[spec.name], spec) for spec in specs}
