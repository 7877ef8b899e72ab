"""What each optimizer type of the catalogue is in torch. Fused kernels where torch has them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import optim

from backend.pipeline import Setting


def build_optimizer(setting: Setting, parameters: Iterable[torch.nn.Parameter]) -> optim.Optimizer:
    """The optimizer of a valid graph."""
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
                fused=True,
            )
        case "Adam" | "AdamW" | "NAdam":
            return _adaptive(setting, weights)
        case "RMSprop":
            return optim.RMSprop(
                weights,
                lr=rate,
                alpha=given["alpha"],
                eps=given["epsilon"],
                momentum=given["momentum"],
                weight_decay=decay,
            )
        case "Adagrad":
            return optim.Adagrad(weights, lr=rate, eps=given["epsilon"], weight_decay=decay)
        case unknown:
            raise KeyError(unknown)


def _adaptive(setting: Setting, weights: list[torch.nn.Parameter]) -> optim.Optimizer:
    given = setting.parameters
    rate, decay = given["learning_rate"], given["weight_decay"]
    betas = (given["beta1"], given["beta2"])
    match setting.type:
        case "Adam":
            return optim.Adam(weights, rate, betas, given["epsilon"], decay, fused=True)
        case "AdamW":
            return optim.AdamW(weights, rate, betas, given["epsilon"], decay, fused=True)
        case _:
            return optim.NAdam(weights, rate, betas, given["epsilon"], decay)
