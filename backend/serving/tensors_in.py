"""Given values to the arrays that a model takes, whatever they came as. Raises InputError only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.serving.messages import TensorSpec

MAX_ITEMS = 1 << 28


def from_json(values: Any, spec: TensorSpec) -> Array:
    """Nested lists of numbers, as deep as the spec."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"input {spec.name!r}: rows of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"input {spec.name!r}: nested lists of numbers are allowed")
    return fitted(array, spec)


def fitted(array: Array, spec: TensorSpec) -> Array:
    """In the dtype of the spec, if that loses no more than precision, and of its shape."""
    if array.dtype.name != spec.dtype:
        wanted = np.dtype(spec.dtype)
        whole = array.dtype.kind == "f" and wanted.kind in "iu"
        if whole or not (np.can_cast(array.dtype, wanted, "same_kind") or array.dtype.kind in "iub"):
            raise InputError(f"input {spec.name!r} is {array.dtype.name}, allowed is {spec.dtype}")
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        if wanted.kind in "iu" and not np.array_equal(cast, array):
            raise InputError(f"input {spec.name!r} holds numbers that are not {spec.dtype}")
        array = cast
    fits = len(array.shape) == len(spec.shape) and all(
        wanted in (-1, size) for size, wanted in zip(array.shape, spec.shape, strict=True)
    )
    if not fits or not 0 < array.size <= MAX_ITEMS:
        allowed = ", ".join("any" if size < 0 else str(size) for size in spec.shape)
        raise InputError(f"input {spec.name!r} is shaped {array.shape}, allowed is ({allowed})")
    return array


def all_fitted(arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """By name, in the order of ``specs``."""
    names = [spec.name for spec in specs]
    if arrays.keys() != set(names):
        found = ", ".join(sorted(arrays))[:200] or "none"
        raise InputError(f"inputs {found}, the model takes {', '.join(names) or 'no tensors'}")
    return {spec.name: fitted(arrays[spec.name], spec) for spec in specs}
