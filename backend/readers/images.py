"""Folders of images: one folder a class, as torchvision's ImageFolder and Keras read them."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.formats.tensors import Array
from backend.readers.source import ReadOptions, Recipe, samples_in_block

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Whatever a file is called. Pillow knows others, of which EPS starts Ghostscript on what it holds."""
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that others part a set into, each with its own folders of classes."""
MAX_PIXELS = 1 << 26
MAX_IMAGES = 1 << 24
LOOKED_AT = 64
"""Images whose sizes decide where the options leave it open."""
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey images with 65536 levels."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    size: tuple[int, int]
    resized: bool
    recipe: Recipe

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """Raises DatasetError naming the file that cannot be used."""
        step = samples_in_block(self.recipe)
        for begin in range(0, len(self.files), step):
            files = self.files[begin : begin + step]
            x = np.empty((len(files), *self.recipe.x_shape), np.uint8)
            for at, path in enumerate(files):
                x[at] = self._pixels(path)
            yield x, np.asarray(self.labels[begin : begin + step], np.int64)

    def _pixels(self, path: Path) -> Array:
        image = _open(path)
        height, width = self.size
        if image.size != (width, height) and not self.resized:
            raise DatasetError(
                f"{_shown(path)} is {image.height}x{image.width}, others {height}x{width}: "
                "bring them to one size with --image-size"
            )
        return _as_pixels(image, self.recipe.x_shape)


def matches(path: Path) -> bool:
    return path.is_dir() and next(_classes(path), None) is not None


def open(path: Path, options: ReadOptions) -> ImageSource:
    """Raises DatasetError."""
    names, files, labels = list[str](), list[Path](), list[int]()
    folders = list(_classes(path))
    if folders and {folder.name.lower() for folder in folders} <= PARTS:
        found = ", ".join(folder.name for folder in folders)
        raise DatasetError(
            f"{path} holds parts ({found}), not classes: name one of them, such as {folders[0]}, or bring "
            "them together: a graph's DataSplit makes the parts"
        )
    for folder in folders:
        images = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        files += images
        labels += [len(names)] * len(images)
        names.append(folder.name)
    if len(names) < 2:
        raise DatasetError(f"{path}: one folder of images, a folder for each of two classes at least needed")
    if len(files) > MAX_IMAGES:
        raise DatasetError(f"{len(files)} images, limit {MAX_IMAGES}")
    size, channels = _form(files, options)
    notes = DataNotes(tuple(names), kind="image", white=255.0)
    recipe = Recipe(len(files), (channels, *size), np.dtype(np.uint8), (), np.dtype(np.int64), notes)
    return ImageSource(tuple(files), tuple(labels), size, options.image_size is not None, recipe)


def _classes(path: Path) -> Iterator[Path]:
    """Folders in which there is an image, by name."""
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and any(file.suffix.lower() in SUFFIXES for file in folder.rglob("*")):
            yield folder


def _form(files: list[Path], options: ReadOptions) -> tuple[tuple[int, int], int]:
    """Size and channels: as the options say, else as most of the images are."""
    step = max(1, len(files) // LOOKED_AT)
    # One at a time: together, unpacked, they may not fit into memory.
    looked_at = [_look(path) for path in files[::step]]
    sizes = Counter(size for size, _ in looked_at)
    grey = sum(is_grey for _, is_grey in looked_at)
    channels = options.channels or (1 if 2 * grey > len(looked_at) else 3)
    if channels not in (1, 3):
        raise DatasetError(f"{channels} channels, allowed are 1 (grey) and 3 (colour)")
    return options.image_size or sizes.most_common(1)[0][0], channels


def _look(path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width, and whether it is grey."""
    image = _open(path)
    return (image.height, image.width), image.mode in ("1", "L", "I", "F", "LA", *_SIXTEEN_BITS)


def decode_pixels(data: bytes, shape: tuple[int, int, int]) -> Array:
    """An image file's pixels as training read them: uint8 (channels, height, width). Raises DatasetError."""
    return _as_pixels(_open(io.BytesIO(data), "image"), shape)


def _as_pixels(image: Any, shape: tuple[int, ...]) -> Array:
    channels, height, width = shape
    if image.mode in _SIXTEEN_BITS:
        image = _eight_bits(image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height))
    pixels: Array = np.asarray(image, np.uint8)
    return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def _eight_bits(image: Any) -> Any:
    """Pillow would cut at 255, which leaves nearly all of such an image white."""
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _shown(path: Path) -> str:
    """With its class: many folders may hold a 1.png."""
    return f"{path.parent.name}/{path.name}"


def _check_depth(image: Any, name: str) -> None:
    """Pillow would cut at 0 and 255, and nobody knows what stands for white. Raises DatasetError."""
    if image.mode in ("I", "F"):
        pixels = np.asarray(image)
        if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all():
            raise DatasetError(
                f"{name} has 32 bits to a pixel and values from {pixels.min():g} to {pixels.max():g}, "
                "allowed are whole numbers from 0 to 255: save it with 8 or 16 bits"
            )


def _open(source: Path | BinaryIO, name: str = "") -> Any:
    """Raises DatasetError, also for an image that unpacks to a monstrous one."""
    from PIL import Image, UnidentifiedImageError

    name = name or _shown(Path(str(source)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{name} has {image.width}x{image.height} pixels, limit {MAX_PIXELS}")
            image.load()
            _check_depth(image, name)
    except UnidentifiedImageError as error:  # Its own words name where the file lies.
        raise DatasetError(f"{name} is no image that can be read") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{name} is no image that can be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{name}: {error}") from error
    return image
