"""What each loss type of the catalogue is in torch, and which predictions count as right.

Losses are plain functions ``(prediction, target) -> mean over the batch``; prediction is (N, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional

from backend.pipeline import Setting

LossFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ClassWeights:
    """A loss with weights of classes, which follow the predictions to their device."""

    def __init__(self, function: Callable[..., torch.Tensor], weights: tuple[float, ...]) -> None:
        self._function = function
        self._weights = torch.tensor(weights)

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self._weights.device != prediction.device:
            self._weights = self._weights.to(prediction.device)
        return self._function(prediction, target, weight=self._weights)


def _binary(function: Callable[..., torch.Tensor]) -> LossFunction:
    """Targets may be class numbers 0 and 1."""

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return function(prediction, target.to(prediction.dtype).view_as(prediction))

    return loss


def _weighted(function: Callable[..., torch.Tensor], setting: Setting) -> LossFunction:
    weights = setting.parameters["class_weights"]
    return ClassWeights(function, weights) if weights else function


def build_loss(setting: Setting) -> LossFunction:
    """The loss of a valid graph."""
    given = setting.parameters
    match setting.type:
        case "CrossEntropyLoss":
            smoothing = given["label_smoothing"]
            function = partial(functional.cross_entropy, label_smoothing=smoothing)
            return _weighted(function if smoothing else functional.cross_entropy, setting)
        case "NLLLoss":
            return _weighted(functional.nll_loss, setting)
        case "BCELoss":
            return _binary(functional.binary_cross_entropy)
        case "BCEWithLogits":
            return _binary(functional.binary_cross_entropy_with_logits)
        case "MSELoss":
            return functional.mse_loss
        case "L1Loss":
            return functional.l1_loss
        case "SmoothL1Loss":
            return partial(functional.smooth_l1_loss, beta=given["beta"])
        case "HuberLoss":
            return partial(functional.huber_loss, delta=given["delta"])
        case unknown:
            raise KeyError(unknown)


def correct_predictions(
    setting: Setting, prediction: torch.Tensor, target: torch.Tensor
) -> torch.Tensor | None:
    """How many samples of a batch got the right class, as a tensor; None where there are no classes."""
    match setting.type:
        case "CrossEntropyLoss" | "NLLLoss":
            return (prediction.argmax(1) == target).sum()
        case "BCELoss" | "BCEWithLogits" if not target.is_floating_point():
            threshold = 0.5 if setting.type == "BCELoss" else 0.0
            return ((prediction > threshold).view_as(target) == target.bool()).sum()
        case _:
            return None
