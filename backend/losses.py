"""What each loss type of the catalogue is in torch, and which predictions count as right.

Losses are plain functions ``(prediction, ..., target) -> mean over the batch``; tensors are (N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional

from backend.errors import DatasetError, GraphInvalidError
from backend.pipeline import Setting

LossFunction: TypeAlias = Callable[..., torch.Tensor]
PROBABILISTIC = frozenset({"BCELoss", "BCEWithLogits", "KLDivLoss"})
_ROUNDING = 1e-3


class ClassWeights:
    """A loss with weights of classes, which follow the predictions to their device and precision."""

    def __init__(self, function: LossFunction, weights: tuple[float, ...]) -> None:
        self._function = function
        self._weights = torch.tensor(weights)

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self._weights.device != prediction.device or self._weights.dtype != prediction.dtype:
            self._weights = self._weights.to(prediction.device, prediction.dtype)
        return self._function(prediction, target, weight=self._weights)


@dataclass(frozen=True, slots=True)
class Judged:
    """How many of so many places of a batch got the right class."""

    correct: torch.Tensor
    places: torch.Tensor | int


def build_loss(setting: Setting) -> LossFunction:
    """The loss of a valid graph, without its weight in a sum of losses."""
    given = setting.parameters
    match setting.type:
        case "CrossEntropyLoss":
            smoothing = given["label_smoothing"]
            function = partial(functional.cross_entropy, label_smoothing=smoothing)
            return _of_classes(function if smoothing else functional.cross_entropy, setting)
        case "NLLLoss":
            return _of_classes(functional.nll_loss, setting)
        case "BCELoss":
            return _binary(_of_probabilities)
        case "BCEWithLogits":
            return _with_logits(given["positive_weight"])
        case "MSELoss":
            return functional.mse_loss
        case "L1Loss":
            return functional.l1_loss
        case "SmoothL1Loss":
            return partial(functional.smooth_l1_loss, beta=given["beta"])
        case "HuberLoss":
            return partial(functional.huber_loss, delta=given["delta"])
        case "KLDivLoss":
            return partial(functional.kl_div, reduction="batchmean", log_target=given["log_target"])
        case "CosineEmbeddingLoss":
            return _similarity(given["margin"])
        case unknown:
            raise KeyError(unknown)


def check_targets(setting: Setting, target: torch.Tensor) -> None:
    """Raises DatasetError for numbers that are no probabilities where the loss compares with some."""
    compares = setting.type in PROBABILISTIC and not setting.parameters.get("log_target", False)
    if not compares or not target.is_floating_point() or not target.numel():
        return
    low, high = (float(each) for each in target.aminmax())
    most = math.inf if setting.type == "KLDivLoss" else 1.0  # which also takes weights that are not divided
    if low < -_ROUNDING or high > most + _ROUNDING:
        raise DatasetError(
            f"{setting.type} compares with probabilities from 0 to 1, targets go from {low:g} to {high:g}"
        )


def judge(setting: Setting, prediction: torch.Tensor, target: torch.Tensor) -> Judged | None:
    """None where there are no classes."""
    match setting.type:
        case "CrossEntropyLoss" | "NLLLoss":
            return _judge_classes(setting, prediction, target)
        case "BCELoss" | "BCEWithLogits" if not target.is_floating_point():
            right = (prediction > threshold_of(setting)).view_as(target) == target.bool()
            return Judged(right.sum(), target.numel())
        case _:
            return None


def has_classes(setting: Setting, classes: int) -> bool:
    """Whether predictions of this loss are right or wrong, for targets of so many classes."""
    return setting.type in ("CrossEntropyLoss", "NLLLoss") or (
        setting.type in ("BCELoss", "BCEWithLogits") and classes > 0
    )


# -- classes -------------------------------------------------------------------------------------


def _of_classes(function: LossFunction, setting: Setting) -> LossFunction:
    """Scores of a sample are (classes), or have an axis of classes anywhere among those of the labels."""
    given = setting.parameters
    if given["ignored_class"] is not None:
        function = partial(function, ignore_index=given["ignored_class"])
    whole = ClassWeights(function, given["class_weights"]) if given["class_weights"] else function
    axis = _batch_axis(given["class_axis"])

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if prediction.ndim == 2:
            return whole(prediction, target)
        scores = prediction.movedim(axis, -1).flatten(0, -2)
        return whole(scores, target.flatten())

    return loss


def _batch_axis(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def places_of(
    setting: Setting, prediction: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (P, classes) and class numbers (P) of all places of a batch that count."""
    given = setting.parameters
    scores = prediction
    if prediction.ndim > 2:
        scores = prediction.movedim(_batch_axis(given["class_axis"]), -1).flatten(0, -2)
    labels = target.flatten()
    if given["ignored_class"] is None:
        return scores, labels
    counted = labels != given["ignored_class"]
    return scores[counted], labels[counted]


def threshold_of(setting: Setting) -> float:
    """Above it the answer of a yes-or-no loss is yes."""
    return 0.5 if setting.type == "BCELoss" else 0.0


def _judge_classes(setting: Setting, prediction: torch.Tensor, target: torch.Tensor) -> Judged:
    given = setting.parameters
    found = prediction.argmax(1 if prediction.ndim == 2 else _batch_axis(given["class_axis"]))
    if given["ignored_class"] is None:
        return Judged((found == target).sum(), target.numel())
    counted = target != given["ignored_class"]
    return Judged(((found == target) & counted).sum(), counted.sum())


# -- yes or no -----------------------------------------------------------------------------------


def _binary(function: LossFunction) -> LossFunction:
    """Targets may be class numbers 0 and 1."""

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return function(prediction, target.to(prediction.dtype).view_as(prediction))

    return loss


def _of_probabilities(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """NaN where a prediction is, for which torch has an error. Raises GraphInvalidError, DatasetError."""
    try:
        return functional.binary_cross_entropy(prediction, target)
    except RuntimeError as error:
        low, high = (float(each) for each in prediction.detach().aminmax())
        if math.isnan(low):
            return prediction.mean()
        if low < 0 or high > 1:
            text = f"BCELoss takes probabilities from 0 to 1, the predictions go from {low:g} to {high:g}"
            raise GraphInvalidError((f"{text}: put a Sigmoid before the Output",)) from error
        raise DatasetError(f"BCELoss compares with probabilities from 0 to 1: {error}") from error


def _with_logits(positive_weight: float) -> LossFunction:
    function = functional.binary_cross_entropy_with_logits
    if positive_weight == 1.0:
        return _binary(function)

    def weighted(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return function(prediction, target, pos_weight=prediction.new_tensor(positive_weight))

    return _binary(weighted)


def _similarity(margin: float) -> LossFunction:
    """Targets are -1 and 1, or class numbers, of which 0 means unlike."""

    def loss(first: torch.Tensor, second: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        sign = target.reshape(-1)
        if not sign.is_floating_point():
            sign = 2 * sign - 1
        return functional.cosine_embedding_loss(first, second, sign, margin)

    return loss
