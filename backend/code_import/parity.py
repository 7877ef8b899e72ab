"""Holds an imported graph against the module that it was made from: the same inputs, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from backend.checkpoint import restore_weights
from backend.code_import.tracing import Traced, arguments
from backend.compiler import compile_graph
from backend.errors import CheckpointError, CodeError
from backend.graph import Graph

BATCH = 5
TOLERANCE = 1e-4


def check_same_numbers(traced: Traced, graph: Graph, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises CodeError where it differs, GraphInvalidError for a graph that cannot be."""
    compiled = compile_graph(graph)
    try:
        restore_weights(compiled.module, {key: value.detach().numpy() for key, value in weights.items()})
    except CheckpointError as error:
        raise CodeError(f"the module's weights are not those of the graph: {error}") from error
    sizes = {node: tuple(traced.values[node][0].shape[1:]) for node in traced.inputs}
    given = arguments(traced.graph, sizes, traced.ids, BATCH)
    module = fx.GraphModule(traced.root, traced.graph)
    with torch.inference_mode():
        expected = _tensors(module.eval()(*given))
        found = _tensors(compiled.module.eval()(*(each for each in given if each is not None)))
    same = len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one.float(), other.float(), TOLERANCE, TOLERANCE, True)
        for one, other in zip(found, expected, strict=True)
    )
    if not same:
        raise CodeError(
            "the graph answers otherwise than the module: it may change a tensor in place that it uses again"
        )


def _tensors(answer: Any) -> list[torch.Tensor]:
    return list(answer) if isinstance(answer, tuple | list) else [answer]
