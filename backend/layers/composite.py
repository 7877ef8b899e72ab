"""Nodes with others inside. What is inside becomes part of the one graph: no calls in between at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from backend.layers.emitter import Builder, Emitter, Inner, Site, Values

MERGES: dict[str, Callable[..., torch.Tensor]] = {
    "sum": torch.add,
    "multiply": torch.mul,
    "average": torch.add,
}


def _inner(site: Site) -> tuple[Inner, fx.Node]:
    if site.inner is None or site.batch is None:
        raise ValueError(f"{site.name} has nothing inside it")
    return site.inner, site.batch


def _subgraph(emit: Emitter, site: Site, inputs: Values) -> Values:
    inner, batch = _inner(site)
    return inner(site.name, inputs, batch)


def _repeat(emit: Emitter, site: Site, inputs: Values) -> Values:
    inner, batch = _inner(site)
    for number in range(site["times"]):
        inputs = inner(f"{site.name}.{number}", inputs, batch)
    return inputs


def fold_steps(x: torch.Tensor) -> torch.Tensor:
    """(N, steps, ...) to (N x steps, ...)"""
    return x.flatten(0, 1)


def unfold_steps(x: torch.Tensor, steps: int) -> torch.Tensor:
    """(N x steps, ...) to (N, steps, ...)"""
    return torch.unflatten(x, 0, (-1, steps))


def _each_step(emit: Emitter, site: Site, inputs: Values) -> fx.Node:
    inner, _ = _inner(site)
    folded = emit.call(fold_steps, *inputs)
    (answer,) = inner(site.name, (folded,), folded)
    return emit.call(unfold_steps, answer, site.shape[0])


def _both_ways(emit: Emitter, site: Site, inputs: Values) -> fx.Node:
    inner, batch = _inner(site)
    (forwards,) = inner(f"{site.name}.forwards", inputs, batch)
    (backwards,) = inner(f"{site.name}.backwards", (emit.call(torch.flip, *inputs, (1,)),), batch)
    answer: Any = emit.call(turned_back, backwards)
    if site["merge"] == "concatenate":
        return emit.call(torch.cat, [forwards, answer], dim=-1)
    merged = emit.call(MERGES[site["merge"]], forwards, answer)
    return emit.call(torch.mul, merged, 0.5) if site["merge"] == "average" else merged


def turned_back(x: torch.Tensor) -> torch.Tensor:
    """The states of all steps (N, steps, units) in the order of the input; a last state as it is."""
    return x.flip(1) if x.ndim == 3 else x


BUILDERS: dict[str, Builder] = {
    "Subgraph": _subgraph,
    "Repeat": _repeat,
    "TimeDistributed": _each_step,
    "Bidirectional": _both_ways,
}
