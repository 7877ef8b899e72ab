"""What a dataset file holds, read without loading it. Standard library only.

On the wire and on disk a dataset is one safetensors file with ``x`` (N, ...) float32 or uint8 and
``y``: (N,) int64 class numbers, or (N, ...) float32 targets. Its metadata may hold notes for people
and for whoever serves the model: names of classes and inputs, and the tokenizer of a text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ArchiveError, DatasetError
from backend.formats.tensor_header import TensorHeader, TensorInfo, read_tensor_header

MAX_CLASSES = 1 << 20
MAX_NAMES = 1 << 16
MAX_NAME_LENGTH = 256
MAX_TOKENIZER_BYTES = 8 << 20
_INPUT_DTYPES = {"F32": "float32", "U8": "uint8", "I32": "int32"}
_LABEL_BYTES = 8
_CHUNK_BYTES = 1 << 19


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What may be told about a dataset without showing a sample."""

    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    """float32 or uint8."""
    classes: int
    """0 for a regression target."""
    target_shape: tuple[int, ...] = ()
    """Shape of one target; () for class numbers."""


@dataclass(frozen=True, slots=True)
class DataNotes:
    """What a reader knows beyond the numbers. Nothing here changes a training."""

    class_names: tuple[str, ...] = ()
    """By class number; empty where classes have no names."""
    input_names: tuple[str, ...] = ()
    """Of a table's inputs, in order."""
    tokenizer: str = ""
    """A tokenizer.json, where the inputs are tokens of text."""


def encode_notes(notes: DataNotes) -> dict[str, str]:
    """As metadata of a safetensors file; names are cut to what ``read_notes`` accepts."""
    names = {"class_names": notes.class_names, "input_names": notes.input_names}
    found = {
        key: json.dumps([name[:MAX_NAME_LENGTH] for name in values[:MAX_NAMES]])
        for key, values in names.items()
        if values
    }
    return found | ({"tokenizer": notes.tokenizer} if notes.tokenizer else {})


def read_notes(path: Path) -> DataNotes:
    """Raises DatasetError."""
    return decode_notes(read_data_header(path).metadata)


def decode_notes(metadata: Mapping[str, str]) -> DataNotes:
    """Entries of other programs are passed over. Raises DatasetError."""
    tokenizer = metadata.get("tokenizer", "")
    if len(tokenizer) > MAX_TOKENIZER_BYTES:
        raise DatasetError(f"tokenizer of {len(tokenizer)} characters, limit {MAX_TOKENIZER_BYTES}")
    return DataNotes(_names(metadata, "class_names"), _names(metadata, "input_names"), tokenizer)


def _names(metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        names = json.loads(metadata.get(key, "[]"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{key} of the data file are no JSON: {error}") from error
    are_names = isinstance(names, list) and all(
        isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in names
    )
    if not are_names or len(names) > MAX_NAMES:
        raise DatasetError(f"{key} of the data file, allowed are {MAX_NAMES} texts of {MAX_NAME_LENGTH}")
    return tuple(names)


def read_facts(path: Path) -> DataFacts:
    """Reads the header, and the labels for their range. Raises DatasetError."""
    header = read_data_header(path)
    return facts_of(path, header)


def read_data_header(path: Path) -> TensorHeader:
    """Raises DatasetError."""
    try:
        with path.open("rb") as file:
            return read_tensor_header(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DatasetError(f"data file cannot be read: {error.strerror}") from error
    except ArchiveError as error:
        raise DatasetError(f"not a dataset file: {error}") from error


def facts_of(path: Path, header: TensorHeader) -> DataFacts:
    """Checks that the tensors are a dataset. Raises DatasetError."""
    if header.tensors.keys() != {"x", "y"}:
        raise DatasetError(f"tensors {', '.join(sorted(header.tensors))[:200]!r}, expected x and y")
    x, y = header.tensors["x"], header.tensors["y"]
    if x.dtype not in _INPUT_DTYPES:
        raise DatasetError(f"x is {x.dtype}, allowed are F32 and U8")
    if len(x.shape) < 2 or 0 in x.shape:
        raise DatasetError(f"x is shaped {x.shape}, expected (samples, values, ...), none of them 0")
    if not y.shape or y.shape[0] != x.shape[0]:
        raise DatasetError(f"y is shaped {y.shape}, expected {x.shape[0]} targets like x")
    if y.dtype == "I64" and len(y.shape) == 1:
        classes = _count_classes(path, header.data_at, y)
    elif y.dtype == "F32":
        classes = 0
    else:
        raise DatasetError(f"y is {y.dtype} shaped {y.shape}, allowed are I64 (samples,) and F32")
    return DataFacts(x.shape[0], x.shape[1:], _INPUT_DTYPES[x.dtype], classes, y.shape[1:])


def _count_classes(path: Path, data_at: int, labels: TensorInfo) -> int:
    lowest, highest = 0, 0
    remaining = labels.end - labels.begin
    with path.open("rb") as file:
        file.seek(data_at + labels.begin)
        while remaining:
            chunk = file.read(min(remaining, _CHUNK_BYTES))
            if not chunk or len(chunk) % _LABEL_BYTES:
                raise DatasetError(f"data file cut off {remaining} bytes before the end of y")
            values = memoryview(chunk).cast("q")
            lowest, highest = min(lowest, min(values)), max(highest, max(values))
            remaining -= len(chunk)
    if lowest < 0 or highest >= MAX_CLASSES:
        raise DatasetError(f"class numbers from {lowest} to {highest}, allowed are 0 to {MAX_CLASSES - 1}")
    return highest + 1
