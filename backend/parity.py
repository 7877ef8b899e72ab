"""How close two runtimes come on the same inputs, and the certificate that says so. numpy only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from blake3 import blake3

from backend.formats.tensors import Array

FORMAT_VERSION = 1


class InputFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    """Where they are from: a data file, or drawn from a seed."""
    samples: int
    blake3: str
    """Of names, types, shapes and values of all inputs in order."""


class OutputParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one output is off."""

    name: str
    shape: tuple[int, ...]
    max_difference: float
    mean_difference: float
    largest_value: float
    argmax_agreement: float | None
    """Share of places where the last axis has its largest value at the same index; None for one value."""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was compared with what, on which inputs, and what came of it."""

    format_version: int
    format: str
    about: str
    """What the file is."""
    runtime: str
    """What ran the file."""
    versions: Mapping[str, str]
    model_blake3: str
    """Of the .cyxmodel."""
    file_blake3: str
    inputs: InputFacts
    batches: tuple[int, ...]
    """Sizes of the batches in which the inputs were given."""
    outputs: tuple[OutputParity, ...]
    max_difference: float
    mean_difference: float
    argmax_agreement: float | None
    """The lowest of the outputs'."""
    tolerance: float
    """Largest difference allowed, in parts of an output's largest value or of 1 if that is more."""
    verdict: str
    """``equal``: bit for bit; ``within tolerance``; or ``differs``."""


def hash_inputs(inputs: Mapping[str, Array]) -> str:
    hasher = blake3()
    for name, array in inputs.items():
        hasher.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def compare(name: str, ours: Array, theirs: Array) -> OutputParity:
    """Arrays of different shapes, or numbers that are none, are infinitely far apart."""
    if ours.shape != theirs.shape:
        return OutputParity(name, theirs.shape, np.inf, np.inf, _largest(ours), None)
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    difference[~np.isfinite(difference)] = np.inf
    # The same infinity on both sides, or no number on both, is agreement.
    difference[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0.0
    several = ours.ndim > 1 and ours.shape[-1] > 1
    agreement = float(np.mean(ours.argmax(-1) == theirs.argmax(-1))) if several else None
    largest, mean = float(difference.max(initial=0.0)), float(difference.mean()) if difference.size else 0.0
    return OutputParity(name, ours.shape, largest, mean, _largest(ours), agreement)


def _largest(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return float(finite.max(initial=0.0))


def verdict_of(outputs: tuple[OutputParity, ...], tolerance: float) -> str:
    if all(output.max_difference == 0.0 for output in outputs):
        return "equal"
    allowed = all(o.max_difference <= tolerance * max(1.0, o.largest_value) for o in outputs)
    return "within tolerance" if allowed else "differs"


def lowest_agreement(outputs: tuple[OutputParity, ...]) -> float | None:
    known = [output.argmax_agreement for output in outputs if output.argmax_agreement is not None]
    return min(known, default=None)
