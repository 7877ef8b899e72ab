"""Losses: how far a prediction is from its target, averaged over the batch."""

from __future__ import annotations

from collections.abc import Callable

from backend.catalogue.record import (
    Category,
    Counts,
    LabelsType,
    LossType,
    NodeType,
    Parameter,
    Parameters,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    described,
    elements,
    number,
    numbers,
)
from backend.errors import ShapeMismatchError

PORTS = (Port("prediction", PortKind.TENSOR), Port("target", PortKind.LABELS))
Check = Callable[[Parameters, Shape, LabelsType], None]


def _classification(given: Parameters, prediction: Shape, target: LabelsType) -> None:
    if not target.classes:
        raise ShapeMismatchError("compares classes, the labels are real numbers")
    if prediction != (target.classes,):
        raise ShapeMismatchError(
            f"needs one score for each of the {target.classes} classes, got {described(prediction)}"
        )
    weights = given["class_weights"]
    if weights and len(weights) != target.classes:
        raise ShapeMismatchError(f"{len(weights)} class_weights, must be none or {target.classes}")


def _binary(given: Parameters, prediction: Shape, target: LabelsType) -> None:
    if target.classes:
        if target.classes != 2 or elements(prediction) != 1:
            raise ShapeMismatchError(
                f"compares one number with 2 classes, got {described(prediction)} and {target.classes}"
            )
    elif prediction != target.shape:
        raise ShapeMismatchError(
            f"prediction {described(prediction)} and target {described(target.shape)} must be of one shape"
        )


def _regression(given: Parameters, prediction: Shape, target: LabelsType) -> None:
    if target.classes:
        raise ShapeMismatchError(
            f"compares real numbers, the labels are {target.classes} classes: CrossEntropyLoss compares those"
        )
    if prediction != target.shape:
        raise ShapeMismatchError(
            f"prediction {described(prediction)} and target {described(target.shape)} must be of one shape"
        )


def _count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts(flops=sum(8 * elements(found.shape) for found in types if isinstance(found, TensorType)))


def _loss(
    name: str, help: str, check: Check, parameters: tuple[Parameter, ...] = (), *keywords: str
) -> NodeType:
    def rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
        match types:
            case (TensorType(shape), LabelsType() as target):
                check(given, shape, target)
        return (LossType(),)

    return NodeType(
        name,
        Category.LOSS,
        help,
        PORTS,
        (Port("loss", PortKind.LOSS),),
        parameters,
        rule,
        _count,
        keywords=("loss", *keywords),
    )


WEIGHTS = numbers("class_weights", "How much each class counts; empty: all the same", 0.0, 1e6)

TYPES = (
    _loss(
        "CrossEntropyLoss",
        "For one of several classes; takes scores before Softmax.",
        _classification,
        (
            number("label_smoothing", 0.0, "Share of certainty given to the other classes", 0.0, 1.0),
            WEIGHTS,
        ),
        "classification",
    ),
    _loss(
        "NLLLoss",
        "For one of several classes; takes log probabilities, from LogSoftmax.",
        _classification,
        (WEIGHTS,),
        "classification",
        "negative log likelihood",
    ),
    _loss("BCELoss", "For yes or no; takes probabilities, from Sigmoid.", _binary, (), "binary"),
    _loss("BCEWithLogits", "For yes or no; takes scores before Sigmoid.", _binary, (), "binary", "logits"),
    _loss("MSELoss", "Mean squared difference.", _regression, (), "regression", "l2"),
    _loss("L1Loss", "Mean absolute difference.", _regression, (), "regression", "mae"),
    _loss(
        "SmoothL1Loss",
        "Squared where the difference is below beta, absolute elsewhere; divided by beta.",
        _regression,
        (number("beta", 1.0, "Where it changes", 1e-6, 1e6),),
        "regression",
    ),
    _loss(
        "HuberLoss",
        "Squared where the difference is below delta, absolute elsewhere.",
        _regression,
        (number("delta", 1.0, "Where it changes", 1e-6, 1e6),),
        "regression",
    ),
)
