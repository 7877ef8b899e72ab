"""Estimates against what torch itself counts and keeps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from backend.compiler import CompiledModel, compile_graph
from backend.estimate import estimate
from backend.graph import Graph
from tests.unit.backend.test_training_tasks import Nodes, data_nodes, graph

BATCH = 16
FLOPS_WITHIN = 0.08
"""We also count additions, activations and norms, which torch's counter leaves out: never below it."""
MEMORY_WITHIN = 4.5
"""A factor: what is kept for the backward pass, and gradients in its place; never less than is kept."""


def net(
    shape: tuple[int, ...], layers: list[tuple[str, dict[str, object]]], optimizer: str = "Adam"
) -> Graph:
    ids = bool(layers and layers[0][0] == "Embedding")
    data = data_nodes(sample_shape=list(shape), target_shape=[4], vocabulary=50 if ids else 0)
    nodes: Nodes = {
        **data,
        "x": ("Input", {}),
        **{f"n{n}": layer for n, layer in enumerate(layers)},
        "flat": ("Flatten", {}),
        "head": ("Dense", {"units": 4}),
        "y": ("Output", {}),
        "loss": ("MSELoss", {}),
        "best": (optimizer, {}),
    }
    chain = ["x", *(f"n{n}" for n in range(len(layers))), "flat", "head", "y"]
    links = "; ".join(f"{a} > {b}" for a, b in pairwise(chain))
    ends = "loader.samples > x; y > loss.prediction; loader.labels > loss.target; loss.loss > best.loss"
    return graph(nodes, f"data.dataset > loader.dataset; {links}; {ends}")


RELU: tuple[str, dict[str, object]] = ("ReLU", {})
CONVOLUTION: tuple[str, dict[str, object]] = ("Conv2D", {"filters": 16, "padding": "same"})
FAMILIES = {
    "mlp": net((64,), [("Dense", {"units": 128}), RELU, ("Dense", {"units": 64}), RELU]),
    "cnn": net((3, 16, 16), [CONVOLUTION, RELU, ("MaxPool2D", {}), CONVOLUTION, RELU], "SGD"),
    "gru": net((12, 16), [("GRU", {"units": 32})], "AdamW"),
    "transformer": net(
        (12,), [("Embedding", {"vocabulary": 50, "dimension": 32}), ("TransformerEncoder", {})]
    ),
    "llama": net((12,), [("Embedding", {"vocabulary": 50, "dimension": 32}), ("LlamaBlock", {})], "RMSprop"),
}


def batch_of(compiled: CompiledModel) -> torch.Tensor:
    (end,) = compiled.inputs
    return torch.randint(end.ids, (BATCH, *end.shape)) if end.ids else torch.randn(BATCH, *end.shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family: str) -> None:
    compiled = compile_graph(FAMILIES[family])
    x = batch_of(compiled)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        compiled.module(x)
    counted = counter.get_total_flops() / BATCH
    found = estimate(FAMILIES[family], 100, tuple(x.shape[1:])).flops_per_sample
    assert counted <= found <= counted * (1 + FLOPS_WITHIN)


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_what_a_training_step_keeps(family: str) -> None:
    compiled = compile_graph(FAMILIES[family])
    module, optimizer = compiled.module, compiled.build_optimizer()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {value.untyped_storage().data_ptr() for value in module.parameters()}
    x = batch_of(compiled)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module(x).square().mean()
    loss.backward()
    optimizer.step()
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    states = [value for state in optimizer.state.values() for value in state.values()]
    found = estimate(FAMILIES[family], 100, tuple(x.shape[1:]))
    assert found.weights_bytes == sum(value.nbytes for value in module.state_dict().values())
    assert found.gradients_bytes == sum(w.grad.nbytes for w in module.parameters() if w.grad is not None)
    assert found.optimizer_bytes == sum(s.nbytes for s in states if isinstance(s, torch.Tensor) and s.ndim)
    assert activations <= found.activations_bytes <= activations * MEMORY_WITHIN
