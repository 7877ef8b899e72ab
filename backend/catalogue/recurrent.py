"""Recurrent layers: a state that is carried along a sequence shaped (steps, features)."""

from __future__ import annotations

from backend.catalogue.parameter import Parameters, boolean, choice, integer, number
from backend.catalogue.record import Category, Counts, NodeType, Shape, layer, need_axes
from backend.errors import SetParameter, ShapeMismatchError

SEQUENCE = "(steps, features)"
RECURRENT = frozenset({"RNN", "LSTM", "GRU"})


def _shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    if given["dropout"] and given["layers"] == 1:
        raise ShapeMismatchError("dropout is between layers, there is only 1", SetParameter("dropout", 0.0))
    units: int = given["units"]
    return (inputs[0][0], units) if given["sequences"] else (units,)


def _recurrent(name: str, help: str, gates: int, *keywords: str) -> NodeType:
    def count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
        (steps, features), units, bias = inputs[0], given["units"], 2 * int(given["bias"])
        total = Counts()
        for number_ in range(given["layers"]):
            fan_in = (units if number_ else features) + units
            per_step = gates * units * (2 * fan_in + bias + 4)
            weights = gates * units * (fan_in + bias)
            total += Counts(weights, steps * per_step, activations=steps * units * (gates + 2))
        return total

    extra = (choice("nonlinearity", "tanh", "What bounds the state", ("tanh", "relu")),) if gates == 1 else ()
    return layer(
        name,
        Category.RECURRENT,
        help,
        _shape,
        count,
        (
            integer("units", 64, "Numbers in the state", maximum=1 << 16),
            integer("layers", 1, "Stacked on top of each other", maximum=16),
            boolean("sequences", True, "Gives the state at every step, else only at the last"),
            number("dropout", 0.0, "Share that is dropped between layers while training", 0.0, 0.99),
            boolean("bias", True, "Adds a learned number to each gate"),
            *extra,
        ),
        ("recurrent", "sequence", "text", "time series", *keywords),
        shape_rule="(steps, features) gives (steps, units), or (units) without sequences",
        weights=True,
    )


TYPES = (
    _recurrent("RNN", "The plain recurrent network of Elman.", 1, "elman"),
    _recurrent("LSTM", "Long short-term memory: gates decide what is kept.", 4, "long short-term memory"),
    _recurrent("GRU", "Gated recurrent unit: an LSTM with fewer gates.", 3, "gated"),
)
