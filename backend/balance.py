"""Weights of classes by how rare they are among the training samples. No torch."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from backend.errors import DatasetError
from backend.formats.tensors import Array
from backend.graph import Graph, JsonValue
from backend.pipeline import LossTerm, Pipeline, read_pipeline
from backend.sample_plan import TRAIN
from backend.samples import LocalSamples, SampleSource

ClassWeights = tuple[tuple[float, ...], ...]
"""Of each loss of a graph, in its order; empty for one that does not balance."""
_STREAMED = (
    "balance counts the labels of all training samples, which do not leave their owner where "
    "samples are streamed: who has them counts them before"
)
_COUNTED_LABELS = 1 << 20


def find_class_weights(pipeline: Pipeline, samples: SampleSource) -> ClassWeights:
    """From the training samples alone; empty where no loss balances. Raises DatasetError."""
    if not any(_balances(term) for term in pipeline.losses):
        return ()
    if not isinstance(samples, LocalSamples):
        raise DatasetError(_STREAMED)
    counts = _counts(samples, pipeline.classes)
    return tuple(
        balanced(counts, term.setting.parameters["ignored_class"]) if _balances(term) else ()
        for term in pipeline.losses
    )


def with_counted_weights(graph: Graph, samples: LocalSamples) -> Graph:
    """The graph with numbers for its losses that balance: for who trains without all labels.

    Raises DatasetError.
    """
    pipeline = read_pipeline(graph)
    counted: dict[str, dict[str, JsonValue]] = {
        term.setting.node_id: {"balance": False, "class_weights": list(weights)}
        for term, weights in zip(pipeline.losses, find_class_weights(pipeline, samples), strict=False)
        if weights
    }
    nodes = tuple(
        replace(node, parameters={**node.parameters, **counted.get(node.id, {})}) for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def balanced(counts: Array, ignored: int | None) -> tuple[float, ...]:
    """n / (classes * count) of each class that occurs; 1 for one that does not."""
    counts = counts.copy()
    if ignored is not None and ignored < len(counts):
        counts[ignored] = 0
    present = max(1, int((counts > 0).sum()))
    weights = counts.sum() / (present * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 1.0).tolist())


def with_class_weights(losses: tuple[LossTerm, ...], weights: ClassWeights) -> tuple[LossTerm, ...]:
    """The losses as if the weights had been given. Raises DatasetError for those of another graph."""
    balancing = any(_balances(term) for term in losses)
    if len(weights) != (len(losses) if balancing else 0):
        raise DatasetError(f"class weights of {len(weights)} losses, the graph has {len(losses)}")
    if not balancing:
        return losses
    return tuple(_weighted(*pair) for pair in zip(losses, weights, strict=True))


def _weighted(term: LossTerm, weights: tuple[float, ...]) -> LossTerm:
    if not _balances(term):
        return term
    if not weights or not all(math.isfinite(each) and each >= 0 for each in weights):
        raise DatasetError("class weights of a loss that balances: none, or one that is no number above 0")
    given = MappingProxyType({**term.setting.parameters, "class_weights": weights})
    return replace(term, setting=replace(term.setting, parameters=given))


def _balances(term: LossTerm) -> bool:
    return bool(term.setting.parameters.get("balance"))


def _counts(samples: LocalSamples, classes: int) -> Array:
    """How many labels of the training samples are of each class. Raises DatasetError."""
    y, members = samples.dataset.y, np.sort(samples.members(TRAIN))
    step = max(1, _COUNTED_LABELS // math.prod(y.shape[1:]))
    counts = np.zeros(classes, np.int64)
    for begin in range(0, len(members), step):
        labels = y.take(members[begin : begin + step], axis=0).ravel()
        if labels.min() < 0 or labels.max() >= classes or (labels != np.floor(labels)).any():
            raise DatasetError(f"labels that are no class numbers from 0 to {classes - 1}")
        counts += np.bincount(labels.astype(np.int64), minlength=classes)
    return counts
