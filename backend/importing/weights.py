"""Weights of other programs, brought into a graph by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from backend.compiler import compile_graph
from backend.errors import ModelImportError
from backend.formats.model_folder import read_header
from backend.formats.tensor_header import TensorHeader
from backend.formats.tensors import Array, load_tensor
from backend.graph import Graph

_SHOWN = 8
_NARROW = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""Kinds of numbers that numpy does not have."""


def load_weights(paths: Iterable[Path]) -> dict[str, Array]:
    """All tensors of safetensors files, narrow floats as float32. Raises ArchiveError, ModelImportError."""
    found: dict[str, Array] = {}
    for path in paths:
        header = read_header(path)
        for name in header.tensors:
            if name in found:
                raise ModelImportError(f"tensor {name!r} is in two files")
            found[name] = _load(path, header, name)
    return found


def _load(path: Path, header: TensorHeader, name: str) -> Array:
    info = header.tensors[name]
    narrow = _NARROW.get(info.dtype)
    if narrow is not None:
        held = np.fromfile(path, np.uint8, info.end - info.begin, offset=header.data_at + info.begin)
        widened: Array = torch.from_numpy(held).view(narrow).float().numpy()
        return widened.reshape(info.shape)
    if info.dtype.startswith("F8"):
        raise ModelImportError(f"tensor {name!r} is {info.dtype}, converted are {', '.join(_NARROW)}")
    return load_tensor(path, header, name)


def fitted(graph: Graph, weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights in the types that the graph has. Raises ModelImportError where names or shapes differ.

    Real numbers of other widths are converted; a BatchNorm's count of batches may be missing.
    """
    own = compile_graph(graph).module.state_dict()
    counts = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(own.keys() - weights.keys() - counts)
    unknown = sorted(weights.keys() - own.keys())
    if missing or unknown:
        parts = [("missing", missing), ("not in the graph", unknown)]
        listed = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in parts if names)
        raise ModelImportError(f"weights do not fit the graph by name: {listed}")
    found: dict[str, Array] = {}
    for name, tensor in own.items():
        target = tensor.detach().numpy()
        source = weights.get(name, np.zeros_like(target))
        if source.shape != target.shape or (source.dtype.kind == "f") != (target.dtype.kind == "f"):
            wanted = f"{target.dtype} {target.shape}"
            raise ModelImportError(f"weight {name!r} is {source.dtype} {source.shape}, the graph's {wanted}")
        found[name] = source.astype(target.dtype)
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:100] for name in names[:_SHOWN]) + more
