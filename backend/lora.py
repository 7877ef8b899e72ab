"""Low-rank adapters on the matrices of a compiled model, and what they come to when merged.

An adapter begins as no change at all: of its two factors one is random, drawn from the graph's seed,
and the other zero. Its base keeps the names that it has without an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from backend.formats.tensors import Array
from backend.graph import Frozen, Lora, Tuning

DOWN, UP = "lora_a", "lora_b"
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Where a node's weights are found, and how they are trained."""

    name: str
    tuning: Tuning

    def covers(self, name: str) -> bool:
        return name == self.name or name.startswith(f"{self.name}.")


class AdaptedLinear(nn.Module):
    """``x W^T + b + alpha / rank * x A^T B^T``: W and b frozen, A (rank, in) and B (out, rank) trained."""

    bias: nn.Parameter | None

    def __init__(self, base: nn.Linear, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = lora.alpha / lora.rank
        self.weight = base.weight
        self.register_parameter("bias", base.bias)
        down = torch.empty(lora.rank, base.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(down)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, lora.rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return functional.linear(x, self.weight, self.bias) + change * self.scale


def tune(module: nn.Module, tunings: Iterable[Tuned], seed: int) -> None:
    """Adds adapters, and freezes what is not to be trained; running statistics of frozen nodes stay."""
    found = tuple(tunings)
    frozen = [each for each in found if isinstance(each.tuning, Frozen)]
    generator = torch.Generator().manual_seed(seed)
    for each in found:
        if isinstance(each.tuning, Lora) and not any(outer.covers(each.name) for outer in frozen):
            _adapt(module, each, each.tuning, generator)
    for name, parameter in module.named_parameters():
        is_adapter = name.endswith((f".{DOWN}", f".{UP}"))
        if not is_adapter and any(each.covers(name) for each in found):
            parameter.requires_grad_(False)
    for name, layer in module.named_modules():
        if isinstance(layer, _BATCH_NORMS) and any(each.covers(name) for each in frozen):
            hold_still(layer)


def _adapt(module: nn.Module, where: Tuned, lora: Lora, generator: torch.Generator) -> None:
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and where.covers(name)
    ]
    for name, layer in layers:
        parent, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(parent), own_name, AdaptedLinear(layer, lora, generator))


def hold_still(layer: nn.Module) -> None:
    """It stays in evaluation mode, whatever mode the model is put into."""
    layer.eval()
    layer.__dict__["train"] = lambda mode=True: layer


def is_held_still(layer: nn.Module) -> bool:
    return "train" in layer.__dict__


def merge_adapters(module: nn.Module, weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights of the same model without adapters, which predicts the same up to rounding."""
    merged = {name: array for name, array in weights.items() if not name.endswith((f".{DOWN}", f".{UP}"))}
    for name, layer in module.named_modules():
        if isinstance(layer, AdaptedLinear):
            change = weights[f"{name}.{UP}"] @ weights[f"{name}.{DOWN}"]
            merged[f"{name}.weight"] = (merged[f"{name}.weight"] + change * layer.scale).astype("float32")
    return merged
