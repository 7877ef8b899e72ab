"""Where an ONNX model decides by the values of its samples what to do next. Pure.

An If takes one branch, and a Loop turns so often, for all samples of a batch together: what depends on
the samples' values there keeps them not apart, however a trial comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_ONLY_SHAPES = ("Shape", "Size")
"""Operators whose answers do not depend on values."""
_MAX_STEPS = 100_000
"""What needs more counts as deciding."""


def choices(nodes: Iterable[Any], values: set[str]) -> list[str]:
    """The operators of these nodes, at any depth, that decide by what depends on one of these values."""
    found = _Found()
    _follow(nodes, set(values), found)
    return [*found.operators]


@dataclass(slots=True)
class _Found:
    operators: dict[str, None] = field(default_factory=dict)
    steps: int = 0
    """Nodes that were looked at, those of loops within loops again and again."""


def _follow(nodes: Iterable[Any], known: set[str], found: _Found) -> None:
    """Adds to ``known`` what depends on it."""
    for node in nodes:
        found.steps += 1
        if found.steps > _MAX_STEPS:
            found.operators[node.op_type] = None
            return
        entering = [name for name in node.input if name in known]
        graphs = [each.g for each in node.attribute if each.HasField("g")]
        if node.op_type == "If" and entering:
            found.operators["If"] = None
        if node.op_type == "Loop" and set(node.input[:2]) & known:
            found.operators["Loop"] = None
        inside = [_inside(node, graph, known, found) for graph in graphs]
        if (entering and node.op_type not in _ONLY_SHAPES) or any(inside):
            known.update(name for name in node.output if name)


def _inside(node: Any, graph: Any, known: set[str], found: _Found) -> bool:
    """Whether what the graph gives depends on what is known."""
    within = known - {each.name for each in graph.input}
    within |= {inner for outer, inner in _entering(node, graph) if outer in known}
    carried = [*_carried(node, graph)]
    while True:
        _follow(graph.node, within, found)
        more = {begin for begin, end in carried if end in within} - within
        if not more or found.steps > _MAX_STEPS:
            break
        within |= more
    ends = [each.name for each in graph.output]
    if node.op_type == "Loop" and ends[:1] and ends[0] in within:
        found.operators["Loop"] = None
    return not within.isdisjoint(ends)


def _entering(node: Any, graph: Any) -> Iterator[tuple[str, str]]:
    """What enters a node, with what it is called in its graph."""
    names = [each.name for each in graph.input]
    if node.op_type == "Loop":
        return zip(node.input[2:], names[2:], strict=False)
    return zip(node.input, names, strict=False)


def _carried(node: Any, graph: Any) -> Iterator[tuple[str, str]]:
    """What a turn begins with, and what the one before gave for it."""
    names, ends = ([each.name for each in side] for side in (graph.input, graph.output))
    match node.op_type:
        case "Loop":
            return zip(names[2:], ends[1:], strict=False)
        case "Scan":
            return zip(names, ends[: _states(node)], strict=False)
    return iter(())


def _states(node: Any) -> int:
    """How many values a Scan hands on from turn to turn."""
    scanned: int = next((each.i for each in node.attribute if each.name == "num_scan_inputs"), 0)
    return max(0, len(node.input) - scanned)
