"""What every reader gives: the form of a dataset, and its samples in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.facts import DataNotes
from backend.formats.tensors import Array

BLOCK_BYTES = 8 << 20


class Missing(Enum):
    """What to do with a row in which a value is missing."""

    REFUSE = "refuse"
    DROP = "drop"
    FILL = "fill"
    """By the column's mean; a missing text becomes a category of its own."""


class Task(Enum):
    AUTO = "auto"
    """Texts, and few whole numbers from 0 up, are classes; anything else is a number to predict."""
    CLASSIFICATION = "classification"
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a file alone does not say. Each reader looks at the part that concerns it."""

    target: tuple[str, ...] = ()
    """Columns to predict; empty: the last one, or the one called label, target, class or y."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    missing: Missing = Missing.REFUSE
    task: Task = Task.AUTO
    labels: Path | None = None
    """The file of labels where they lie in one of their own (.npy, IDX)."""
    image_size: tuple[int, int] | None = None
    """Height and width that every image is brought to; None: all must be alike."""
    channels: int | None = None
    """1 for grey, 3 for colour; None: as most images are."""
    text: str = ""
    """The column of text to tokenize."""
    length: int = 128
    """Tokens in a sample of text."""
    vocabulary: int = 4096
    """Tokens that a tokenizer trained on the text may have."""
    tokenizer: Path | None = None
    """A tokenizer.json to use instead of training one."""
    window: int = 0
    """Above 0: a table is a time series, and a sample is so many rows of it."""
    horizon: int = 1
    """How many rows ahead a window predicts."""
    stride: int = 1
    """Rows from the start of a window to that of the next."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The form of a dataset that is about to be written. Shapes are of one sample, one target."""

    samples: int
    x_shape: tuple[int, ...]
    x_dtype: np.dtype[np.generic]
    y_shape: tuple[int, ...]
    y_dtype: np.dtype[np.generic]
    notes: DataNotes = DataNotes()  # noqa: RUF009 - frozen


class DataSource(Protocol):
    """A source whose form is known. ``blocks`` may be walked more than once."""

    @property
    def recipe(self) -> Recipe: ...

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """Samples and targets, ``recipe.samples`` of them in all. Raises DatasetError."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Samples that are in memory, or mapped into it."""

    x: Array
    y: Array
    recipe: Recipe

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        step = samples_in_block(self.recipe)
        for begin in range(0, self.recipe.samples, step):
            yield self.x[begin : begin + step], self.y[begin : begin + step]


def samples_in_block(recipe: Recipe) -> int:
    size = int(np.prod(recipe.x_shape, dtype=np.int64)) * recipe.x_dtype.itemsize
    return max(1, BLOCK_BYTES // max(1, size))
