"""Learning-rate schedules: linked one after the other behind the optimizer, their factors multiply."""

from __future__ import annotations

from backend.catalogue.parameter import Parameter, Parameters, choice, integer, number
from backend.catalogue.record import Category, Counts, NodeType, OptimizerType, Port, PortKind, PortType

OPTIMIZER = (Port("optimizer", PortKind.OPTIMIZER),)
OPTIMIZER_OUT = (Port("optimizer", PortKind.OPTIMIZER, required=False),)


def pass_optimizer(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    return (OptimizerType(),)


def no_counts(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


def _schedule(name: str, help: str, parameters: tuple[Parameter, ...], *keywords: str) -> NodeType:
    return NodeType(
        name,
        Category.SCHEDULE,
        help,
        OPTIMIZER,
        OPTIMIZER_OUT,
        parameters,
        pass_optimizer,
        no_counts,
        keywords=("learning rate", "schedule", *keywords),
        shape_rule="multiplies the optimizer's learning rate; several in a row multiply",
    )


MINIMUM = number("minimum", 0.0, "Smallest factor of the learning rate", 0.0, 1.0)

TYPES = (
    _schedule(
        "StepLR",
        "Multiplies the rate by gamma every so many epochs.",
        (
            integer("epochs", 10, "Between two changes"),
            number("gamma", 0.1, "Factor of each change", 1e-6, 1.0),
        ),
        "decay",
    ),
    _schedule(
        "CosineAnnealing",
        "Lowers the rate along half a cosine, again and again if there are several cycles.",
        (
            integer("cycles", 1, "How often it goes down in the whole training", maximum=1000),
            MINIMUM,
        ),
        "cosine",
        "warm restarts",
    ),
    _schedule(
        "ReduceOnPlateau",
        "Lowers the rate when the validation loss (without one, the training loss) stops falling.",
        (
            number("factor", 0.1, "Of each change", 1e-6, 0.999),
            integer("patience", 10, "Epochs without a better loss that are waited for", 0),
            number("threshold", 1e-4, "Share by which a loss must be better to count", 0.0, 1.0),
            integer("cooldown", 0, "Epochs after a change in which none are counted", 0),
            MINIMUM,
        ),
        "plateau",
    ),
    _schedule(
        "ExponentialLR",
        "Multiplies the rate by gamma after every epoch.",
        (number("gamma", 0.95, "Factor of each epoch", 1e-6, 1.0),),
        "decay",
    ),
    _schedule(
        "WarmupScheduler",
        "Raises the rate in equal steps from a small share to the whole.",
        (
            integer("steps", 100, "Steps until the rate is whole"),
            number("start", 0.01, "Factor of the first step", 0.0, 1.0),
        ),
        "warm-up",
        "transformer",
    ),
    _schedule(
        "OneCycle",
        "Raises the rate to its peak and then lowers it to almost nothing (Smith and Topin 2017).",
        (
            number("rise", 0.3, "Share of the training in which it rises", 0.01, 0.99),
            number("start_divisor", 25.0, "The first rate is the peak divided by this", 1.0, 1e6),
            number("final_divisor", 1e4, "The last rate is the first divided by this", 1.0, 1e9),
            choice("shape", "cosine", "Of rise and fall", ("cosine", "linear")),
        ),
        "super-convergence",
        "one cycle",
    ),
)
"""The optimizer's learning_rate is the peak of OneCycle."""
