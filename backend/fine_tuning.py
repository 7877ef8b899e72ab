"""Weights that a training begins with: those of another model, by node and shape. No training here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from backend.errors import CheckpointError
from backend.formats.cyxmodel import CyxModel, Normalization
from backend.formats.tensors import Array
from backend.lora import DOWN, UP
from backend.pipeline import Pipeline

_NAMED = 8


@dataclass(frozen=True, slots=True)
class Start:
    """``partial``: what fits is taken, and the rest begins as in any training."""

    model: CyxModel
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """Names of tensors."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    """Of the graph, which the model does not have, or has in another shape."""
    unused: tuple[str, ...]
    """Of the model, for which the graph has no place."""

    def notes(self) -> tuple[str, ...]:
        """For people, in few words."""
        found = [f"{len(self.taken)} tensors taken from the model: {_nodes(self.taken)}"]
        if self.fresh:
            found.append(f"begin fresh: {_nodes(self.fresh)}")
        if self.unused:
            found.append(f"of the model not used: {_nodes(self.unused)}")
        return tuple(found)


def take_weights(module: torch.nn.Module, start: Start) -> Taken:
    """Raises CheckpointError for a model without any weight that fits, or, unless partial, one that lacks
    some or has them in other shapes."""
    weights = start.model.weights
    own = {name: tensor for name, tensor in module.state_dict().items() if not _is_adapter(name)}
    fitting = [name for name, tensor in own.items() if _fits(weights.get(name), tensor)]
    fresh = tuple(name for name in own if name not in set(fitting))
    if fresh and not start.partial:
        raise CheckpointError(f"the model does not fit the graph: {_misfits(fresh, own, weights)}")
    if own and not fitting:
        raise CheckpointError("the model has no weights that fit the graph, by node and shape")
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(torch.from_numpy(weights[name]))
    return Taken(tuple(fitting), fresh, tuple(name for name in weights if name not in own))


def scaling_of(start: Start | None, pipeline: Pipeline) -> Normalization | None:
    """How the model's inputs were normalized: its weights expect that. None where the graph decides anew."""
    found = start.model.training.normalization if start is not None else None
    if found is None or pipeline.normalization == "none" or not pipeline.sample_shape:
        return None
    return found if len(found.offset) == len(found.factor) == pipeline.sample_shape[0] else None


def _is_adapter(name: str) -> bool:
    return name.endswith((f".{DOWN}", f".{UP}"))


def _fits(found: Array | None, own: torch.Tensor) -> bool:
    return found is not None and found.shape == own.shape and torch.from_numpy(found).dtype == own.dtype


def _misfits(names: Iterable[str], own: Mapping[str, torch.Tensor], weights: Mapping[str, Array]) -> str:
    found = []
    for name in names:
        there = f"{tuple(weights[name].shape)} there" if name in weights else "missing there"
        found.append(f"{name} is {tuple(own[name].shape)} here, {there}")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{'; '.join(found[:_NAMED])}{more} (--partial takes what fits)"


def _nodes(names: Iterable[str]) -> str:
    """Of names of tensors, those of their nodes."""
    found = list(dict.fromkeys(name.partition(".")[0] for name in names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
