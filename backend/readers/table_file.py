"""A table's rows, in batches of bounded size: CSV and Parquet through pyarrow."""

from __future__ import annotations

import csv
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import DatasetError
from backend.formats.tensors import Array

TABLES = frozenset({".csv", ".tsv", ".parquet"})
MAX_COLUMNS = 4096
BATCH_ROWS = 8_192
MAX_TEXT_BYTES = 1 << 30
"""Of one column in one batch: a few kilobytes of Parquet can say megabytes of text for every row."""
SNIFFED_BYTES = 65_536
NO_VALUES = ("?", "<NA>")
"""In a CSV, beside what pyarrow takes for missing: NA, NaN, null and the like."""


def matches(path: Path) -> bool:
    return path.suffix.lower() in TABLES and path.is_file()


class Table:
    """The rows of one file, in batches of text or numbers."""

    def __init__(self, path: Path, least: int = 2) -> None:
        """``least``: columns that it must have. Raises DatasetError."""
        self._path = path
        with self._errors():
            import pyarrow.dataset

            form = "parquet" if path.suffix.lower() == ".parquet" else _csv_format(path, least)
            self._dataset: Any = pyarrow.dataset.dataset(path, format=form)
        self.names: list[str] = self._dataset.schema.names
        _check_names(path, self.names, least)

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Record batches. Raises DatasetError."""
        self._refuse_nested(columns)
        with self._errors():
            for batch in self._dataset.scanner(
                columns=columns, batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1
            ).to_batches():
                _check_text(batch)
                yield batch

    def _refuse_nested(self, columns: list[str]) -> None:
        import pyarrow

        for field in map(self._dataset.schema.field, columns):
            if pyarrow.types.is_nested(field.type):
                raise DatasetError(
                    f"column {field.name!r} holds {field.type}, allowed are numbers and texts: leave it out "
                    f"with --drop {shlex.quote(field.name)}"
                )

    def _errors(self) -> Any:
        return _TableErrors(self._path)


class _TableErrors:
    """Turns what pyarrow raises into an error of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise DatasetError("tables are read with pyarrow, which is not installed") from error
        if kind is not None and (kind.__module__.startswith("pyarrow") or isinstance(error, OSError)):
            # pyarrow tells the whole way to what is wrong, and where the file lies.
            text = str(error).rsplit("Invalid: ", 1)[-1]
            raise DatasetError(f"{self._path.name} cannot be read: {text}") from error


def _check_text(batch: Any) -> None:
    """Raises DatasetError."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        size = _bytes_of(column)
        if size > MAX_TEXT_BYTES:
            raise DatasetError(
                f"column {name!r} holds {size} bytes in {len(column)} rows, limit {MAX_TEXT_BYTES}"
            )


def _bytes_of(column: Any) -> int:
    """Once each row has its own text: a dictionary holds it once for all of them."""
    import pyarrow
    import pyarrow.compute as compute

    types = pyarrow.types
    if not types.is_dictionary(column.type) or not any(
        is_text(column.type.value_type)
        for is_text in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    ):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary).cast(pyarrow.int64())
    return compute.sum(lengths.take(column.indices)).as_py() or 0


def mask_of(chosen: Array) -> Any:
    import pyarrow

    return pyarrow.array(chosen)


def missing_in(values: Any) -> Array:
    import pyarrow.compute

    found: Array = pyarrow.compute.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    return found


def numbers_of(values: Any) -> Array:
    """float64, NaN where a value is missing or no number."""
    import pyarrow

    if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
        return _parsed(values)
    try:
        cast = values.cast(pyarrow.float64())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return np.full(len(values), np.nan)
    numbers: Array = cast.to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers


def _parsed(values: Any) -> Array:
    import pyarrow

    try:
        fast: Array = values.cast(pyarrow.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    except pyarrow.ArrowInvalid:
        return np.array([number_of(text) for text in _listed(values)], np.float64)
    return fast


def number_of(text: str | None) -> float:
    """NaN for what is none."""
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def texts_of(values: Any) -> list[str | None]:
    return [None if value is None or value != value else str(value) for value in _listed(values)]


def _listed(values: Any) -> list[Any]:
    """Raises DatasetError for text that is none: a Parquet file may hold any bytes as text."""
    try:
        found: list[Any] = values.to_pylist()
    except UnicodeDecodeError as error:
        raise DatasetError(f"a text is not UTF-8: {error}") from error
    return found


def _csv_format(path: Path, least: int) -> Any:
    """Every column as text: a type guessed from the first rows would fail on later ones.

    Names are checked here already: pyarrow takes seconds over tens of thousands.
    """
    from pyarrow import csv as arrow
    from pyarrow import string
    from pyarrow.dataset import CsvFileFormat

    delimiter, names, heading = _sniff(path)
    _check_names(path, names, least)
    return CsvFileFormat(
        arrow.ParseOptions(delimiter=delimiter),
        convert_options=arrow.ConvertOptions(
            column_types={name: string() for name in names},
            strings_can_be_null=True,
            null_values=_no_values(arrow.ConvertOptions().null_values),
        ),
        read_options=arrow.ReadOptions(column_names=names, skip_rows=int(heading)),
    )


def _no_values(usual: list[str]) -> list[str]:
    """Also after the blank that some write behind each comma."""
    words = [*usual, *NO_VALUES]
    return [*words, *(f" {word}" for word in words)]


def _sniff(path: Path) -> tuple[str, list[str], bool]:
    """Delimiter, names of the columns, and whether the first line is a heading."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(SNIFFED_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} cannot be read as text in UTF-8: {error}") from error
    line = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=line.count)
    try:
        first = next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
    except csv.Error as error:
        raise DatasetError(f"{path.name}: its first line is no row of a table: {error}") from error
    heading = not all(cell.strip() == "" or not math.isnan(number_of(cell)) for cell in first)
    names = [cell.strip() for cell in first] if heading else [f"column {i + 1}" for i in range(len(first))]
    return delimiter, names, heading


def _check_names(path: Path, names: list[str], least: int) -> None:
    if not least <= len(names) <= MAX_COLUMNS:
        needed = "at least one input and the target needed" if least > 1 else "at least one needed"
        raise DatasetError(f"{path.name}: {len(names)} columns, {needed}, at most {MAX_COLUMNS}")
    twin, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise DatasetError(f"{path.name}: {count} columns are called {twin!r}")
