"""Writes a source as a dataset file, block by block: memory stays bounded whatever the size."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataFacts, encode_notes, read_facts
from backend.formats.tensors import Array, pack_header
from backend.readers.source import DataSource, Recipe

Progress = Callable[[int, int], None]
"""Called with the samples written and those in all."""


def write_dataset(source: DataSource, target: Path, progress: Progress | None = None) -> DataFacts:
    """Atomic: ``target`` is whole or as it was. Raises DatasetError, OSError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            _Writer(file.fileno(), source.recipe).write(source, progress)
            file.flush()
            os.fsync(file.fileno())
        facts = read_facts(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return facts


class _Writer:
    """Both tensors grow at the same time, each in its own part of the file."""

    def __init__(self, descriptor: int, recipe: Recipe) -> None:
        self._descriptor = descriptor
        self._recipe = recipe
        header, places = _header(recipe)
        self._places = places
        os.pwrite(descriptor, header, 0)

    def write(self, source: DataSource, progress: Progress | None) -> None:
        written = 0
        for x, y in source.blocks():
            written += len(x)
            if written > self._recipe.samples or len(x) != len(y):
                raise DatasetError(f"{written} samples were read, {self._recipe.samples} were counted before")
            self._append("x", x, self._recipe.x_dtype, self._recipe.x_shape)
            self._append("y", y, self._recipe.y_dtype, self._recipe.y_shape)
            if progress is not None:
                progress(written, self._recipe.samples)
        if written != self._recipe.samples:
            raise DatasetError(f"{written} samples were read, {self._recipe.samples} were counted before")

    def _append(self, name: str, block: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        if block.shape[1:] != shape:
            raise DatasetError(f"{name} is shaped {block.shape[1:]}, {shape} were seen before")
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise DatasetError(f"{name} holds NaN or infinity")
        data = memoryview(np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data)
        while data:
            count = os.pwrite(self._descriptor, data, self._places[name])
            self._places[name] += count
            data = data[count:]


def _header(recipe: Recipe) -> tuple[bytes, dict[str, int]]:
    """The header's bytes, and where in the file each tensor begins."""
    tensors = {
        "x": (recipe.x_dtype, (recipe.samples, *recipe.x_shape)),
        "y": (recipe.y_dtype, (recipe.samples, *recipe.y_shape)),
    }
    names, header = pack_header(tensors, encode_notes(recipe.notes))
    begins, position = {}, len(header)
    for name in names:
        begins[name] = position
        dtype, shape = tensors[name]
        position += math.prod(shape) * dtype.itemsize
    return header, begins
