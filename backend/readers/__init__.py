"""Readers of the user's own data files, each turned into the one dataset format of ``backend.facts``.

Used on the Engine's side only; a peer parses nothing but that format. Each reader is a module with
``matches`` and ``open``. Tables, images, .npy and .safetensors stream, so that data larger than memory
costs no more than small data; .npz, IDX and plain text (as tokens) are held in memory.
Imports no torch; the libraries of one format are imported when a file of it is read.
"""

from __future__ import annotations

from pathlib import Path

from backend.facts import DataFacts
from backend.readers.source import DataSource, ReadOptions, Recipe
from backend.readers.table_of_readers import DEFAULTS, open_source
from backend.readers.write import write_dataset

__all__ = ["DataSource", "ReadOptions", "Recipe", "convert", "open_source", "write_dataset"]


def convert(source: str | Path, target: Path, options: ReadOptions = DEFAULTS) -> DataFacts:
    """Writes ``source`` as a dataset file, atomically. Raises DatasetError, OSError."""
    return write_dataset(open_source(source, options), target)
