"""What each optimizer type of the catalogue is in torch. Fused kernels where torch has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import optim

from backend.pipeline import Setting
from backend.reports import OptimizerKind


class Lion(optim.Optimizer):
    """The sign of a mean of gradients is the step (Chen et al. 2023, "Symbolic Discovery of Optimization
    Algorithms"); weight decay is decoupled from it.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights: list[torch.Tensor] = [each for each in group["params"] if each.grad is not None]
            if weights:
                self._step(weights, group)

    def _step(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        rate, (beta1, beta2) = group["lr"], group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means = [self._mean_of(weight) for weight in weights]
        directions = torch._foreach_lerp(gradients, means, beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, directions, alpha=-rate)
        torch._foreach_lerp_(means, gradients, 1 - beta2)

    def _mean_of(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        mean: torch.Tensor = state["mean"]
        return mean


class FusedAdam(optim.Adam):
    """As torch's fused one, to the bit, without what that looks up and looks for anew at each step: hooks,
    a profiler, which weights are where. For a small network that takes as long as its weights do."""

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        rate: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        *,
        decoupled: bool,
    ) -> None:
        """``weights`` are on one device and of one type; ``decoupled``: AdamW's decay."""
        super().__init__(
            weights, rate, betas, epsilon, weight_decay, fused=True, decoupled_weight_decay=decoupled
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        weights: list[torch.Tensor] = [each for each in group["params"] if each.grad is not None]
        states = [self.state[each] for each in weights]
        if not weights or not all(states):
            super().step()  # which makes what state is missing
            return
        steps = [each["step"] for each in states]
        torch._foreach_add_(steps, 1)
        update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        update(
            weights,
            [each.grad for each in weights if each.grad is not None],
            [each["exp_avg"] for each in states],
            [each["exp_avg_sq"] for each in states],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it in the look for hooks


OPTIMIZER_KINDS: Mapping[str, tuple[OptimizerKind, ...]] = {
    "SGD": ("fused", "foreach"),
    "Adam": ("fused", "foreach"),
    "AdamW": ("fused", "foreach"),
    "NAdam": ("plain", "foreach"),
    "RMSprop": ("plain", "foreach"),
    "Adagrad": ("fused", "foreach"),
    "Lion": ("foreach",),
}
"""By type, what there is of it; the first is what is taken unless another is asked for."""


def state_names(setting: Setting, kind: OptimizerKind) -> frozenset[str]:
    """Of what such an optimizer keeps for a weight once it has made a step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    optimizer = build_optimizer(setting, [weight], kind)
    optimizer.step()
    return frozenset(name for name, value in optimizer.state[weight].items() if value is not None)


def build_optimizer(
    setting: Setting, parameters: Iterable[torch.nn.Parameter], kind: OptimizerKind | None = None
) -> optim.Optimizer:
    """The optimizer of a valid graph. Raises ValueError for a kind that there is not."""
    kinds = OPTIMIZER_KINDS[setting.type]
    kind = kind or kinds[0]
    if kind not in kinds:
        raise ValueError(f"{setting.type} is {kind}, can be {', '.join(kinds)}")
    how: dict[str, Any] = {} if kind == "plain" else {kind: True}
    given, weights = setting.parameters, list(parameters)
    rate, decay = given["learning_rate"], given["weight_decay"]
    match setting.type:
        case "SGD":
            return optim.SGD(
                weights,
                lr=rate,
                momentum=given["momentum"],
                nesterov=given["nesterov"],
                weight_decay=decay,
                **how,
            )
        case "Adam" | "AdamW" | "NAdam":
            return _adaptive(setting, weights, how)
        case "RMSprop":
            return optim.RMSprop(
                weights,
                lr=rate,
                alpha=given["alpha"],
                eps=given["epsilon"],
                momentum=given["momentum"],
                weight_decay=decay,
                **how,
            )
        case "Adagrad":
            return optim.Adagrad(weights, lr=rate, eps=given["epsilon"], weight_decay=decay, **how)
        case "Lion":
            return Lion(weights, rate, (given["beta1"], given["beta2"]), decay)
        case unknown:
            raise KeyError(unknown)


def _adaptive(setting: Setting, weights: list[torch.nn.Parameter], how: dict[str, Any]) -> optim.Optimizer:
    given = setting.parameters
    rate, decay = given["learning_rate"], given["weight_decay"]
    betas = (given["beta1"], given["beta2"])
    if "fused" in how and len({(each.device, each.dtype) for each in weights}) == 1:
        decoupled = setting.type == "AdamW"
        return FusedAdam(weights, rate, betas, given["epsilon"], decay, decoupled=decoupled)
    match setting.type:
        case "Adam":
            return optim.Adam(weights, rate, betas, given["epsilon"], decay, **how)
        case "AdamW":
            return optim.AdamW(weights, rate, betas, given["epsilon"], decay, **how)
        case _:
            return optim.NAdam(weights, rate, betas, given["epsilon"], decay, **how)
