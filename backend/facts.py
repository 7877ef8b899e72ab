"""What a dataset file holds, read without loading it. Standard library only.

On the wire and on disk a dataset is one safetensors file with ``x`` (N, ...) float32 or uint8 and
``y``: (N, ...) int64 class numbers (one a sample, or one for each place of it, such as the next token or the
class of a pixel) or (N, ...) float32 targets. Its metadata may hold notes for people
and for whoever serves the model: what kind of thing a sample is, names of classes, inputs and targets,
and the tokenizer of a text.
"""

from __future__ import annotations

import json
import math
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
KINDS = ("", "image", "table", "text", "series")
"""What a sample is: "" where nothing is known but its numbers."""
MISSING_TEXT = "(missing)"
"""In an input's name (``colour=(missing)``): that the row lacks a text."""
NO_NUMBERS = frozenset({"", "?", "-", "--", "na", "n/a", "<na>", "nan", "null", "none"})
"""Missing in a column of numbers, in any case and between blanks. Among texts "None" and "-" are texts."""
_INPUT_DTYPES = {"F32": "float32", "U8": "uint8", "I32": "int32"}
_LABEL_BYTES = 8
_CHUNK_BYTES = 1 << 19


def is_no_number(text: str) -> bool:
    """Whether it says that a number is missing."""
    return text.strip().lower() in NO_NUMBERS


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What may be told about a dataset without showing a sample."""

    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    """float32, uint8 or int32."""
    classes: int
    """One more than the highest class number; 0 for real-numbered targets."""
    target_shape: tuple[int, ...] = ()
    """Shape of one target; () for one number."""


@dataclass(frozen=True, slots=True)
class DataNotes:
    """What a reader knows beyond the numbers. Nothing here changes a training."""

    class_names: tuple[str, ...] = ()
    """By class number; empty where classes have no names."""
    input_names: tuple[str, ...] = ()
    """Of a table's inputs, in order."""
    tokenizer: str = ""
    """A tokenizer.json, where the inputs are tokens of text."""
    kind: str = ""
    """One of KINDS."""
    target_names: tuple[str, ...] = ()
    """Of the numbers to predict, in order."""
    input_fills: tuple[float, ...] = ()
    """What stands for a missing value of each input; empty where none may be missing."""
    white: float = 0.0
    """Of images: the value of a bright pixel, such as 255; 0 where it is not known."""


def encode_notes(notes: DataNotes) -> dict[str, str]:
    """As metadata of a safetensors file; names are cut to what ``read_notes`` accepts."""
    found = {
        key: json.dumps([name[:MAX_NAME_LENGTH] for name in getattr(notes, key)[:MAX_NAMES]])
        for key in _NAME_LISTS
        if getattr(notes, key)
    }
    if notes.input_fills:
        found["input_fills"] = json.dumps(notes.input_fills[:MAX_NAMES])
    if notes.white:
        found["white"] = json.dumps(notes.white)
    return found | {key: getattr(notes, key) for key in ("tokenizer", "kind") if getattr(notes, key)}


def read_notes(path: Path) -> DataNotes:
    """Raises DatasetError."""
    return decode_notes(read_data_header(path).metadata)


def decode_notes(metadata: Mapping[str, str]) -> DataNotes:
    """Entries of other programs are passed over. Raises DatasetError."""
    notes = DataNotes(
        class_names=_names(metadata, "class_names"),
        input_names=_names(metadata, "input_names"),
        tokenizer=metadata.get("tokenizer", ""),
        kind=metadata.get("kind", ""),
        target_names=_names(metadata, "target_names"),
        input_fills=_numbers("input_fills", _parsed(metadata, "input_fills", "[]")),
        white=_numbers("white", [_parsed(metadata, "white", "0.0")])[0],
    )
    wrong = why_notes_are_wrong(notes)
    if wrong is not None:
        raise DatasetError(wrong)
    return notes


def why_notes_are_wrong(notes: DataNotes) -> str | None:
    """Of notes from somebody else; None if they are sound."""
    if len(notes.tokenizer) > MAX_TOKENIZER_BYTES:
        return f"tokenizer of {len(notes.tokenizer)} characters, limit {MAX_TOKENIZER_BYTES}"
    if notes.kind not in KINDS:
        return f"data of kind {notes.kind[:40]!r}, allowed are {', '.join(filter(None, KINDS))}"
    for key in _NAME_LISTS:
        names = getattr(notes, key)
        if len(names) > MAX_NAMES or any(len(name) > MAX_NAME_LENGTH for name in names):
            return f"{key}, allowed are {MAX_NAMES} texts of {MAX_NAME_LENGTH} characters"
    fills = notes.input_fills
    if (fills and len(fills) != len(notes.input_names)) or not all(map(math.isfinite, fills)):
        return f"{len(fills)} input_fills, must be none or a finite one for each of the input_names"
    if not (math.isfinite(notes.white) and notes.white >= 0):
        return f"white is {notes.white}, allowed are finite numbers from 0"
    return None


_NAME_LISTS = ("class_names", "input_names", "target_names")


def _names(metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    names = _parsed(metadata, key, "[]")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{key} of the data file, allowed are texts")
    return tuple(names)


def _numbers(key: str, found: object) -> tuple[float, ...]:
    if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
        raise DatasetError(f"{key} of the data file, allowed are numbers")
    try:
        return tuple(map(float, found))
    except OverflowError as error:
        raise DatasetError(f"{key} of the data file: a number too large") from error


def _parsed(metadata: Mapping[str, str], key: str, default: str) -> object:
    try:
        return json.loads(metadata.get(key, default))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{key} of the data file are no JSON: {error}") from error


def read_facts(path: Path) -> DataFacts:
    """Reads the header, and the labels for their range. Raises DatasetError."""
    header = read_data_header(path)
    return facts_of(path, header)


def read_data_header(path: Path) -> TensorHeader:
    """Raises DatasetError."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise DatasetError(f"data file cannot be read: {path.name} is not there, or no regular file")
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
        raise DatasetError(f"x is {x.dtype}, allowed are F32, U8 and I32")
    if len(x.shape) < 2 or 0 in x.shape:
        raise DatasetError(f"x is shaped {x.shape}, expected (samples, values, ...), none of them 0")
    if not y.shape or y.shape[0] != x.shape[0]:
        raise DatasetError(f"y is shaped {y.shape}, expected {x.shape[0]} targets like x")
    if 0 in y.shape:
        raise DatasetError(f"y is shaped {y.shape}, expected no 0")
    if y.dtype == "I64":
        classes = _count_classes(path, header.data_at, y)
    elif y.dtype == "F32":
        classes = 0
    else:
        raise DatasetError(f"y is {y.dtype}, allowed are I64 and F32")
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
