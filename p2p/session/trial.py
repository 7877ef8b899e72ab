"""A question to a deployed model that costs little, and what its answer has to be. Pure.

The Engine asks its own copy first. An output is compared only where the copy gave the same for almost the
same question: what is random, or jumps, is only expected to have the same form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Protocol

from blake3 import blake3
from msgspec import Meta

from p2p.codec import Part
from p2p.identifiers import Count, Label, Text
from p2p.protocols.inference import ITEM_BYTES, Dtype, Shape, TensorGiven, TensorInfo

MAX_BYTES = 4 << 20
"""Of all inputs: a model that takes more is not tried."""
MAX_VALUES = 1024
"""Of one output that are compared."""
TOLERANCE = 0.1
"""Of an output's largest value: other devices and quantized arithmetic differ by less."""
NUDGE = 1.001
_PATTERN = 257
_FORMATS: dict[str, str] = {
    "float32": "f",
    "float64": "d",
    "float16": "e",
    "int64": "q",
    "int32": "i",
    "int16": "h",
    "int8": "b",
    "uint8": "B",
    "bool": "?",
}
_FLOATS = frozenset({"float32", "float64", "float16"})


class TensorLike(Protocol):
    """C order, little-endian, as long as its shape says."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> bytes: ...


class Expected(Part, frozen=True):
    """One output. ``shape`` None, and no ``values``: they are not settled."""

    name: Label
    dtype: Dtype
    shape: Shape | None
    values: Annotated[tuple[float, ...], Meta(max_length=MAX_VALUES)] = ()
    """Evenly from all of it."""


class Trial(Part, frozen=True):
    """What the Engine's own copy of the model gave for the question of ``seed``."""

    seed: Count = 0
    inputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)] = ()
    outputs: Annotated[tuple[Expected, ...], Meta(max_length=64)] = ()
    untried: Text = ""
    """Why there is no answer of its own, if so: then any answer counts."""


UNTRIED = Trial(untried="not tried here")


def question(
    inputs: Iterable[TensorInfo], seed: int, nudge: float = 1.0
) -> tuple[tuple[TensorGiven, bytes], ...] | None:
    """One item for the model: floats from 0 to 1, all else 0 and 1. None for one that takes too much."""
    asked, size = [], 0
    for info in inputs:
        shape = tuple(max(length, 1) for length in info.shape)
        count, kind = math.prod(shape), _FORMATS[info.dtype]
        bytes_each = ITEM_BYTES[info.dtype]
        size += count * bytes_each
        if size > MAX_BYTES:
            return None
        noise = blake3(f"{seed} {info.name}".encode()).digest(length=_PATTERN)
        is_float = info.dtype in _FLOATS
        pattern = [nudge * byte / 256 if is_float else byte & 1 for byte in noise]
        data = struct.pack(f"<{_PATTERN}{kind}", *pattern) * -(-count // _PATTERN)
        given = TensorGiven(info.name, info.dtype, shape)
        asked.append((given, data[: count * bytes_each]))
    return tuple(asked)


def expected_from(first: Mapping[str, TensorLike], nudged: Mapping[str, TensorLike]) -> tuple[Expected, ...]:
    """What a model gave for a question, and for almost the same one."""
    return tuple(_expected(name, tensor, nudged.get(name)) for name, tensor in first.items())


def _expected(name: str, tensor: TensorLike, nudged: TensorLike | None) -> Expected:
    dtype: Dtype = tensor.dtype  # type: ignore[assignment]
    if nudged is None or nudged.shape != tensor.shape:
        return Expected(name, dtype, None)
    values = _values(tensor)
    is_settled = all(map(math.isfinite, values)) and _differs(values, _values(nudged), TOLERANCE / 2) is None
    return Expected(name, dtype, tensor.shape, values if is_settled else ())


def fault(trial: Trial, answer: Mapping[str, TensorLike]) -> str | None:
    """Why a model that answers so is not the Engine's; None where it may be."""
    if trial.untried:
        return None if answer else "answers without any output"
    names = sorted(expected.name for expected in trial.outputs)
    if sorted(answer) != names:
        return f"answers {', '.join(sorted(answer)) or 'nothing'}, allowed {', '.join(names)}"
    for expected in trial.outputs:
        found = answer[expected.name]
        if found.dtype != expected.dtype or expected.shape not in (None, found.shape):
            allowed = f"{expected.dtype} of {expected.shape}"
            return f"{expected.name} is {found.dtype} of {found.shape}, allowed {allowed}"
        differs = _differs(expected.values, _values(found), TOLERANCE) if expected.values else None
        if differs is not None:
            return f"{expected.name} is {differs}"
    return None


def _values(tensor: TensorLike) -> tuple[float, ...]:
    """Of floats; whole numbers, which are mostly choices, jump."""
    if tensor.dtype not in _FLOATS:
        return ()
    kind, size = _FORMATS[tensor.dtype], ITEM_BYTES[tensor.dtype]
    count = len(tensor.data) // size
    step = max(1, -(-count // MAX_VALUES))
    return tuple(struct.unpack_from(f"<{kind}", tensor.data, at * size)[0] for at in range(0, count, step))


def _differs(expected: Sequence[float], found: Sequence[float], tolerance: float) -> str | None:
    """``found, allowed`` of the first value that is too far off."""
    allowed = tolerance * max(map(abs, expected), default=0.0) + 1e-6
    for wanted, got in zip(expected, found, strict=True):
        if not abs(wanted - got) <= allowed:  # also for what is no number
            return f"{got:g}, allowed {wanted:g} within {allowed:g}"
    return None
