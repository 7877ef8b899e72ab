"""How a graph wants to be trained: its data, loss and optimizer nodes, read into plain settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.catalogue import CATALOGUE, Category
from backend.errors import GraphInvalidError
from backend.graph import Graph, Link, Node, topological_order, upstream
from backend.shapes import node_type, ordered_inputs, parameters_of

NO_SPLIT = {"validation": 0.0, "test": 0.0, "seed": 0, "stratified": False, "in_order": False}
PER_SAMPLE = frozenset({"Augmentation", "OneHotEncode", "Tokenize"})
"""Data nodes that change each batch, not the dataset."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The type and complete parameters of one node."""

    node_id: str
    type: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """An output port."""

    node_id: str
    port: str


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One loss: what of the model it judges, by the ids of Output nodes, and what it compares that with."""

    setting: Setting
    predictions: tuple[str, ...]
    target: Source


@dataclass(frozen=True, slots=True)
class PenaltyTerm:
    """``nodes`` are those whose weights it is of; empty for all of the model."""

    setting: Setting
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything around the model. Fractions are of all samples; training gets what rounding leaves."""

    sample_shape: tuple[int, ...]
    """Of the dataset; with what follows about labels, before any data node has changed it."""
    classes: int
    """0 for a regression target."""
    target_shape: tuple[int, ...]
    vocabulary: int
    """Above 0: samples are ids below it."""
    validation: float
    test: float
    split_seed: int
    stratified: bool
    in_order: bool
    """Parts follow each other as samples do in the data, instead of being drawn at random."""
    normalization: str
    """mean_std, scale or none."""
    changes: tuple[Setting, ...]
    """Data nodes that change each batch, in the order of the links."""
    batch_size: int
    shuffle: bool
    drop_last: bool
    epochs: int
    seed: int
    patience: int
    keep_best: bool
    accumulate: int
    precision: str
    losses: tuple[LossTerm, ...]
    penalties: tuple[PenaltyTerm, ...]
    optimizer: Setting
    schedules: tuple[Setting, ...]
    clip: Setting | None

    @property
    def loss(self) -> Setting:
        """The first one."""
        return self.losses[0].setting

    def split_sizes(self, samples: int) -> tuple[int, int, int]:
        """Samples for training, validation and test."""
        for_validation = int(samples * self.validation + 1e-9)
        for_test = int(samples * self.test + 1e-9)
        return samples - for_validation - for_test, for_validation, for_test

    def steps_per_epoch(self, samples: int) -> int:
        """Of a dataset of so many samples, before its split; 0 if they do not fill a batch."""
        whole, rest = divmod(self.split_sizes(samples)[0], self.batch_size)
        return whole if self.drop_last or not rest else whole + 1


def read_pipeline(graph: Graph) -> Pipeline:
    """Raises GraphInvalidError unless there are one dataset, loader and optimizer, and a loss."""
    data = _one(graph, "DatasetInput").parameters
    loader = _one(graph, "DataLoader").parameters
    split = _at_most_one(graph, "DataSplit")
    normalize = _at_most_one(graph, "Normalize")
    shares: Mapping[str, Any] = split.parameters if split else NO_SPLIT
    return Pipeline(
        sample_shape=data["sample_shape"],
        classes=data["classes"],
        target_shape=data["target_shape"],
        vocabulary=data["vocabulary"],
        validation=shares["validation"],
        test=shares["test"],
        split_seed=shares["seed"],
        stratified=shares["stratified"],
        in_order=shares["in_order"],
        normalization=normalize.parameters["method"] if normalize else "none",
        changes=read_changes(graph),
        batch_size=loader["batch_size"],
        shuffle=loader["shuffle"],
        drop_last=loader["drop_last"],
        epochs=graph.training.epochs,
        seed=graph.training.seed,
        patience=graph.training.patience,
        keep_best=graph.training.keep == "best",
        accumulate=graph.training.accumulate,
        precision=graph.training.precision,
        losses=read_losses(graph),
        penalties=_read_penalties(graph),
        optimizer=read_optimizer(graph),
        schedules=tuple(_setting(node) for node in _ordered(graph, Category.SCHEDULE)),
        clip=_at_most_one(graph, "GradientClip"),
    )


def read_losses(graph: Graph) -> tuple[LossTerm, ...]:
    """In document order. Raises GraphInvalidError for a graph without any."""
    incoming = graph.incoming()
    found = []
    for node in nodes_of(graph, Category.LOSS):
        links = ordered_inputs(CATALOGUE[node.type], incoming[node.id])
        if links is None:
            raise GraphInvalidError((f"{node.id}: prediction and target must be linked",))
        *predictions, target = links
        names = tuple(link.source_node for link in predictions)
        found.append(LossTerm(_setting(node), names, Source(target.source_node, target.source_port)))
    if not found:
        raise GraphInvalidError((f"{Category.LOSS.value}: 0 nodes, must be 1 or more",))
    return tuple(found)


def read_loss(graph: Graph) -> Setting:
    """Of a graph with one loss, linked or not. Raises GraphInvalidError."""
    return _one_of(graph, Category.LOSS)


def read_optimizer(graph: Graph) -> Setting:
    """Raises GraphInvalidError."""
    return _one_of(graph, Category.OPTIMIZER)


def read_changes(graph: Graph) -> tuple[Setting, ...]:
    """The data nodes that change each batch, in the order in which they do."""
    return tuple(_setting(node) for node in _ordered(graph, Category.DATA) if node.type in PER_SAMPLE)


def preparing_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes between the DataLoader and the Inputs or a loss's target, sources first.

    What they make of samples and labels is no part of the model.
    """
    ends = upstream(graph, (node.id for node in graph.nodes if node.type == "Input"))
    targets = upstream(graph, (link.source_node for link in target_links(graph)))
    return tuple(
        node
        for node in topological_order(graph).nodes
        if node.id in ends | targets and node.type != "Input" and not _is_data(node)
    )


def target_links(graph: Graph) -> list[Link]:
    losses = {node.id for node in nodes_of(graph, Category.LOSS)}
    return [link for link in graph.links if link.target_node in losses and link.target_port == "target"]


def nodes_of(graph: Graph, category: Category) -> list[Node]:
    """The nodes of known types of a category, in document order."""
    return [node for node in graph.nodes if node_type(node) and CATALOGUE[node.type].category is category]


def _read_penalties(graph: Graph) -> tuple[PenaltyTerm, ...]:
    incoming = graph.incoming()
    return tuple(
        PenaltyTerm(
            _setting(node),
            tuple(link.source_node for link in incoming[node.id] if link.target_port == "parameters"),
        )
        for node in nodes_of(graph, Category.PENALTY)
        if node.type != "GradientClip"
    )


def _is_data(node: Node) -> bool:
    return node.type in CATALOGUE and CATALOGUE[node.type].category is Category.DATA


def _ordered(graph: Graph, category: Category) -> list[Node]:
    wanted = {node.id for node in nodes_of(graph, category)}
    return [node for node in topological_order(graph).nodes if node.id in wanted]


def _one_of(graph: Graph, category: Category) -> Setting:
    return _single([_setting(node) for node in nodes_of(graph, category)], category.value)


def _one(graph: Graph, name: str) -> Setting:
    return _single([_setting(node) for node in graph.nodes if node.type == name], name)


def _at_most_one(graph: Graph, name: str) -> Setting | None:
    found = [_setting(node) for node in graph.nodes if node.type == name]
    return _single(found, name) if found else None


def _single(found: list[Setting], what: str) -> Setting:
    if len(found) != 1:
        raise GraphInvalidError((f"{what}: {len(found)} nodes, must be 1",))
    return found[0]


def _setting(node: Node) -> Setting:
    return Setting(node.id, node.type, parameters_of(node))
