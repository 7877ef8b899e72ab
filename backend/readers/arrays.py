"""NumPy arrays and safetensors: .npz and .safetensors with ``x`` and ``y``, .npy with a second one."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from backend.datasets import map_dataset
from backend.errors import DatasetError
from backend.facts import MAX_CLASSES, MAX_NAMES, DataNotes, read_notes
from backend.formats.tensors import Array
from backend.readers.source import ArraySource, ReadOptions, Recipe, Task

SUFFIXES = (".npz", ".npy", ".safetensors")
MAX_UNPACKED_BYTES = 16 << 30
"""Of an .npz, which is read into memory."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NPY, _ZIP = b"\x93NUMPY", b"PK"
_UNREADABLE = (
    OSError, ValueError, TypeError, OverflowError, EOFError, RuntimeError, SyntaxError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What NumPy and zipfile raise for damaged files: a header is parsed as Python, a member unpacked."""


def matches(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def open(path: Path, options: ReadOptions) -> ArraySource:
    """Raises DatasetError."""
    if path.suffix.lower() == ".safetensors":
        return _open_dataset(path)
    try:
        for each in (path, *([options.labels] if options.labels is not None else [])):
            _check_format(each)
        x, y = _load(path, options)
    except _UNREADABLE as error:
        raise DatasetError(f"{path.name} cannot be read: {error}") from error
    return array_source(x, y, options.task)


def _open_dataset(path: Path) -> ArraySource:
    dataset = map_dataset(path)
    x, y = dataset.x, dataset.y
    recipe = Recipe(len(x), x.shape[1:], x.dtype, y.shape[1:], y.dtype, read_notes(path))
    return ArraySource(x, y, recipe)


def _check_format(path: Path) -> None:
    """NumPy takes anything else for a pickle, and says how to trust it. Raises DatasetError, OSError."""
    with path.open("rb") as file:
        begins = file.read(len(_NPY))
    if begins != _NPY and not begins.startswith(_ZIP):
        raise DatasetError(f"{path.name} is no NumPy file: it begins with {begins!r}")


def _load(path: Path, options: ReadOptions) -> tuple[Any, Any]:
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if not {"x", "y"} <= set(arrays):
                found = ", ".join(sorted(arrays)[:20]) or "none"
                raise DatasetError(f"{path.name}: found arrays {found}, needed are x and y")
            _check_unpacked(path, arrays)
            for name in ("x", "y"):
                _check_claim(name, arrays)
            return arrays["x"], arrays["y"]
    if options.labels is None:
        raise DatasetError(f"{path.name} holds one array; name the .npy of its labels too (--labels)")
    return np.load(path, allow_pickle=False, mmap_mode="r"), np.load(options.labels, allow_pickle=False)


def _check_unpacked(path: Path, arrays: Any) -> None:
    """A small file may claim to hold a very large one; zipfile reads no more than what is claimed."""
    size = sum(member.file_size for member in arrays.zip.infolist())
    if size > MAX_UNPACKED_BYTES:
        raise DatasetError(
            f"{path.name} unpacks to {size} bytes, limit {MAX_UNPACKED_BYTES}: "
            "save x and y as .npy, which are read where they lie"
        )


def _check_claim(name: str, arrays: Any) -> None:
    """NumPy makes room for what a header claims before it looks for it. Raises ValueError."""
    member = arrays.zip.getinfo(f"{name}.npy" if f"{name}.npy" in arrays.zip.namelist() else name)
    with arrays.zip.open(member) as file:
        read_header = _HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            raise ValueError(f"{name} is of a version of .npy that holds no plain numbers")
        shape, _, dtype = read_header(file)
        claimed = file.tell() + math.prod(shape) * dtype.itemsize
    if claimed != member.file_size and not dtype.hasobject:
        raise ValueError(f"{name} of shape {shape} takes {claimed} bytes, there are {member.file_size}")


def array_source(x: Array, y: Array, task: Task = Task.AUTO) -> ArraySource:
    """Raises DatasetError for what is no dataset."""
    x, (y, names) = np.asarray(x), _named(np.asarray(y), task)
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "fiub":
            raise DatasetError(f"{name} is {array.dtype}, allowed are numbers")
    if x.ndim < 2 or 0 in x.shape:
        raise DatasetError(f"x is shaped {x.shape}, expected (samples, values, ...), none of them 0")
    if len(y) != len(x):
        raise DatasetError(f"y holds {len(y)} targets, x {len(x)} samples")
    targets = as_targets(y, task)
    notes = DataNotes(class_names=names)
    recipe = Recipe(len(x), x.shape[1:], input_dtype(x.dtype), targets.shape[1:], targets.dtype, notes)
    return ArraySource(x, targets, recipe)


def _named(y: Array, task: Task) -> tuple[Array, tuple[str, ...]]:
    """Labels that are texts, as class numbers in the order of their names. Raises DatasetError."""
    if y.dtype.kind != "U" or y.ndim != 1:
        return y, ()
    names, codes = np.unique(y, return_inverse=True)
    if task is Task.REGRESSION and names.size:
        raise DatasetError(f"y holds texts such as {str(names[0])[:60]!r}, expected numbers")
    if names.size > MAX_NAMES:
        raise DatasetError(f"y holds {names.size} different texts, classes are at most {MAX_NAMES}")
    return codes, tuple(map(str, names))


def input_dtype(found: np.dtype[Any]) -> np.dtype[Any]:
    """Bytes stay bytes, anything else becomes float32."""
    return np.dtype(np.uint8) if found.kind == "b" or found == np.uint8 else np.dtype(np.float32)


def as_targets(y: Array, task: Task) -> Array:
    """int64 class numbers, one a sample or one for each place of it, or float32. Raises DatasetError."""
    fits = y.size == 0 or 0 <= y.min() <= y.max() < MAX_CLASSES
    if task is Task.CLASSIFICATION:
        if y.dtype.kind == "f" and not np.array_equal(y, np.floor(y)):
            raise DatasetError(f"targets are {y.dtype} shaped {y.shape[1:]}, classes are whole numbers")
        if not fits:
            raise DatasetError(
                f"targets go from {y.min()} to {y.max()}, "
                f"classes are whole numbers from 0 to {MAX_CLASSES - 1}"
            )
    elif task is Task.REGRESSION or y.dtype.kind == "f" or not fits:
        return y.astype(np.float32)
    return y.astype(np.int64)
