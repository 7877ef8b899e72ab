"""Optimizers: how weights follow the gradient."""

from __future__ import annotations

from collections.abc import Callable

from backend.catalogue.parameter import Parameter, Parameters, boolean, number
from backend.catalogue.record import Category, Counts, NodeType, OptimizerType, Port, PortKind, PortType
from backend.errors import SetParameter, ShapeMismatchError


def _rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    if given.get("nesterov") and given["momentum"] == 0.0:
        raise ShapeMismatchError("nesterov needs a momentum above 0", SetParameter("momentum", 0.9))
    return (OptimizerType(),)


def _count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


def _optimizer(name: str, help: str, parameters: tuple[Parameter, ...], *keywords: str) -> NodeType:
    return NodeType(
        name,
        Category.OPTIMIZER,
        help,
        (Port("loss", PortKind.LOSS, variadic=True),),
        (Port("optimizer", PortKind.OPTIMIZER, required=False),),
        parameters,
        _rule,
        _count,
        keywords=("optimizer", *keywords),
        shape_rule="follows the sum of the losses linked to it",
    )


def _rate(default: float) -> Parameter:
    return number("learning_rate", default, "Step size", 0.0, 100.0)


def _decay(default: float = 0.0) -> Parameter:
    return number("weight_decay", default, "Pull of the weights towards zero", 0.0, 10.0)


EPSILON = number("epsilon", 1e-8, "Added so that nothing is divided by zero", 1e-16, 1.0)
BETAS = (
    number("beta1", 0.9, "Memory of the gradient's mean", 0.0, 0.999999),
    number("beta2", 0.999, "Memory of the gradient's square", 0.0, 0.999999),
)
MOMENTUM = number("momentum", 0.0, "Share of the last step kept", 0.0, 0.999999)

TYPES = (
    _optimizer(
        "SGD",
        "Stochastic gradient descent.",
        (_rate(0.01), MOMENTUM, boolean("nesterov", False, "Looks one step ahead"), _decay()),
        "momentum",
        "nesterov",
    ),
    _optimizer("Adam", "Steps scaled to each weight.", (_rate(0.001), *BETAS, EPSILON, _decay())),
    _optimizer(
        "AdamW", "Adam with decoupled weight decay.", (_rate(0.001), *BETAS, EPSILON, _decay(0.01)), "adam"
    ),
    _optimizer("NAdam", "Adam with Nesterov momentum.", (_rate(0.002), *BETAS, EPSILON, _decay()), "adam"),
    _optimizer(
        "RMSprop",
        "Divides by a running root mean square.",
        (
            _rate(0.01),
            number("alpha", 0.99, "Memory of the gradient's square", 0.0, 0.999999),
            EPSILON,
            MOMENTUM,
            _decay(),
        ),
    ),
    _optimizer(
        "Lion",
        "Steps of one size, in the direction of a running mean (Chen et al. 2023).",
        (
            _rate(0.0001),
            number("beta1", 0.9, "Memory of the direction of a step", 0.0, 0.999999),
            number("beta2", 0.99, "Memory of the gradient's mean", 0.0, 0.999999),
            _decay(),
        ),
        "sign",
    ),
    _optimizer("Adagrad", "Steps shrink with all gradients so far.", (_rate(0.01), EPSILON, _decay())),
)

_SLOTS: dict[str, Callable[[Parameters], int]] = {
    "SGD": lambda given: int(given["momentum"] > 0),
    "Adam": lambda given: 2,
    "AdamW": lambda given: 2,
    "NAdam": lambda given: 2,
    "RMSprop": lambda given: 1 + int(given["momentum"] > 0),
    "Adagrad": lambda given: 1,
    "Lion": lambda given: 1,
}


def state_slots(name: str, given: Parameters) -> int:
    """How many numbers an optimizer keeps for each weight."""
    return _SLOTS[name](given)
