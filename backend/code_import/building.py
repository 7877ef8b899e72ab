"""The graph that comes out of an import, while it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from backend.catalogue import CATALOGUE
from backend.compiler import module_name
from backend.graph import Graph, JsonValue, Link, Node

Shape = tuple[int, ...]


class UnsupportedError(Exception):
    """One step that no node can stand for."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that flows: an output port of a node, and the shape of a sample."""

    node_id: str
    port: str
    shape: Shape
    ids: bool = False


@dataclass(frozen=True, slots=True)
class Fixed:
    """A tensor of the module itself: the same for every sample."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mark:
    nodes: Mapping[str, Node]
    links: int
    weights: Mapping[str, torch.Tensor]


@dataclass(slots=True)
class Building:
    """Nodes, links, and weights by the names that the compiler gives them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    """Recurrent layers whose output is used in several places."""

    def add(
        self,
        wanted: str,
        type_name: str,
        given: Mapping[str, Any],
        inputs: tuple[Ref, ...] | list[Ref],
        state: Mapping[str, torch.Tensor] | None = None,
        body: Any = None,
    ) -> str:
        """Returns the node's id, made from ``wanted``."""
        node_id = self._free(wanted)
        parameters: dict[str, JsonValue] = {name: _plain(value) for name, value in given.items()}
        self.nodes[node_id] = Node(node_id, type_name, 1, parameters, body=body)
        ports = [port.name for port in CATALOGUE[type_name].inputs]
        for number, ref in enumerate(inputs):
            port = ports[number] if len(ports) > 1 else ports[0]
            self.links.append(Link(ref.node_id, ref.port, node_id, port))
        for name, tensor in (state or {}).items():
            self.weights[f"{module_name(node_id)}.{name}"] = tensor
        return node_id

    def set(self, node_id: str, name: str, value: JsonValue) -> None:
        node = self.nodes[node_id]
        self.nodes[node_id] = replace(node, parameters={**node.parameters, name: value})

    def limit_ids(self, ref: Ref, count: int) -> None:
        """What comes from an Input are ids below this number."""
        node = self.nodes[ref.node_id]
        known = node.parameters.get("vocabulary")
        if node.type == "Input" and isinstance(known, int) and 1 <= count < known:
            self.set(ref.node_id, "vocabulary", count)

    def mark(self) -> Mark:
        """How far it is, for ``back_to``."""
        return Mark(dict(self.nodes), len(self.links), dict(self.weights))

    def back_to(self, mark: Mark) -> None:
        """Takes back all that was added and set since."""
        self.nodes = dict(mark.nodes)
        self.weights = dict(mark.weights)
        del self.links[mark.links :]

    def drop_unused(self) -> None:
        """Takes away what no output depends on, but for inputs."""
        before: dict[str, list[str]] = {}
        for link in self.links:
            before.setdefault(link.target_node, []).append(link.source_node)
        waiting = [node.id for node in self.nodes.values() if node.type in ("Input", "Output")]
        used = set(waiting)
        while waiting:
            found = set(before.get(waiting.pop(), ())) - used
            used |= found
            waiting += found
        gone = [f"{module_name(name)}." for name in self.nodes if name not in used]
        self.weights = {n: each for n, each in self.weights.items() if not n.startswith((*gone,))}
        self.nodes = {name: node for name, node in self.nodes.items() if name in used}
        self.links[:] = [link for link in self.links if link.target_node in used]

    def graph(self, name: str) -> Graph:
        return Graph(name, tuple(self.nodes.values()), tuple(self.links))

    def _free(self, wanted: str) -> str:
        base = re.sub(r"[^0-9A-Za-z_]+", "_", wanted).strip("_")[:100] or "node"
        name, number = base, 2
        while name in self.nodes:
            name, number = f"{base}_{number}", number + 1
        return name


def _plain(value: Any) -> JsonValue:
    match value:
        case tuple() | list() | torch.Size():
            return [_plain(each) for each in value]
        case bool() | int() | float() | str() | None:
            return value
    raise UnsupportedError(f"a setting is a {type(value).__name__}")
