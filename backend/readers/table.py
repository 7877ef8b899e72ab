"""Tables: CSV and Parquet. Walked twice, once to learn its columns and once to write its rows.

Columns of numbers become one input each, columns of few different texts one input for each text
(one-hot). What to do with what is missing, the user says.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import DatasetError
from backend.facts import MAX_CLASSES, MISSING_TEXT, DataNotes, is_no_number
from backend.formats.tensors import Array
from backend.readers.source import Missing, ReadOptions, Recipe, Task
from backend.readers.table_file import (
    Table,
    mask_of,
    matches,
    missing_in,
    number_of,
    numbers_of,
    texts_of,
)

__all__ = ["TableSource", "TargetRows", "matches", "open", "open_targets", "usual_target"]
TARGET_NAMES = ("target", "label", "class", "y")
MAX_CATEGORIES = 64
"""Different texts of one input column; more make no useful input."""
MAX_AUTO_CLASSES = 100
"""Different whole numbers that are taken for classes unless the user says otherwise."""
MAX_CLASS_TEXTS = 10_000
_MOST = float(np.finfo(np.float32).max)


@dataclass(slots=True)
class Column:
    """What the first walk learns of one column."""

    name: str
    rows: int = 0
    missing: int = 0
    no_numbers: int = 0
    """Texts such as "-" and "None": missing among numbers, texts like others among texts."""
    is_number: bool = True
    is_whole: bool = True
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    texts: set[str] = field(default_factory=set)
    """Different values as texts, while there are not too many."""
    first_text: str = ""
    """The first value that is no number."""

    @property
    def mean(self) -> float:
        known = self.rows - self.missing
        return self.total / known if known else 0.0

    def settle(self) -> None:
        """After the walk, when it is known whether all its other values are numbers."""
        if self.is_number and self.rows == self.missing + self.no_numbers:
            self.is_number = not self.no_numbers
            self.first_text = min(self.texts, default="")
        if self.is_number:
            self.missing += self.no_numbers

    def lacks(self, values: Any) -> Array:
        """Which of some rows lack a value here."""
        return np.isnan(numbers_of(values)) if self.is_number else missing_in(values)


def open(path: Path, options: ReadOptions) -> TableSource:
    """Raises DatasetError."""
    rows, columns = _survey(path, options)
    filled = options.missing is Missing.FILL
    left = [column for name, column in columns.items() if name not in rows.target.columns]
    if not left:
        raise DatasetError(f"{path.name}: no column is left for the input")
    return TableSource(rows, tuple(_Input.of(column, filled=filled) for column in left), filled)


def open_targets(path: Path, options: ReadOptions) -> TargetRows:
    """The targets alone, for inputs that another reader makes. Raises DatasetError."""
    return _survey(path, options)[0]


def _survey(path: Path, options: ReadOptions) -> tuple[TargetRows, dict[str, Column]]:
    """The first walk: every column that is not left out."""
    table = Table(path)
    _check_names(table.names, options)
    columns = {name: Column(name) for name in table.names if name not in options.drop}
    targets = options.target or (usual_target(list(columns)),)
    for batch in table.batches(list(columns)):
        for name, column in columns.items():
            _learn(column, batch.column(name))
    for column in columns.values():
        column.settle()
    rows = columns[targets[0]].rows
    _check_missing(columns, targets, options.missing)
    lacking = [column for column in columns.values() if column.missing]
    checked = tuple(lacking) if options.missing is Missing.DROP else ()
    samples = _count_complete(table, checked) if checked else rows
    if not samples:
        raise DatasetError(f"{path.name}: {rows} rows, none of them complete")
    target = _Target.of([columns[name] for name in targets], options.task)
    missing = tuple((column.name, column.missing) for column in lacking)
    return TargetRows(table, target, checked, samples, missing, tuple(_remarks(columns.values()))), columns


@dataclass(frozen=True, slots=True)
class _Input:
    """One column as inputs: a number, or one 0/1 for each of ``texts``."""

    column: str
    fill: float
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: Column, *, filled: bool) -> _Input:
        if column.is_number:
            _check_range(column)
            return cls(column.name, column.mean)
        if len(column.texts) > MAX_CATEGORIES:
            raise _too_many_texts(column)
        is_new = filled and column.missing and MISSING_TEXT not in column.texts
        texts = sorted(column.texts) + ([MISSING_TEXT] if is_new else [])
        return cls(column.name, 0.0, tuple(texts))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.column}={text}" for text in self.texts) if self.texts else (self.column,)

    def values(self, column: Any) -> Array:
        """float32 of (rows, inputs)."""
        if not self.texts:
            numbers = numbers_of(column)
            return np.where(np.isnan(numbers), self.fill, numbers).astype(np.float32)[:, None]
        codes = {text: code for code, text in enumerate(self.texts)}
        found = [codes[text if text is not None else MISSING_TEXT] for text in texts_of(column)]
        hot: Array = np.eye(len(self.texts), dtype=np.float32)[found]
        return hot


@dataclass(frozen=True, slots=True)
class _Target:
    """What is to be predicted: a class by name, a class by number, or numbers."""

    columns: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    """Of the only column of texts."""
    is_class: bool = False
    texts: tuple[tuple[str, ...], ...] = ()
    """Of each of several columns; empty for one of numbers."""

    @classmethod
    def of(cls, columns: list[Column], task: Task) -> _Target:
        names = tuple(column.name for column in columns)
        column = columns[0]
        for each in columns:
            _check_range(each)
            if not each.is_number and len(each.texts) > MAX_CLASS_TEXTS:
                raise DatasetError(f"target {each.name!r} holds over {MAX_CLASS_TEXTS} different texts")
        if len(columns) > 1 and task is not Task.REGRESSION:
            texts = tuple(() if each.is_number else tuple(sorted(each.texts)) for each in columns)
            named = [each for each in texts if each]
            return cls(names, named[0] if len(named) == 1 else (), texts=texts)
        if task is Task.REGRESSION:
            words = next((column for column in columns if not column.is_number), None)
            if words is not None:
                raise DatasetError(f"target {words.name!r} holds {words.first_text[:60]!r}, expected numbers")
            return cls(names)
        if not column.is_number:
            return cls(names, tuple(sorted(column.texts)), True)
        whole = column.is_whole and column.low >= 0 and column.high < MAX_CLASSES
        if task is Task.CLASSIFICATION and not whole:
            raise DatasetError(
                f"target {column.name!r} goes from {column.low:g} to {column.high:g}, classes are whole "
                f"numbers from 0 to {MAX_CLASSES - 1} or texts"
            )
        return cls(names, (), whole and (task is Task.CLASSIFICATION or column.high < MAX_AUTO_CLASSES))

    @property
    def shape(self) -> tuple[int, ...]:
        return () if len(self.columns) == 1 else (len(self.columns),)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64 if self.is_class else np.float32)

    def values(self, batch: Any) -> Array:
        if self.is_class and self.class_names:
            return _codes(batch.column(self.columns[0]), self.class_names)
        texts = self.texts or ((),) * len(self.columns)
        found = [
            _codes(batch.column(name), known) if known else numbers_of(batch.column(name))
            for name, known in zip(self.columns, texts, strict=True)
        ]
        numbers = np.stack(found, axis=-1)
        if len(self.columns) == 1:
            numbers = numbers[:, 0]
        return numbers.astype(np.int64) if self.is_class else numbers.astype(np.float32)


def _codes(column: Any, texts: tuple[str, ...]) -> Array:
    """The place of each value among ``texts``, as int64."""
    codes = {text: code for code, text in enumerate(texts)}
    return np.array([codes[str(text)] for text in texts_of(column)], np.int64)


@dataclass(frozen=True, slots=True)
class TargetRows:
    """The rows of a table that are used, with their targets."""

    table: Table
    target: _Target
    complete_in: tuple[Column, ...]
    """Columns in which a row must have a value to be used."""
    samples: int
    missing: tuple[tuple[str, int], ...]
    """Columns that lack values, and in how many rows."""
    remarks: tuple[str, ...]
    """What was taken in one of two ways that it may have been meant."""

    def batches(self, columns: tuple[str, ...]) -> Iterator[tuple[Any, Array]]:
        """Record batches of these columns, and the targets of their rows."""
        wanted = dict.fromkeys((*columns, *self.target.columns, *(each.name for each in self.complete_in)))
        for batch in self.table.batches(list(wanted)):
            if self.complete_in:
                batch = batch.filter(mask_of(_complete(batch, self.complete_in)))
            yield batch, self.target.values(batch)


@dataclass(frozen=True, slots=True)
class TableSource:
    rows: TargetRows
    inputs: tuple[_Input, ...]
    is_filled: bool

    @property
    def missing(self) -> tuple[tuple[str, int], ...]:
        return self.rows.missing

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.rows.remarks

    @property
    def recipe(self) -> Recipe:
        names = tuple(name for given in self.inputs for name in given.names)
        target = self.rows.target
        fills = tuple(given.fill for given in self.inputs for _ in given.names) if self.is_filled else ()
        notes = DataNotes(
            class_names=target.class_names,
            input_names=names,
            kind="table",
            target_names=() if target.is_class else target.columns,
            input_fills=fills,
        )
        return Recipe(
            self.rows.samples, (len(names),), np.dtype(np.float32), target.shape, target.dtype, notes
        )

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        for batch, y in self.rows.batches(tuple(given.column for given in self.inputs)):
            x = [given.values(batch.column(given.column)) for given in self.inputs]
            yield np.concatenate(x, axis=1), y


def _complete(batch: Any, columns: tuple[Column, ...]) -> Array:
    """Which rows have a value in all these columns."""
    complete = np.ones(batch.num_rows, bool)
    for column in columns:
        complete &= ~column.lacks(batch.column(column.name))
    return complete


def _count_complete(table: Table, columns: tuple[Column, ...]) -> int:
    batches = table.batches([column.name for column in columns])
    return sum(int(_complete(batch, columns).sum()) for batch in batches)


def _learn(column: Column, values: Any) -> None:
    missing = missing_in(values)
    column.rows += len(missing)
    column.missing += int(missing.sum())
    numbers = numbers_of(values) if column.is_number else None
    if numbers is not None:
        strange = np.isnan(numbers) & ~missing
        if strange.any():
            told = strange & np.array([is_no_number(text or "") for text in texts_of(values)], bool)
            column.no_numbers += int(told.sum())
            strange &= ~told
        if strange.any():
            column.is_number = False
            column.first_text = str(texts_of(values)[int(np.argmax(strange))])
        known = numbers[~np.isnan(numbers)]
        if len(known) and column.is_number:
            column.low = min(column.low, float(known.min()))
            column.high = max(column.high, float(known.max()))
            column.total += float(known.sum())
            column.is_whole = column.is_whole and bool(np.array_equal(known, np.floor(known)))
    if len(column.texts) <= MAX_CLASS_TEXTS:
        import pyarrow.compute

        column.texts |= {text for text in texts_of(pyarrow.compute.unique(values)) if text is not None}


def _remarks(columns: Iterable[Column]) -> Iterator[str]:
    for column in columns:
        found = [] if column.is_number else sorted(filter(is_no_number, column.texts))
        if found:
            yield (
                f"column {column.name!r} holds {', '.join(map(repr, found))}, "
                "taken for text like the others; where a value is missing, leave the cell empty"
            )


def _too_many_texts(column: Column) -> DatasetError:
    """Of an input; most often a number here and there is none, or is written in another way."""
    leave_out = f"leave it out with --drop {shlex.quote(column.name)}"
    strange = sorted(text for text in column.texts if math.isnan(number_of(text)))
    shown = f"such as {column.first_text[:60]!r}"
    if 2 * len(strange) < len(column.texts):
        count = f"{len(strange)} different texts" if len(strange) > 1 else "one text"
        what, remedy = f"numbers and {count}", f"empty those cells (see --missing), or {leave_out}"
    elif all(not math.isnan(number_of(text.replace(",", "."))) for text in strange):
        what, remedy = "numbers with a decimal comma", f"write them with a point, or {leave_out}"
    else:
        what, remedy = f"over {MAX_CATEGORIES} different texts", f"{leave_out}, or read it with --text"
    return DatasetError(f"column {column.name!r} holds {what} {shown}: {remedy}")


def _check_range(column: Column) -> None:
    """Raises DatasetError for numbers that would become infinite."""
    if not column.is_number or column.rows == column.missing:
        return
    for value in (column.low, column.high):
        if abs(value) > _MOST:
            raise DatasetError(f"column {column.name!r} holds {value:g}, numbers go up to {_MOST:g}")


def _check_names(names: list[str], options: ReadOptions) -> None:
    both = next((name for name in options.target if name in options.drop), None)
    if both is not None:
        raise DatasetError(f"column {both!r} is to be predicted and to be left out")
    unknown = [name for name in (*options.target, *options.drop) if name not in names]
    if unknown:
        raise DatasetError(f"no column {unknown[0]!r}, there are {', '.join(names)[:400]}")


def usual_target(names: list[str]) -> str:
    return next((name for name in names if name.lower() in TARGET_NAMES), names[-1])


def _check_missing(columns: dict[str, Column], targets: tuple[str, ...], missing: Missing) -> None:
    for name in targets:
        if columns[name].missing and missing is Missing.FILL:
            raise DatasetError(
                f"target {name!r} is missing in {columns[name].missing} rows and cannot be filled: "
                "say --missing drop"
            )
    found = [f"{column.name} ({column.missing})" for column in columns.values() if column.missing]
    if found and missing is Missing.REFUSE:
        raise DatasetError(
            f"values are missing in {len(found)} columns: {', '.join(found)[:400]}; "
            "say --missing drop or --missing fill, or leave columns out with --drop"
        )
