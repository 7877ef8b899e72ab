"""What a sweep varies: parameters of a graph's nodes, within ranges that the catalogue allows. Pure.

Written ``node.parameter=LOW..HIGH``, the same with ``:log`` behind it, or ``node.parameter=a,b,c``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import Parameter, ParameterType, problem_of
from backend.graph import Graph, JsonValue, Node
from engine_app.entry import CommandError

MAX_CHOICES = 100
MAX_DIMENSIONS = 50


class SweepSpaceError(CommandError):
    """What is to be varied cannot be, and what could."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A range where there are no choices, from ``low`` to ``high``, both inclusive."""

    node_id: str
    parameter: str
    is_integer: bool = False
    low: float = 0.0
    high: float = 0.0
    is_logarithmic: bool = False
    choices: tuple[str, ...] = ()
    """As JSON."""

    @property
    def name(self) -> str:
        return f"{self.node_id}.{self.parameter}"

    def value_of(self, drawn: Any) -> JsonValue:
        """What the parameter is set to."""
        if self.choices:
            value: JsonValue = json.loads(drawn)
            return value
        return int(drawn) if self.is_integer else float(drawn)


def read_dimensions(graph: Graph, texts: Iterable[str]) -> tuple[Dimension, ...]:
    """Raises SweepSpaceError."""
    found = tuple(read_dimension(graph, text) for text in texts)
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SweepSpaceError(f"{twice} is varied twice")
    if not 1 <= len(found) <= MAX_DIMENSIONS:
        raise SweepSpaceError(f"{len(found)} parameters to vary, allowed are 1 to {MAX_DIMENSIONS}")
    return found


def read_dimension(graph: Graph, text: str) -> Dimension:
    """Raises SweepSpaceError."""
    name, equals, values = text.partition("=")
    node_id, dot, parameter_name = name.strip().rpartition(".")
    if not equals or not dot or not values.strip():
        raise SweepSpaceError(f"--vary {text!r}, must be node.parameter=LOW..HIGH[:log] or =a,b,c")
    node = _node(graph, node_id)
    parameter = _parameter(node, parameter_name)
    low, dots, high = values.strip().partition("..")
    if dots:
        return _range(node_id, parameter, low, high)
    return _choice(node_id, parameter, values)


def _node(graph: Graph, node_id: str) -> Node:
    nodes = {node.id: node for node in graph.nodes}
    if node_id not in nodes:
        known = _closest(node_id, nodes) or f"; it has {', '.join(nodes)}"
        raise SweepSpaceError(f"the graph has no node {node_id!r}{known}")
    return nodes[node_id]


def _parameter(node: Node, name: str) -> Parameter:
    record = CATALOGUE.get(node.type)
    parameters = {each.name: each for each in record.parameters} if record else {}
    if name not in parameters:
        known = ", ".join(parameters) or "none"
        hint = _closest(name, parameters)
        raise SweepSpaceError(f"{node.id} is a {node.type} without {name!r}{hint}; it has {known}")
    return parameters[name]


def _closest(name: str, names: Iterable[str]) -> str:
    found = get_close_matches(name[:64], list(names), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _range(node_id: str, parameter: Parameter, low_text: str, high_text: str) -> Dimension:
    where = f"{node_id}.{parameter.name}"
    is_integer = parameter.type in (ParameterType.INTEGER, ParameterType.SIZE)
    if not is_integer and parameter.type is not ParameterType.NUMBER:
        raise SweepSpaceError(f"{where} is no number: name its values as a,b,c")
    high_text, colon, scale = high_text.partition(":")
    if colon and scale != "log":
        raise SweepSpaceError(f"{where}: scale {scale!r}, allowed is log")
    low, high = _number(where, low_text, is_integer), _number(where, high_text, is_integer)
    if low >= high:
        raise SweepSpaceError(f"{where} from {low:g} to {high:g}: must grow")
    if colon and low <= 0:
        raise SweepSpaceError(f"{where} from {low:g} on a logarithmic scale: must be above 0")
    for bound in (low, high):
        _check(where, parameter, int(bound) if is_integer else bound)
    return Dimension(node_id, parameter.name, is_integer, low, high, bool(colon))


def _number(where: str, text: str, is_integer: bool) -> float:
    try:
        value = float(int(text)) if is_integer else float(text)
    except (ValueError, OverflowError):
        kind = "an integer" if is_integer else "a number"
        raise SweepSpaceError(f"{where}: {text.strip()!r} is not {kind}") from None
    if not math.isfinite(value):
        raise SweepSpaceError(f"{where}: {text.strip()!r} is not finite")
    return value


def _choice(node_id: str, parameter: Parameter, text: str) -> Dimension:
    where = f"{node_id}.{parameter.name}"
    values = [_value(part) for part in _parts(text)]
    for value in values:
        _check(where, parameter, value)
    choices = tuple(dict.fromkeys(json.dumps(value) for value in values))
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise SweepSpaceError(f"{where}: {len(choices)} different values, allowed are 2 to {MAX_CHOICES}")
    return Dimension(node_id, parameter.name, choices=choices)


def _parts(text: str) -> list[str]:
    """Cut at commas outside brackets: ``3,[3,5]`` is two."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _value(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _check(where: str, parameter: Parameter, value: JsonValue) -> None:
    problem = problem_of(parameter, value)
    if problem:
        raise SweepSpaceError(f"{where}: {problem}")


def with_values(graph: Graph, dimensions: Iterable[Dimension], drawn: Mapping[str, Any]) -> Graph:
    """The graph of one trial."""
    changes: dict[str, dict[str, JsonValue]] = {}
    for dimension in dimensions:
        value = dimension.value_of(drawn[dimension.name])
        changes.setdefault(dimension.node_id, {})[dimension.parameter] = value
    nodes = tuple(
        replace(node, parameters={**node.parameters, **changes[node.id]}) if node.id in changes else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
