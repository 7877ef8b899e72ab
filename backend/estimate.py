"""What a training will take, before anything runs. Pure integers, the same on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.catalogue.optimizer import state_slots
from backend.errors import GraphInvalidError
from backend.graph import Graph, model_nodes
from backend.pipeline import read_pipeline
from backend.sample_plan import RESIDENT_BYTES
from backend.shapes import infer_shapes
from backend.tuning import count_weights
from backend.validate import Severity, diagnose

BYTES_PER_NUMBER = 4
BACKWARD_FACTOR = 2
"""Gradients of inputs and of weights take as many operations each as the forward pass."""
UPDATE_FLOPS = 4
"""Of an optimizer, for each weight: the step itself, and as much again for each number it keeps."""
ARCHIVE_BYTES = 1 << 16
"""Of a checkpoint, beside its tensors: graph, manifest, headers, history."""
MAX_FLOPS = 2**62
ASSUMED_FLOPS_PER_S = 10_000_000_000
"""Of training on a few cores, where nothing was measured: small networks reach less, GPUs far more."""


@dataclass(frozen=True, slots=True)
class Estimate:
    parameters: int
    flops_per_sample: int
    """Forward."""
    training_flops: int
    """Forward, backward, updates and validation, over all epochs."""
    memory_bytes: int
    """The sum of the following five; not the runtime itself."""
    weights_bytes: int
    """Running averages and the like included."""
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """What a batch leaves behind for the backward pass, and the gradients that take its place."""
    data_bytes: int
    """All inputs, as float32; as much as is ever held of more, which is streamed from disk."""
    steps: int
    checkpoint_bytes: int
    trainable_parameters: int
    """Those that are not frozen; adapters included, as they are in ``parameters``."""


def training_seconds(size: Estimate, flops_per_s: float) -> float:
    """At a rate that was measured, or assumed."""
    return size.training_flops / flops_per_s


def estimate(graph: Graph, samples: int, sample_shape: tuple[int, ...]) -> Estimate:
    """Raises GraphInvalidError for a graph with errors, or one that takes more than 2^62 operations."""
    errors = tuple(each for each in diagnose(graph) if each.severity is Severity.ERROR)
    if errors:
        raise GraphInvalidError(errors)
    pipeline = read_pipeline(graph)
    epochs, optimizer = pipeline.epochs, pipeline.optimizer
    shapes = infer_shapes(graph)
    nodes = [shapes.nodes[node.id] for node in model_nodes(graph)]
    weights = count_weights(graph, shapes)
    parameters, trainable = weights.total, weights.trainable
    buffers = sum(node.counts.buffers for node in nodes)
    forward = sum(node.counts.flops for node in nodes)
    training, validation, test = pipeline.split_sizes(samples)
    steps = epochs * pipeline.steps_per_epoch(samples)
    slots = state_slots(optimizer.type, optimizer.parameters)
    passes = epochs * (training * (1 + BACKWARD_FACTOR) + validation) + test
    flops = passes * forward + steps * trainable * UPDATE_FLOPS * (1 + slots)
    if flops > MAX_FLOPS:
        raise GraphInvalidError((f"training takes {flops} floating-point operations, limit {MAX_FLOPS}",))
    kept = parameters + buffers if pipeline.keep_best else 0
    saved = parameters + trainable * slots + buffers
    batch = min(pipeline.batch_size, max(1, training))
    activations = 2 * batch * sum(node.counts.activations for node in nodes)
    data = min(samples * math.prod(sample_shape), RESIDENT_BYTES // BYTES_PER_NUMBER)
    return Estimate(
        parameters=parameters,
        flops_per_sample=forward,
        training_flops=flops,
        memory_bytes=(saved + trainable + activations + data) * BYTES_PER_NUMBER,
        weights_bytes=(parameters + buffers) * BYTES_PER_NUMBER,
        gradients_bytes=trainable * BYTES_PER_NUMBER,
        optimizer_bytes=trainable * slots * BYTES_PER_NUMBER,
        activations_bytes=activations * BYTES_PER_NUMBER,
        data_bytes=data * BYTES_PER_NUMBER,
        steps=steps,
        checkpoint_bytes=(saved + kept) * BYTES_PER_NUMBER + ARCHIVE_BYTES,
        trainable_parameters=trainable,
    )
