"""Questions to a deployed model, one for each paid period, and what their answers have to be. Pure.

The Engine asks its own copy first, several questions at a time and each for one period: what a peer was asked
before tells it nothing of the next. An output is compared only where the copy gave the same for almost the
same question: what is random, or jumps, is only expected to have the same form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from blake3 import blake3
from msgspec import Meta
from msgspec.structs import replace

from p2p.codec import Part
from p2p.identifiers import Count, Label, Text
from p2p.protocols.inference import ITEM_BYTES, Dtype, Shape, TensorGiven, TensorInfo

QUESTIONS = 16
"""Asked at a time; new ones once half of them are used."""
MAX_BYTES = 4 << 20
"""Of all inputs: a model that takes more is not tried."""
MAX_VALUES = 256
"""Of all outputs together that are compared."""
MAX_TOKENS = 16
TOLERANCE = 0.1
"""Of an output's largest value: other devices and quantized arithmetic differ by less. Of whole numbers,
which are mostly choices: how many of them may be others."""
NUDGE = 1.01
"""What every other float of almost the same question is multiplied by: more than TF32 is off."""
ITEMS = 16
"""Of a dimension of any size that is not the batch."""
SPANS = (1000, 2)
"""Below which whole numbers are drawn: ids of most vocabularies, and what every mask takes."""
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
_SMALL = {"int8": 128, "uint8": 256, "bool": 2}


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


class Question(Part, frozen=True):
    """What the Engine's own copy of the model gave for the question of ``seed``."""

    seed: Count
    outputs: Annotated[tuple[Expected, ...], Meta(max_length=64)] = ()
    tokens: Annotated[
        tuple[Annotated[tuple[Text, ...], Meta(max_length=32)], ...], Meta(max_length=MAX_TOKENS)
    ] = ()
    """Of a text that is completed: what may come at each place, the most likely first."""


class Trial(msgspec.Struct, frozen=True):
    """Questions for the periods from ``first`` on. What an earlier version kept is made anew."""

    first: Count = 0
    inputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)] = ()
    """As they are asked: no dimension is left open."""
    span: Count = SPANS[-1]
    questions: Annotated[tuple[Question, ...], Meta(max_length=QUESTIONS)] = ()
    untried: Text = ""
    """Why there is no answer of its own, if so: then any answer counts, for so many periods."""
    takes_all: bool = False
    """An untried one whose file says what it takes, but for the batch: to refuse that is no answer."""

    @property
    def end(self) -> int:
        """The first period that it has no question for."""
        return self.first + (QUESTIONS if self.untried else len(self.questions))

    def covers(self, period: int) -> bool:
        return self.first <= period < self.end

    def question_for(self, period: int) -> Question | None:
        at = period - self.first
        return self.questions[at] if 0 <= at < len(self.questions) else None

    def is_due(self, period: int, periods: int) -> bool:
        """Whether another one is needed, or is soon."""
        return self.end < periods and self.end - period <= (self.end - self.first) // 2


def forms(inputs: Sequence[TensorInfo]) -> Iterator[tuple[tuple[TensorInfo, ...], int]]:
    """Ways to ask a model of which only the shapes are known, the most telling first; each with its span."""
    tried = set()
    for items in (ITEMS, 1):
        for span in SPANS:
            settled = tuple(replace(info, shape=_settled_shape(info.shape, items)) for info in inputs)
            spans = span if any(info.dtype not in _FLOATS for info in inputs) else SPANS[-1]
            if (settled, spans) not in tried:
                tried.add((settled, spans))
                yield settled, spans


def _settled_shape(shape: Sequence[int], items: int) -> tuple[int, ...]:
    rest = (items if length < 1 else length for length in shape[1:])
    return (*(max(length, 1) for length in shape[:1]), *rest)


def question(
    inputs: Iterable[TensorInfo],
    seed: int,
    nudge: float = 1.0,
    span: int = SPANS[-1],
    limit: int = MAX_BYTES,
) -> tuple[tuple[TensorGiven, bytes], ...] | None:
    """One item for the model: floats from 0 to 1, whole numbers below ``span``. None for one that takes more
    than ``limit`` bytes."""
    asked, size = [], 0
    for info in inputs:
        shape = tuple(max(length, 1) for length in info.shape)
        count, bytes_each = math.prod(shape), ITEM_BYTES[info.dtype]
        size += count * bytes_each
        if size > limit:
            return None
        pattern = _pattern(info, seed, nudge, span)
        data = struct.pack(f"<{_PATTERN}{_FORMATS[info.dtype]}", *pattern) * -(-count // _PATTERN)
        asked.append((TensorGiven(info.name, info.dtype, shape), data[: count * bytes_each]))
    return tuple(asked)


def _pattern(info: TensorInfo, seed: int, nudge: float, span: int) -> Iterator[float]:
    noise = blake3(f"{seed} {info.name}".encode()).digest(length=2 * _PATTERN)
    drawn = struct.unpack(f"<{_PATTERN}H", noise)
    if info.dtype in _FLOATS:
        return (value / 65536 * (nudge if value & 1 else 1.0) for value in drawn)
    return (value % min(span, _SMALL.get(info.dtype, span)) for value in drawn)


def expected_from(first: Mapping[str, TensorLike], nudged: Mapping[str, TensorLike]) -> tuple[Expected, ...]:
    """What a model gave for a question, and for almost the same one."""
    most = _most_of(len(first))
    return tuple(_expected(name, tensor, nudged.get(name), most) for name, tensor in first.items())


def _expected(name: str, tensor: TensorLike, nudged: TensorLike | None, most: int) -> Expected:
    dtype: Dtype = tensor.dtype  # type: ignore[assignment]
    if nudged is None or nudged.shape != tensor.shape:
        return Expected(name, dtype, None)
    found = Expected(name, dtype, tensor.shape, values_of(tensor, most))
    is_settled = (
        all(map(math.isfinite, found.values))
        and differs(found, values_of(nudged, most), TOLERANCE / 2) is None
    )
    return found if is_settled else replace(found, values=())


def _most_of(outputs: int) -> int:
    """Values of each that are compared."""
    return max(MAX_VALUES // max(outputs, 1), 1)


def are_settled(outputs: Iterable[Expected]) -> bool:
    return all(expected.values for expected in outputs)


def fault(question: Question | None, answer: Mapping[str, TensorLike]) -> str | None:
    """Why a model that answers so is not the Engine's; None where it may be, or nothing is known of it."""
    if question is None:
        return None if answer else "answers without any output"
    names = sorted(expected.name for expected in question.outputs)
    if sorted(answer) != names:
        return f"answers {', '.join(sorted(answer)) or 'nothing'}, allowed {', '.join(names)}"
    for expected in question.outputs:
        found = answer[expected.name]
        if found.dtype != expected.dtype or expected.shape not in (None, found.shape):
            allowed = f"{expected.dtype} of {expected.shape}"
            return f"{expected.name} is {found.dtype} of {found.shape}, allowed {allowed}"
        values = values_of(found, _most_of(len(names))) if expected.values else ()
        reason = differs(expected, values, TOLERANCE)
        if reason is not None:
            return f"{expected.name} is {reason}"
    return None


def values_of(tensor: TensorLike, most: int) -> tuple[float, ...]:
    """Evenly from all of it."""
    kind, size = _FORMATS[tensor.dtype], ITEM_BYTES[tensor.dtype]
    count = len(tensor.data) // size
    step = max(1, -(-count // most))
    found = (struct.unpack_from(f"<{kind}", tensor.data, at * size)[0] for at in range(0, count, step))
    return tuple(map(float, found))


def differs(expected: Expected, found: Sequence[float], tolerance: float) -> str | None:
    """What was found, and what is allowed, where values are too far off. There are equally many."""
    pairs = tuple(zip(expected.values, found, strict=True))
    if expected.dtype not in _FLOATS:
        others, most = sum(got != wanted for wanted, got in pairs), int(tolerance * len(pairs))
        return f"another in {others} of {len(pairs)} values, allowed {most}" if others > most else None
    allowed = tolerance * max(map(abs, expected.values), default=0.0) + 1e-6
    for wanted, got in pairs:
        if not abs(wanted - got) <= allowed:  # also for what is no number
            return f"{got:g}, allowed {wanted:g} within {allowed:g}"
    return None
