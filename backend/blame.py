"""Which node a loss that is no number comes from: one step looked at node by node.

Only for a step that is known to go wrong, since it is slow. Nothing that the step would change is
changed but what layers remember while they train, such as running means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from backend.compiler import ORIGIN, Origin
from backend.objective import Tensors
from backend.stepper import Stepper
from backend.training_data import Batch


@dataclass(frozen=True, slots=True)
class Culprit:
    """``node`` is the id of a node, with those of the nodes around it; empty for what belongs to none."""

    node: str
    text: str


def find_culprit(stepper: Stepper, batch: Batch, number: int) -> Culprit | None:
    """Looks at step ``number`` with the weights that it begins with; None if nothing is wrong with it."""
    weights = _first_bad(dict(stepper.module.named_parameters()))
    if weights is not None:
        owner = _owner(stepper.module, weights)
        return Culprit(owner.path, f"the weights of {owner}, before the step")
    if not _is_finite(batch.inputs) or not _is_finite(batch.targets):
        return Culprit("", "the samples themselves")
    inputs, targets = stepper.inputs_of(batch, number)
    if not all(map(_is_finite, (*inputs, *targets))):
        return _in_preparation(stepper, batch)
    looker = _Looker(stepper.module)
    with stepper.precision():
        predictions = looker.look(inputs)
    if looker.culprit is not None:
        return looker.culprit
    return _in_losses(stepper, predictions, targets) or _in_gradients(stepper, looker, predictions, targets)


def _in_preparation(stepper: Stepper, batch: Batch) -> Culprit:
    looker = _Looker(stepper.parts.prepare)
    looker.look((batch.inputs, batch.targets))
    return looker.culprit or Culprit("", "the random changes of the samples")


def _in_losses(stepper: Stepper, predictions: Tensors, targets: Tensors) -> Culprit | None:
    floats = tuple(each.float() for each in predictions)
    for head, target in zip(stepper.parts.objective.heads, targets, strict=True):
        if not _is_finite(head.loss(floats, target)):
            setting = head.term.setting
            return Culprit(setting.node_id, f"{setting.node_id!r} ({setting.type})")
    return None


def _in_gradients(
    stepper: Stepper, looker: _Looker, predictions: Tensors, targets: Tensors
) -> Culprit | None:
    """Gradients reach the nodes last to first; the first that is no number was made by who read it."""
    stepper.optimizer.zero_grad(set_to_none=True)
    loss = stepper.parts.objective.loss(tuple(each.float() for each in predictions), targets)
    stepper.parts.penalties.add_to(loss).backward()  # type: ignore[no-untyped-call]
    try:
        bad = looker.first_bad_gradient
        if bad is not None:
            return Culprit(bad.path, f"the gradient through {bad}") if bad.path else _of_losses(stepper)
        name = first_bad_gradient(stepper.module)
        if name is None:
            return None
        owner = _owner(stepper.module, name)
        return Culprit(owner.path, f"the gradient of the weights of {owner}")
    finally:
        stepper.optimizer.zero_grad(set_to_none=True)


def first_bad_gradient(module: nn.Module) -> str | None:
    """The name of the first weight whose gradient is no number."""
    return _first_bad({name: each.grad for name, each in module.named_parameters() if each.grad is not None})


def culprit_of_update(module: nn.Module) -> Culprit | None:
    """After a step of the optimizer: the first node whose weights are no numbers now."""
    name = _first_bad(dict(module.state_dict()))
    if name is None:
        return None
    owner = _owner(module, name)
    return Culprit(owner.path, f"the weights of {owner}, after the optimizer's step")


def _of_losses(stepper: Stepper) -> Culprit:
    setting = stepper.parts.objective.heads[0].term.setting
    return Culprit(setting.node_id, f"the gradient of {setting.node_id!r} ({setting.type})")


class _Looker(fx.Interpreter):
    """Runs a compiled graph call by call."""

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, fx.GraphModule):
            raise TypeError(f"{type(module).__name__} is not a compiled graph")
        super().__init__(module)
        self.culprit: Culprit | None = None
        self.first_bad_gradient: Origin | None = None

    def look(self, inputs: Tensors) -> Tensors:
        answer: Any = self.run(*inputs)
        return answer if isinstance(answer, tuple) else (answer,)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for each in _tensors(value):
            if self.culprit is None and n.op in ("call_function", "call_module") and not _is_finite(each):
                origin = origin_of(n)
                self.culprit = Culprit(origin.path, f"the output of {origin}")
            if each.requires_grad and n.op != "output":
                each.register_hook(self._watching(n))  # type: ignore[no-untyped-call]
        return value

    def _watching(self, n: fx.Node) -> Any:
        def look(gradient: torch.Tensor) -> None:
            if self.first_bad_gradient is None and not _is_finite(gradient):
                readers = [user for user in n.users if user.op != "output"]
                self.first_bad_gradient = origin_of(readers[0]) if readers else Origin("", "")

        return look


def origin_of(node: fx.Node) -> Origin:
    """Which node of the document a call was compiled from."""
    found = node.meta.get(ORIGIN)
    return found if isinstance(found, Origin) else Origin(node.name, str(node.target))


def _owner(module: nn.Module, weight: str) -> Origin:
    """Of a weight by its name in the state dict."""
    for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
        if node.op in ("call_module", "get_attr") and f"{weight}.".startswith(f"{node.target}."):
            return origin_of(node)
    return Origin(weight.rpartition(".")[0], weight.rpartition(".")[2])


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _first_bad(tensors: dict[str, torch.Tensor]) -> str | None:
    return next((name for name, each in tensors.items() if not _is_finite(each)), None)


def _is_finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
