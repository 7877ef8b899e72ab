"""Time series: a table whose rows follow each other in time, cut into windows that predict what comes next.

A sample is (series, window), one row for each column of numbers; its target are the next ``horizon`` values
of the columns to predict: () for one value, (horizon), or (columns, horizon). Windows overlap, so that
parts drawn at random would share rows: the graph's DataSplit should be ``in_order``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.formats.tensors import Array
from backend.readers.source import BLOCK_BYTES, ReadOptions, Recipe
from backend.readers.table import usual_target
from backend.readers.table_file import Table, numbers_of

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
    values = _values(path, names)
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


def _values(path: Path, names: list[str]) -> Array:
    """All rows. Raises DatasetError for what is no number, naming row and column."""
    found: list[Array] = []
    rows = 0
    for batch in Table(path, least=1).batches(names):
        columns = [numbers_of(batch.column(name)) for name in names]
        for name, column in zip(names, columns, strict=True):
            if not np.isfinite(column).all():
                row = rows + int(np.argmin(np.isfinite(column))) + 1
                raise DatasetError(
                    f"column {name!r}, row {row}: no finite number; leave a column of dates or texts out "
                    f"with --drop {name}"
                )
        found.append(np.stack(columns, axis=1).astype(np.float32))
        rows += batch.num_rows
        if rows * len(names) > MAX_VALUES:
            raise DatasetError(f"{path.name} holds over {MAX_VALUES} values, the limit of a time series")
    return np.concatenate(found) if found else np.zeros((0, len(names)), np.float32)
