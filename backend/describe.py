"""What a dataset is like: counts, ranges, and what would make a result of it worth little. No torch.

Walks the samples once, in blocks; keeps a hash of eight bytes for each sample to find duplicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from blake3 import blake3

from backend.facts import DataNotes
from backend.formats.tensors import Array
from backend.readers.source import DataSource, Recipe

MAX_INPUTS = 200
"""Inputs that are described one by one; of more, only the whole range is told."""
IMBALANCE = 10
PARTS = 3
"""Of a split: to train on, to validate and to test."""


@dataclass(frozen=True, slots=True)
class Range:
    """Of one input over all samples, or of everything."""

    name: str
    minimum: float
    maximum: float
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class ClassCount:
    number: int
    name: str
    samples: int


@dataclass(frozen=True, slots=True)
class Description:
    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    target_shape: tuple[int, ...]
    classes: tuple[ClassCount, ...]
    """Empty for a target of numbers."""
    targets: tuple[Range, ...]
    """Of each column to predict, or of all targets together where they have no names; empty for classes."""
    values: Range
    inputs: tuple[Range, ...]
    missing: Mapping[str, int]
    """Samples that lack a value, by column of a table, whose other values are left out here too; else by
    input, or under "any input" where there are many. A number that is none lacks too."""
    duplicates: int
    """Samples equal to an earlier one."""
    contradictions: int
    """Samples equal to an earlier one, with another target."""
    leaks: Mapping[str, int] | None
    """Samples of validation and test that are among the training samples too; None without a split."""
    warnings: tuple[str, ...]


Parts = Mapping[str, Array]
"""Indices of the samples of train, validation and test."""


def describe(source: DataSource, parts: Parts | None = None) -> Description:
    """``parts`` is the split to look for leaks in. Raises DatasetError."""
    recipe = source.recipe
    # Names are somebody's word: as many as there are columns, or they name nothing.
    columns = recipe.y_shape[-1] if recipe.y_shape else 1
    predicted = recipe.notes.target_names
    predicted = predicted if len(predicted) == columns <= MAX_INPUTS else ()
    walk = _Walk(math.prod(recipe.x_shape), recipe.y_dtype.kind == "i", max(1, len(predicted)))
    for x, y in source.blocks():
        walk.take(x, y)
    keys, targets = np.concatenate(walk.keys), np.concatenate(walk.targets)
    first = _first_of_equal(keys)
    repeated = first != np.arange(len(keys))
    contradictions = int((repeated & (targets != targets[first])).sum())
    found = Description(
        samples=recipe.samples,
        sample_shape=recipe.x_shape,
        dtype=recipe.x_dtype.name,
        target_shape=recipe.y_shape,
        classes=() if _is_text_to_continue(recipe) else _classes(walk.classes, recipe.notes),
        targets=()
        if walk.is_class
        else walk.target.each(tuple(f"target {name}" for name in predicted) or ("target",)),
        values=walk.inputs.total("all"),
        inputs=walk.inputs.each(recipe.notes.input_names) if _is_table(recipe) else (),
        missing=dict(getattr(source, "missing", ())) or walk.lacking(recipe.notes.input_names),
        duplicates=int(repeated.sum()),
        contradictions=contradictions,
        leaks=None if parts is None else _leaks(keys, parts),
        warnings=(),
    )
    return replace(found, warnings=(*getattr(source, "remarks", ()), *_warnings(found)))


def _is_text_to_continue(recipe: Recipe) -> bool:
    """Its targets are tokens, which are no classes that anybody would count."""
    return bool(recipe.notes.tokenizer and recipe.y_shape)


def _is_table(recipe: Recipe) -> bool:
    """Each input means something of its own, other than pixels and tokens."""
    return len(recipe.x_shape) == 1 and recipe.x_dtype.kind == "f"


class _Moments:
    """Minimum, maximum, sum and sum of squares of columns, in float64, over what is a number in them."""

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.counts = np.zeros(columns, np.int64)
        self.low = np.full(columns, np.inf)
        self.high = np.full(columns, -np.inf)
        self.sums = np.zeros(columns)
        self.squares = np.zeros(columns)

    def take(self, rows: Array) -> None:
        wide = rows.reshape(len(rows), -1).astype(np.float64)
        known = np.isfinite(wide)
        self.rows += len(rows)
        self.counts += known.sum(axis=0)
        self.low = np.minimum(self.low, wide.min(axis=0, where=known, initial=np.inf))
        self.high = np.maximum(self.high, wide.max(axis=0, where=known, initial=-np.inf))
        self.sums += wide.sum(axis=0, where=known)
        self.squares += np.square(wide).sum(axis=0, where=known)

    def each(self, names: tuple[str, ...]) -> tuple[Range, ...]:
        if len(self.sums) > MAX_INPUTS:
            return ()
        return tuple(self._range(_name_of(at, names), slice(at, at + 1)) for at in range(len(self.sums)))

    def total(self, name: str) -> Range:
        return self._range(name, slice(None))

    def _range(self, name: str, chosen: slice) -> Range:
        count = int(self.counts[chosen].sum())
        if not count:
            return Range(name, math.nan, math.nan, math.nan, math.nan)
        mean = float(self.sums[chosen].sum()) / count
        variance = float(self.squares[chosen].sum()) / count - mean * mean
        low, high = float(self.low[chosen].min()), float(self.high[chosen].max())
        return Range(name, low, high, mean, math.sqrt(max(0.0, variance)))


def _name_of(number: int, names: tuple[str, ...]) -> str:
    return names[number] if number < len(names) else f"input {number + 1}"


@dataclass(slots=True)
class _Walk:
    values: int
    is_class: bool
    predicted: int
    """Columns that are predicted and told of one by one."""
    inputs: _Moments = field(init=False)
    target: _Moments = field(init=False)
    classes: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: list[Array] = field(default_factory=list)
    targets: list[Array] = field(default_factory=list)
    incomplete: int = 0
    """Samples in which a number is none."""

    def __post_init__(self) -> None:
        self.inputs, self.target = _Moments(self.values), _Moments(self.predicted)

    def take(self, x: Array, y: Array) -> None:
        self.inputs.take(x)
        if x.dtype.kind == "f":
            self.incomplete += int((~np.isfinite(x.reshape(len(x), -1)).all(axis=1)).sum())
        self.keys.append(_hashes(x))
        if self.is_class:
            self.targets.append(np.asarray(y, np.uint64) if y.ndim == 1 else _hashes(y))
            self.classes = _added(self.classes, np.bincount(np.asarray(y, np.int64).reshape(-1)))
        else:
            self.targets.append(_hashes(y))
            self.target.take(y.reshape(-1, self.predicted))

    def lacking(self, names: tuple[str, ...]) -> dict[str, int]:
        """Samples without a number, by input where there are few."""
        inputs = self.inputs
        if not self.incomplete or len(inputs.counts) > MAX_INPUTS:
            return {"any input": self.incomplete} if self.incomplete else {}
        lacks = (inputs.rows - inputs.counts).tolist()
        return {_name_of(at, names): count for at, count in enumerate(lacks) if count}


def _hashes(rows: Array) -> Array:
    """64 bits of each row's BLAKE3."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    digests = b"".join(blake3(row.tobytes()).digest(length=8) for row in flat)
    return np.frombuffer(digests, np.uint64)


def _added(one: Array, other: Array) -> Array:
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def _first_of_equal(keys: Array) -> Array:
    """For each key, where the same one stands first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found: Array = first[inverse]
    return found


def _classes(counts: Array, notes: DataNotes) -> tuple[ClassCount, ...]:
    names = notes.class_names
    return tuple(
        ClassCount(number, names[number] if number < len(names) else str(number), int(count))
        for number, count in enumerate(counts)
    )


def _leaks(keys: Array, parts: Parts) -> Mapping[str, int]:
    known = keys[parts["train"]]
    return {name: int(np.isin(keys[parts[name]], known).sum()) for name in ("validation", "test")}


def _counted(names: list[str], one: str, several: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else several}"


def _warnings(found: Description) -> Iterable[str]:
    constant = [given.name for given in found.inputs if given.minimum == given.maximum]
    if constant:
        yield f"{_counted(constant, 'input never changes', 'inputs never change')}: {', '.join(constant[:5])}"
    empty = [entry.name for entry in found.classes if not entry.samples]
    if empty:
        yield f"{_counted(empty, 'class has no sample', 'classes have no sample')}: {', '.join(empty[:5])}"
    rare = [entry.name for entry in found.classes if 0 < entry.samples < PARTS]
    if rare:
        yield (
            f"{_counted(rare, 'class has', 'classes have')} too few samples to be in each of train, "
            f"validation and test: {', '.join(rare[:5])}"
        )
    counts = [entry.samples for entry in found.classes if entry.samples]
    if len(counts) == 1:
        yield "all samples are of one class: there is nothing to tell apart"
    if len(counts) > 1 and max(counts) > IMBALANCE * min(counts):
        yield f"classes are uneven: from {min(counts)} to {max(counts)} samples; consider class weights"
    if found.contradictions:
        yield f"{found.contradictions} samples equal another one that has a different target"
    for part, count in (found.leaks or {}).items():
        if count:
            yield f"{count} samples of {part} are training samples too: its score flatters"
