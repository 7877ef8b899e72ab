"""Time series: a table whose rows follow each other in time, cut into windows that predict what comes next.

A sample is (series, window), one row for each column of numbers; its target are the next ``horizon`` values
of the columns to predict: () for one value, (horizon), or (columns, horizon). Windows overlap, so that
parts drawn at random would share rows: the graph's DataSplit should be ``in_order``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataNotes, is_no_number
from backend.formats.tensors import Array
from backend.readers.source import BLOCK_BYTES, Missing, ReadOptions, Recipe
from backend.readers.table import usual_target
from backend.readers.table_file import Table, missing_in, numbers_of, texts_of

MAX_VALUES = 1 << 28
"""Of a table, which is held in memory."""


@dataclass(frozen=True, slots=True)
class Windows:
    values: Array
    """(rows, series) float32, in time."""
    targets: tuple[int, ...]
    """Columns to predict."""
    window: int
    horizon: int
    stride: int
    recipe: Recipe

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        # (places, series, window) and (places, targets, horizon), without a copy
        past = np.lib.stride_tricks.sliding_window_view(self.values, self.window, axis=0)
        ahead = self.values[self.window :, list(self.targets)]
        future = np.lib.stride_tricks.sliding_window_view(ahead, self.horizon, axis=0)
        size = max(1, BLOCK_BYTES // (4 * self.values.shape[1] * self.window))
        for begin in range(0, self.recipe.samples, size):
            places = self.stride * np.arange(begin, min(self.recipe.samples, begin + size))
            yield past[places], future[places].reshape(len(places), *self.recipe.y_shape)


def open(path: Path, options: ReadOptions) -> Windows:
    """Raises DatasetError."""
    if min(options.window, options.horizon, options.stride) < 1:
        raise DatasetError(
            f"window {options.window}, horizon {options.horizon}, stride {options.stride}: at least 1"
        )
    names = [name for name in Table(path, least=1).names if name not in options.drop]
    targets = options.target or ((usual_target(names),) if names else ())
    unknown = [name for name in targets if name not in names]
    if unknown or not names:
        raise DatasetError(f"no column {(unknown or ['to read'])[0]!r}, there are {', '.join(names)[:400]}")
    values = _values(path, names, filled=options.missing is Missing.FILL)
    count = (len(values) - options.window - options.horizon) // options.stride + 1
    if count < 1:
        needed = options.window + options.horizon
        raise DatasetError(f"{path.name}: {len(values)} rows, one window and its horizon need {needed}")
    shape = tuple(extent for extent in (len(targets), options.horizon) if extent > 1)
    predicted = tuple(targets) if shape == (len(targets),) or not shape else ()
    notes = DataNotes(input_names=tuple(names), kind="series", target_names=predicted)
    number = np.dtype(np.float32)
    recipe = Recipe(count, (len(names), options.window), number, shape, number, notes)
    places = tuple(names.index(name) for name in targets)
    return Windows(values, places, options.window, options.horizon, options.stride, recipe)


def _values(path: Path, names: list[str], *, filled: bool) -> Array:
    """All rows. Raises DatasetError for what is no number, naming row and column.

    Filled: where a value is missing stands the one before, since none after it is known at that time.
    """
    found: list[Array] = []
    rows = 0
    before = dict.fromkeys(names, math.nan)
    for batch in Table(path, least=1).batches(names):
        columns = []
        for name in names:
            column, missing = _numbers(batch.column(name))
            if filled:
                column = _filled(column, missing, before[name])
            if not np.isfinite(column).all():
                at = int(np.argmin(np.isfinite(column)))
                raise _no_number(name, rows + at + 1, is_missing=bool(missing[at]), filled=filled)
            before[name] = column[-1] if len(column) else before[name]
            columns.append(column)
        found.append(np.stack(columns, axis=1).astype(np.float32))
        rows += batch.num_rows
        if rows * len(names) > MAX_VALUES:
            raise DatasetError(f"{path.name} holds over {MAX_VALUES} values, the limit of a time series")
    return np.concatenate(found) if found else np.zeros((0, len(names)), np.float32)


def _numbers(values: Any) -> tuple[Array, Array]:
    """Numbers, NaN where there is none, and where one is missing."""
    numbers, missing = numbers_of(values), missing_in(values)
    if not np.array_equal(np.isnan(numbers), missing):
        missing = np.array([text is None or is_no_number(text) for text in texts_of(values)], bool)
    return numbers, missing


def _filled(column: Array, missing: Array, before: float) -> Array:
    known = np.where(missing, -1, np.arange(len(column)))
    newest = np.maximum.accumulate(known)
    repeated: Array = np.where(newest < 0, before, column[newest])
    return repeated


def _no_number(name: str, row: int, *, is_missing: bool, filled: bool) -> DatasetError:
    leave_out = f"leave the column out with --drop {shlex.quote(name)}"
    if not is_missing:
        return DatasetError(
            f"column {name!r}, row {row}: no finite number; {leave_out} if it holds dates or texts"
        )
    remedy = (
        "no value before it could be repeated" if filled else "repeat the value before with --missing fill"
    )
    return DatasetError(f"column {name!r}, row {row}: no value; {remedy}, or {leave_out}")
