"""What goes on at each node while a model trains: activations and gradients, looked at now and then.

A step that is looked at computes what it would have computed, call by call; nothing is drawn or changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from backend.blame import origin_of
from backend.compiler import Origin
from backend.objective import Tensors
from backend.reports import MAX_WATCHED, NodeActivity

SAMPLED = 1 << 14
"""Numbers of a tensor that are looked at."""


class Watcher:
    """Of one training. ``now``: a monotonic clock in seconds."""

    def __init__(self, module: fx.GraphModule, every_s: float, now: Callable[[], float]) -> None:
        self._module = module
        self._every_s = every_s
        self._now = now
        self._due_at = -math.inf
        self._weights = _weights_of(module)
        self._seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def is_due(self) -> bool:
        return self._now() >= self._due_at

    def run(self, *inputs: torch.Tensor) -> torch.Tensor | Tensors:
        """The model's answer, as the module itself gives it."""
        self._due_at = self._now() + self._every_s
        self._seen = {}
        answer: torch.Tensor | Tensors = _Walk(self._module, self._see).run(*inputs)
        return answer

    def activity(self) -> tuple[NodeActivity, ...]:
        """Of the step that ``run`` was a part of, once its gradients are there."""
        gradients = {
            node: torch.stack([weight.grad.norm() for weight in weights if weight.grad is not None])
            for node, weights in self._weights.items()
            if any(weight.grad is not None for weight in weights)
        }
        found = []
        for node, (std, mean) in list(self._seen.items())[:MAX_WATCHED]:
            gradient = float(gradients[node].norm()) if node in gradients else None
            found.append(NodeActivity(node, float(mean), float(std), gradient))
        self._seen = {}
        return tuple(found)

    def _see(self, origin: Origin, value: torch.Tensor) -> None:
        """The last call of a node gives its answer; that of what is inside it is the node's around it too."""
        numbers = value.detach().reshape(-1)
        numbers = numbers[:: max(1, len(numbers) // SAMPLED)].float()
        if len(numbers) < 2:
            return
        found = torch.std_mean(numbers)
        path = origin.path
        while path:
            self._seen[path] = (found[0], found[1])
            path = path.rpartition(".")[0]


class _Walk(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, see: Callable[[Origin, torch.Tensor], None]) -> None:
        super().__init__(module)
        self._see = see

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_call = n.op in ("call_function", "call_module") and bool(n.meta)
        if is_call and isinstance(value, torch.Tensor) and value.is_floating_point():
            self._see(origin_of(n), value)
        return value


def _weights_of(module: fx.GraphModule) -> dict[str, list[torch.nn.Parameter]]:
    """Those that are trained, by the path of their node."""
    origins = {
        str(node.target): origin_of(node).path
        for node in module.graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    found: dict[str, list[torch.nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        prefix = name
        while prefix and prefix not in origins:
            prefix = prefix.rpartition(".")[0]
        path = origins.get(prefix, "")
        while path and weight.requires_grad:
            found.setdefault(path, []).append(weight)
            path = path.rpartition(".")[0]
    return found
