"""Names of values in the nodes of an ONNX model, and in the graphs inside these. Pure: needs no onnx.

Works on onnx's own messages, whose depth ``onnx_check`` has bounded. A graph inside a node reads values
of what is around it by their names; a name of its own hides one outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any


def inner_graphs(node: Any) -> Iterator[Any]:
    """Those directly inside a NodeProto."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Any) -> Iterator[Any]:
    """These, and those inside them at any depth."""
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from all_nodes(graph.node)


def read_by(node: Any) -> list[str]:
    """The names of all values that a node reads, those of its graphs included; each once."""
    return [*dict.fromkeys([*(name for name in node.input if name), *captured(node)])]


def captured(node: Any) -> list[str]:
    """The names of values from outside that the graphs inside a node read; each once."""
    return [*dict.fromkeys(name for graph in inner_graphs(node) for name in _read_outside(graph))]


def _read_outside(graph: Any) -> Iterator[str]:
    own = _own(graph)
    for node in graph.node:
        yield from (name for name in read_by(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def _own(graph: Any) -> set[str]:
    """Names of values that a graph makes itself."""
    own = {each.name for each in (*graph.input, *graph.initializer)}
    own |= {each.values.name for each in graph.sparse_initializer}
    return own | {name for node in graph.node for name in node.output if name}


def rename(node: Any, names: Mapping[str, str]) -> None:
    """Gives the values of a NodeProto other names, wherever it or a graph inside it reads them.

    Inner values keep theirs, unless that would hide one of the new names.
    """
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in inner_graphs(node):
        _rename_inside(graph, names)


def moved_aside(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Other names for these, such as others shall have; they are ``taken`` from then on."""
    found: dict[str, str] = {}
    for name in sorted(names):
        found[name] = next(new for n in count(2) if (new := f"{name}_{n}") not in taken)
        taken.add(found[name])
    return found


def _rename_inside(graph: Any, names: Mapping[str, str]) -> None:
    own = _own(graph)
    inside = {old: new for old, new in names.items() if old not in own}
    taken = own | {*inside.values()}
    inside |= moved_aside(own & {*inside.values()}, taken)
    for node in graph.node:
        rename(node, inside)
    for each in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        each.name = inside.get(each.name, each.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = inside.get(sparse.values.name, sparse.values.name)
