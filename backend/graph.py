"""The graph document: nodes, links and training settings, as plain frozen data.

A graph says what is wanted; whether that makes sense is the business of ``backend.validate``.
Nothing here checks meaning, and nothing is ever changed in place: use ``dataclasses.replace``.
Node types this program does not know, and fields it does not know (``extra``), are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

FORMAT_VERSION = 2
"""2: nodes may have a body. 1: first public form. 0: nodes keyed by id, links as strings."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Weights stay what they are when training begins, and running statistics too."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Weights are frozen; each matrix gets ``alpha / rank`` times a trained product of two narrow ones.

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    rank: int
    alpha: float


Tuning: TypeAlias = Frozen | Lora


@dataclass(frozen=True, slots=True)
class Node:
    """One box. ``parameters`` holds only what was set; the catalogue knows the defaults."""

    id: str
    type: str
    version: int = 1
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    body: Body | None = None
    """What a node that wraps others has inside."""
    tuning: Tuning | None = None
    """How its weights are trained, and those inside it; None: as any others."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection from an output port to an input port."""

    source_node: str
    source_port: str
    target_node: str
    target_port: str
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


class Wiring:
    """Nodes and the links between them: a whole graph, or the body of a node."""

    __slots__ = ()
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def node(self, node_id: str) -> Node:
        """Raises KeyError."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def incoming(self) -> dict[str, list[Link]]:
        """The links into every node, in document order."""
        found: dict[str, list[Link]] = {node.id: [] for node in self.nodes}
        for link in self.links:
            if link.target_node in found:
                found[link.target_node].append(link)
        return found

    def outgoing(self) -> dict[str, list[Link]]:
        """The links out of every node, in document order."""
        found: dict[str, list[Link]] = {node.id: [] for node in self.nodes}
        for link in self.links:
            if link.source_node in found:
                found[link.source_node].append(link)
        return found


@dataclass(frozen=True, slots=True)
class Body(Wiring):
    """The graph inside a node: what is linked to the node enters at its Input nodes, in document order.

    A node that wraps one other node has that node alone here, without links.
    """

    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    epochs: int = 1
    seed: int = 0
    """Of weight initialization, shuffling and dropout."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    patience: int = 0
    """Epochs without a smaller validation loss after which training stops; 0: it never stops early."""
    keep: str = "last"
    """Whose weights are the result: those of the last epoch, or of the one with the best validation loss."""
    accumulate: int = 1
    """Batches whose gradients make one step of the optimizer, as one batch of all their samples would;
    where a loss weighs or ignores classes, each batch counts by its samples all the same."""
    precision: str = "auto"
    """float32, bfloat16 where that is safe, or auto: what a short trial finds to be faster."""

    @property
    def options(self) -> dict[str, JsonValue]:
        """What is set otherwise than a graph that does not say."""
        return {name: getattr(self, name) for name in OPTIONS if getattr(self, name) != OPTIONS[name]}


OPTIONS: Mapping[str, JsonValue] = {"patience": 0, "keep": "last", "accumulate": 1, "precision": "auto"}
"""Settings of a training that a document holds only where they differ from this."""


@dataclass(frozen=True, slots=True)
class Graph(Wiring):
    """A whole document. Links into a variadic port count in the order of ``links``."""

    name: str
    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    training: TrainingSettings = TrainingSettings()
    view: Mapping[str, JsonValue] = field(default_factory=dict)
    """Where things are on the screen: no meaning for training."""
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """``nodes`` so that sources come first; ``stuck`` are the ids on a cycle or behind one."""

    nodes: tuple[Node, ...]
    stuck: frozenset[str]


def topological_order(graph: Wiring) -> Order:
    """Kahn's algorithm; ties fall in document order, so the result is deterministic."""
    by_id = {node.id: node for node in graph.nodes}
    outgoing = graph.outgoing()
    missing = dict.fromkeys(by_id, 0)
    for link in graph.links:
        if link.source_node in by_id and link.target_node in by_id:
            missing[link.target_node] += 1
    ready = deque(node_id for node_id in by_id if missing[node_id] == 0)
    ordered: list[Node] = []
    while ready:
        node_id = ready.popleft()
        ordered.append(by_id.pop(node_id))
        for link in outgoing[node_id]:
            if link.target_node in missing:
                missing[link.target_node] -= 1
                if missing[link.target_node] == 0:
                    ready.append(link.target_node)
    return Order(tuple(ordered), frozenset(by_id))


def upstream(graph: Wiring, starts: Iterable[str]) -> frozenset[str]:
    """The starts, and all that something flows from to them."""
    incoming = graph.incoming()
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        node_id = waiting.pop()
        if node_id not in seen and node_id in incoming:
            seen.add(node_id)
            waiting += [link.source_node for link in incoming[node_id]]
    return frozenset(seen)


def model_nodes(graph: Wiring) -> tuple[Node, ...]:
    """The nodes that the model's outputs depend on, sources first, from the Inputs on."""
    used = upstream(graph, (node.id for node in graph.nodes if node.type == "Output"))
    fed = upstream(graph, (node.id for node in graph.nodes if node.type == "Input"))
    entries = {node.id for node in graph.nodes if node.type == "Input"}
    return tuple(
        node
        for node in topological_order(graph).nodes
        if node.id in used and (node.id in entries or node.id not in fed)
    )


def cycle_members(graph: Wiring) -> frozenset[str]:
    """The ids that lie on a cycle, without those that merely come after one."""
    stuck = set(topological_order(graph).stuck)
    if not stuck:
        return frozenset()
    outgoing = graph.outgoing()
    leaving = {node_id: sum(link.target_node in stuck for link in outgoing[node_id]) for node_id in stuck}
    incoming = graph.incoming()
    ends = deque(node_id for node_id in stuck if leaving[node_id] == 0)
    while ends:
        node_id = ends.popleft()
        stuck.discard(node_id)
        for link in incoming[node_id]:
            if link.source_node in stuck:
                leaving[link.source_node] -= 1
                if leaving[link.source_node] == 0:
                    ends.append(link.source_node)
    return frozenset(stuck)
