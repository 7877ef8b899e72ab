"""Penalties: what is added to a loss to keep weights small, and a limit for gradients."""

from __future__ import annotations

from backend.catalogue.parameter import Parameter, Parameters, choice, number
from backend.catalogue.record import Category, LossType, NodeType, Port, PortKind, PortType
from backend.catalogue.schedule import OPTIMIZER, OPTIMIZER_OUT, no_counts, pass_optimizer

INPUTS = (
    Port("loss", PortKind.LOSS),
    Port("parameters", PortKind.PARAMETERS, variadic=True, required=False),
)


def _pass_loss(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    return (LossType(),)


def _penalty(name: str, help: str, parameters: tuple[Parameter, ...], *keywords: str) -> NodeType:
    return NodeType(
        name,
        Category.PENALTY,
        help,
        INPUTS,
        (Port("loss", PortKind.LOSS),),
        parameters,
        _pass_loss,
        no_counts,
        keywords=("regularization", "overfitting", *keywords),
        shape_rule=WORDS,
    )


WORDS = (
    "is added to the loss: of the weights linked to it, or of all of the model with two or more axes, "
    "which leaves out biases and normalization"
)
L1 = number("l1", 1e-5, "Times the sum of the absolute weights", 0.0, 10.0)
L2 = number("l2", 1e-4, "Times the sum of the squared weights", 0.0, 10.0)

TYPES = (
    _penalty(
        "L1Regularization", "Draws weights to zero, many of them all the way.", (L1,), "lasso", "sparse"
    ),
    _penalty("L2Regularization", "Draws large weights towards zero.", (L2,), "ridge", "weight decay"),
    _penalty("ElasticNet", "L1 and L2 together.", (L1, L2), "lasso", "ridge"),
    NodeType(
        "GradientClip",
        Category.PENALTY,
        "Keeps gradients below a limit, so that no step is too long.",
        OPTIMIZER,
        OPTIMIZER_OUT,
        (
            choice("method", "norm", "Of all gradients together, or each value", ("norm", "value")),
            number("limit", 1.0, "Largest norm or value", 1e-6, 1e6),
        ),
        pass_optimizer,
        no_counts,
        keywords=("clip", "exploding gradients", "stability"),
        shape_rule="acts before each step of the optimizer it is linked to",
    ),
)
