"""IDX, the format of MNIST and Fashion-MNIST: big-endian arrays, often compressed with gzip.

http://yann.lecun.com/exdb/mnist describes it: two zero bytes, a type code, the number of
dimensions, each of them as u32, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.formats.tensors import Array
from backend.readers.arrays import as_targets, input_dtype
from backend.readers.source import ArraySource, ReadOptions, Recipe, Task

MAX_BYTES = 4 << 30
MAX_RANK = 4
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's dataset-fashion-mnist puts it."""

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_READ_BYTES = 1 << 20


def matches(path: Path) -> bool:
    return path.is_file() and "idx" in path.name.lower()


def open(path: Path, options: ReadOptions) -> ArraySource:
    """Images or other samples; their labels from ``options.labels`` or the file that goes with it."""
    labels = options.labels or _labels_beside(path)
    return _source([(path, labels)], options.task, DataNotes())


def open_fashion_mnist(options: ReadOptions) -> ArraySource:
    """The 60,000 training samples, then the 10,000 of the test set. Raises DatasetError."""
    pairs = [
        (_existing(FASHION_DIRECTORY / f"{part}-images-idx3-ubyte"),
         _existing(FASHION_DIRECTORY / f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    ]  # fmt: skip
    return _source(pairs, options.task, DataNotes(class_names=FASHION))


def read_idx(path: Path) -> Array:
    """Raises DatasetError. Reads and unpacks no more than the header says there is."""
    try:
        with _opened(path) as file:
            shape, dtype = _header(path, file)
            needed = math.prod(shape) * dtype.itemsize
            # Of no values there may be a shape that numpy cannot have.
            if math.prod(max(1, size) for size in shape) * dtype.itemsize > MAX_BYTES:
                raise DatasetError(
                    f"{path.name} of shape {shape} holds {needed} bytes, over {MAX_BYTES}, the limit"
                )
            data = _read(file, needed + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}") from error
    if len(data) != needed:
        found = "more" if len(data) > needed else len(data)
        raise DatasetError(f"{path.name}: {found} bytes of values, its shape {shape} needs {needed}")
    return np.frombuffer(data, dtype).reshape(shape)


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the values, which begin where the file now is."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= MAX_RANK:
        raise DatasetError(f"{path.name} begins with {head.hex(' ')}, which is no IDX file")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DatasetError(f"{path.name}: {4 + len(sizes)} bytes, its header alone needs {4 + 4 * head[3]}")
    return struct.unpack(f">{head[3]}I", sizes), np.dtype(_TYPES[head[2]])


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _read(file: BinaryIO, limit: int) -> bytes:
    parts, size = [], 0
    while size < limit and (part := file.read(min(_READ_BYTES, limit - size))):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _source(pairs: list[tuple[Path, Path]], task: Task, notes: DataNotes) -> ArraySource:
    x = np.concatenate([_as_images(read_idx(images)) for images, _ in pairs])
    y = as_targets(np.concatenate([read_idx(labels) for _, labels in pairs]), task)
    if len(x) != len(y):
        raise DatasetError(f"{len(x)} samples and {len(y)} labels")
    if x.ndim == 4:
        notes = replace(notes, kind="image", white=255.0 if x.dtype == np.uint8 else 0.0)
    recipe = Recipe(len(x), x.shape[1:], input_dtype(x.dtype), y.shape[1:], y.dtype, notes)
    return ArraySource(x, y, recipe)


def _as_images(x: Array) -> Array:
    """Grey images get their one channel; a vector of numbers is one value a sample."""
    return x[:, None] if x.ndim in (1, 3) else x


def _labels_beside(path: Path) -> Path:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        raise DatasetError(f"{path.name} has no labels; name their file too (--labels)")
    return _existing(path.with_name(name.removesuffix(".gz")))


def _existing(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        hint = ": apt-get install dataset-fashion-mnist" if path.parent == FASHION_DIRECTORY else ""
        raise DatasetError(f"neither {path} nor {packed.name} exists{hint}")
    return path if path.exists() else packed
