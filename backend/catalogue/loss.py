"""Losses: how far a prediction is from its target, averaged over the batch."""

from __future__ import annotations

from collections.abc import Callable

from backend.catalogue.parameter import Parameter, Parameters, boolean, integer, number, numbers
from backend.catalogue.record import (
    MAX_IDS,
    Category,
    Counts,
    LabelsType,
    LossType,
    NodeType,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    axis_of,
    described,
    elements,
)
from backend.errors import SetParameter, ShapeMismatchError

PREDICTION, TARGET = Port("prediction", PortKind.TENSOR), Port("target", PortKind.LABELS)
Check = Callable[[Parameters, tuple[Shape, ...], LabelsType], None]


def _classification(given: Parameters, predictions: tuple[Shape, ...], target: LabelsType) -> None:
    (prediction,) = predictions
    if not target.classes and not given["classes"]:
        raise ShapeMismatchError("compares classes, the labels are real numbers: say how many with classes")
    if target.classes and given["classes"] not in (0, target.classes):
        raise ShapeMismatchError(
            f"{given['classes']} classes, the labels have {target.classes}", SetParameter("classes", 0)
        )
    target = LabelsType(target.shape, target.classes or given["classes"])
    axis = axis_of(given["class_axis"], prediction)
    rest = prediction[:axis] + prediction[axis + 1 :]
    if prediction[axis] != target.classes or rest != target.shape:
        place = f" at each place of {described(target.shape)}" if target.shape else ""
        last, first = (*target.shape, target.classes), (target.classes, *target.shape)
        fitting = {last: [SetParameter("class_axis", -1)], first: [SetParameter("class_axis", 0)]}
        raise ShapeMismatchError(
            f"needs one score for each of the {target.classes} classes{place}, got {described(prediction)}",
            *fitting.get(prediction, []),
        )
    weights = given["class_weights"]
    if given["balance"] and weights:
        raise ShapeMismatchError(
            "class_weights and balance, must be one of them", SetParameter("class_weights", [])
        )
    if given["balance"] and given["classes"]:
        raise ShapeMismatchError(
            "balance counts the labels of the dataset, not real-numbered ones", SetParameter("balance", False)
        )
    if weights and len(weights) != target.classes:
        raise ShapeMismatchError(
            f"{len(weights)} class_weights, must be none or {target.classes}",
            SetParameter("class_weights", []),
        )


def _binary(given: Parameters, predictions: tuple[Shape, ...], target: LabelsType) -> None:
    (prediction,) = predictions
    if target.classes:
        if target.classes != 2 or elements(prediction) != elements(target.shape):
            raise ShapeMismatchError(
                f"compares one number with 2 classes, got {described(prediction)} and {target.classes}"
            )
    else:
        _alike(prediction, target.shape)


def _regression(given: Parameters, predictions: tuple[Shape, ...], target: LabelsType) -> None:
    if target.classes:
        raise ShapeMismatchError(
            f"compares real numbers, the labels are {target.classes} classes: CrossEntropyLoss compares those"
        )
    _alike(predictions[0], target.shape)


def _alike(prediction: Shape, target: Shape) -> None:
    if prediction != target:
        raise ShapeMismatchError(
            f"prediction {described(prediction)} and target {described(target)} must be of one shape"
        )


def _similarity(given: Parameters, predictions: tuple[Shape, ...], target: LabelsType) -> None:
    first, second = predictions
    if len(first) != 1 or first != second:
        raise ShapeMismatchError(
            f"compares two vectors of one length, got {described(first)} and {described(second)}"
        )
    if target.classes not in (0, 2) or elements(target.shape) != 1:
        raise ShapeMismatchError(
            "needs one number for each pair, -1 or 1, or 2 classes, of which the second means alike"
        )


def _count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts(flops=sum(8 * elements(found.shape) for found in types if isinstance(found, TensorType)))


def _loss(
    name: str,
    help: str,
    check: Check,
    parameters: tuple[Parameter, ...] = (),
    *keywords: str,
    shape_rule: str = "prediction and target are of one shape",
    predictions: tuple[Port, ...] = (PREDICTION,),
) -> NodeType:
    def rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
        *tensors, target = types
        shapes = tuple(found.shape for found in tensors if isinstance(found, TensorType))
        if any(found.ids for found in tensors if isinstance(found, TensorType)):
            raise ShapeMismatchError("takes real numbers for its prediction, got ids")
        if isinstance(target, LabelsType):
            check(given, shapes, target)
        return (LossType(),)

    return NodeType(
        name,
        Category.LOSS,
        help,
        (*predictions, TARGET),
        (Port("loss", PortKind.LOSS),),
        (*parameters, WEIGHT),
        rule,
        _count,
        keywords=("loss", *keywords),
        shape_rule=shape_rule,
    )


WEIGHT = number("weight", 1.0, "Share in the sum of all losses of the graph", 0.0, 1e6)
CLASS_WEIGHTS = numbers("class_weights", "How much each class counts; empty: all the same", 0.0, 1e6)
CLASSES = (
    CLASS_WEIGHTS,
    boolean("balance", False, "Weights each class by how rare it is among the training samples"),
    integer("ignored_class", None, "A label that does not count, such as that of padding", 0, MAX_IDS),
    integer("class_axis", -1, "Axis of the prediction that has one score for each class", -8, 7),
    integer(
        "classes",
        0,
        "Above 0: real-numbered labels, such as one column of several, hold class numbers below it; "
        "0: as the labels say",
        0,
        1 << 20,
    ),
)
SCORES = "labels shaped (...) need scores (..., classes), or (classes, ...) with class_axis 0"

TYPES = (
    _loss(
        "CrossEntropyLoss",
        "For one of several classes; takes scores before Softmax.",
        _classification,
        (
            number("label_smoothing", 0.0, "Share of certainty given to the other classes", 0.0, 1.0),
            *CLASSES,
        ),
        "classification",
        "token",
        "segmentation",
        shape_rule=SCORES,
    ),
    _loss(
        "NLLLoss",
        "For one of several classes; takes log probabilities, from LogSoftmax.",
        _classification,
        CLASSES,
        "classification",
        "negative log likelihood",
        shape_rule=SCORES,
    ),
    _loss(
        "BCELoss",
        "For yes or no; takes probabilities, from Sigmoid.",
        _binary,
        (),
        "binary",
        "multi-label",
        shape_rule="one probability for each target from 0 to 1, or for labels of 2 classes",
    ),
    _loss(
        "BCEWithLogits",
        "For yes or no; takes scores before Sigmoid.",
        _binary,
        (number("positive_weight", 1.0, "How much a yes counts, in units of a no", 1e-6, 1e6),),
        "binary",
        "logits",
        "multi-label",
        shape_rule="one score for each target from 0 to 1, or for labels of 2 classes",
    ),
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
    _loss(
        "KLDivLoss",
        "How far a predicted distribution is from the target's; takes log probabilities.",
        _regression,
        (boolean("log_target", False, "The target holds log probabilities too"),),
        "distribution",
        "distillation",
        "kullback leibler",
    ),
    _loss(
        "CosineEmbeddingLoss",
        "Brings vectors of like samples together and those of unlike ones apart.",
        _similarity,
        (number("margin", 0.0, "Unlike vectors may be this alike", -1.0, 1.0),),
        "similarity",
        "siamese",
        "metric learning",
        shape_rule="two predictions shaped (features); the target is -1 or 1, or labels of 2 classes",
        predictions=(PREDICTION, Port("other", PortKind.TENSOR)),
    ),
)
