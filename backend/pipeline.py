"""How a graph wants to be trained: its data, loss and optimizer nodes, read into plain settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.catalogue import CATALOGUE, Category
from backend.errors import GraphInvalidError
from backend.graph import Graph, Node
from backend.shapes import node_type, parameters_of

NO_SPLIT = {"validation": 0.0, "test": 0.0, "seed": 0, "stratified": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """The type and complete parameters of one node."""

    node_id: str
    type: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything around the model. Fractions are of all samples; training gets what rounding leaves."""

    sample_shape: tuple[int, ...]
    classes: int
    """0 for a regression target."""
    target_shape: tuple[int, ...]
    validation: float
    test: float
    split_seed: int
    stratified: bool
    normalization: str
    """mean_std, scale or none."""
    batch_size: int
    shuffle: bool
    drop_last: bool
    epochs: int
    seed: int
    loss: Setting
    optimizer: Setting

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
    """Raises GraphInvalidError unless there is one dataset, loader, loss and optimizer."""
    data = _one(graph, "DatasetInput").parameters
    loader = _one(graph, "DataLoader").parameters
    split = _at_most_one(graph, "DataSplit")
    normalize = _at_most_one(graph, "Normalize")
    shares: Mapping[str, Any] = split.parameters if split else NO_SPLIT
    return Pipeline(
        sample_shape=data["sample_shape"],
        classes=data["classes"],
        target_shape=data["target_shape"],
        validation=shares["validation"],
        test=shares["test"],
        split_seed=shares["seed"],
        stratified=shares["stratified"],
        normalization=normalize.parameters["method"] if normalize else "none",
        batch_size=loader["batch_size"],
        shuffle=loader["shuffle"],
        drop_last=loader["drop_last"],
        epochs=graph.training.epochs,
        seed=graph.training.seed,
        loss=read_loss(graph),
        optimizer=read_optimizer(graph),
    )


def read_loss(graph: Graph) -> Setting:
    """Raises GraphInvalidError."""
    return _one_of(graph, Category.LOSS)


def read_optimizer(graph: Graph) -> Setting:
    """Raises GraphInvalidError."""
    return _one_of(graph, Category.OPTIMIZER)


def nodes_of(graph: Graph, category: Category) -> list[Node]:
    """The nodes of known types of a category, in document order."""
    return [node for node in graph.nodes if node_type(node) and CATALOGUE[node.type].category is category]


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
