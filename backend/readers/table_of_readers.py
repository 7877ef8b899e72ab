"""Which reader reads what: the first that knows the file. A name with a colon is bundled data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.errors import DatasetError
from backend.readers import arrays, bundled, idx, images, series, table, text
from backend.readers.source import DataSource, ReadOptions

BUNDLED = "bundled:"
DEFAULTS = ReadOptions()
_READERS: tuple[Any, ...] = (arrays, table, text, idx, images)
READABLE = (
    ".csv, .tsv, .parquet, .npz, .npy, .safetensors, .txt, IDX, a folder with one folder of images a class, "
    f"or {BUNDLED}NAME"
)


def open_source(source: str | Path, options: ReadOptions = DEFAULTS) -> DataSource:
    """``source`` is a path, or bundled:NAME. Raises DatasetError."""
    name = str(source)
    if name.startswith(BUNDLED):
        return bundled.open(name.removeprefix(BUNDLED), options)
    path = Path(source)
    if not path.exists():
        raise DatasetError(f"no such file: {path}")
    if options.text and table.matches(path):
        return text.open_column(path, options)
    if options.window and table.matches(path):
        return series.open(path, options)
    for reader in _READERS:
        if reader.matches(path):
            found: DataSource = reader.open(path, options)
            return found
    raise DatasetError(f"{path.name} is nothing that can be read; readable are {READABLE}")
