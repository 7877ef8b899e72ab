"""What is done to a batch before the model sees it: encodings, and random changes while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional

from backend.catalogue.record import DatasetType
from backend.compiler import Place, emit_nodes, ends_of
from backend.errors import DatasetError
from backend.graph import Graph, upstream
from backend.layers import Emitter
from backend.pipeline import LossTerm, Pipeline, Setting, preparing_nodes, read_pipeline
from backend.shapes import Shapes, infer_shapes, nodes_of_type

Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def compile_preparation(graph: Graph) -> fx.GraphModule:
    """``(samples, labels) -> (inputs of the model, targets of the losses)``, both tuples.

    Samples are as in the dataset, normalized. The graph must be one that can be trained.
    """
    return _compile(graph, read_pipeline(graph), with_targets=True)


def compile_serving(graph: Graph) -> fx.GraphModule:
    """The same for samples alone, of a model that is asked: ``samples -> inputs of the model``."""
    return _compile(graph, read_pipeline(graph), with_targets=False)


def _compile(graph: Graph, pipeline: Pipeline, *, with_targets: bool) -> fx.GraphModule:
    root, calls = nn.Module(), fx.Graph()
    emit, shapes = Emitter(root, calls), infer_shapes(graph)
    samples = calls.placeholder("samples")
    labels = calls.placeholder("labels") if with_targets else samples
    values = _from_loader(graph, pipeline, shapes, emit, (samples, labels))
    entries = [end.name for end in ends_of(graph, shapes)[0]]
    sources = {link.target_node: (link.source_node, link.source_port) for link in graph.links}
    if with_targets:
        nodes = preparing_nodes(graph)
    else:
        needed = upstream(graph, entries)
        nodes = tuple(node for node in preparing_nodes(graph) if node.id in needed)
    emit_nodes(emit, graph, shapes, nodes, values, Place("", samples))
    inputs = tuple(values[sources[name]] for name in entries)
    if with_targets:
        calls.output((inputs, tuple(_target(emit, term, values) for term in pipeline.losses)))
    else:
        calls.output(inputs)
        # What would be done to labels, of which there are none here.
        calls.eliminate_dead_code()
    return fx.GraphModule(root, calls, class_name="Preparation")


def _target(emit: Emitter, term: LossTerm, values: dict[tuple[str, str], fx.Node]) -> fx.Node:
    value = values[term.target.node_id, term.target.port]
    classes = term.setting.parameters.get("classes", 0)
    return emit.call(class_numbers, value, classes, term.setting.node_id) if classes else value


def class_numbers(values: torch.Tensor, classes: int, node_id: str) -> torch.Tensor:
    """Real numbers that name classes, as class numbers. Raises DatasetError for others.

    A device that looks up a class that is not there ends the process, so they are looked at first.
    """
    numbers = values.long()
    low, high = float(values.min()), float(values.max())
    if low < 0 or high >= classes or not bool((numbers == values).all()):
        found = f"node {node_id!r}: labels from {low:g} to {high:g}"
        raise DatasetError(f"{found}, allowed are whole numbers from 0 to {classes - 1}")
    return numbers


def _from_loader(
    graph: Graph, pipeline: Pipeline, shapes: Shapes, emit: Emitter, stored: tuple[fx.Node, fx.Node]
) -> dict[tuple[str, str], fx.Node]:
    """What the DataLoader gives: whole numbers where they name something, and encoded."""
    samples, labels = stored
    if pipeline.vocabulary:
        samples = emit.call(torch.Tensor.long, samples)
    labels = emit.call(torch.Tensor.long if pipeline.classes else torch.Tensor.float, labels)
    for change in pipeline.changes:
        (before,) = shapes.nodes[change.node_id].inputs
        if not isinstance(before, DatasetType):
            continue
        match change.type, change.parameters:
            case "OneHotEncode", {"of": "labels"}:
                labels = emit.call(one_hot, labels, before.labels.classes)
            case "OneHotEncode", _:
                samples = emit.call(one_hot, samples, before.samples.ids)
            case "Tokenize", given:
                length = given["length"] or before.samples.shape[0]
                samples = emit.call(tokenize, samples, length, given["lowercase"])
    (loader,) = nodes_of_type(graph, "DataLoader")
    return {(loader.id, "samples"): samples, (loader.id, "labels"): labels}


def one_hot(ids: torch.Tensor, count: int) -> torch.Tensor:
    """(N, ...) whole numbers below ``count`` to (N, ..., count) zeros and ones."""
    return functional.one_hot(ids.long(), count).float()


def tokenize(texts: torch.Tensor, length: int, lowercase: bool) -> torch.Tensor:
    """Rows of bytes (N, bytes) to ids (N, length): cut, or padded with 0."""
    ids = texts.long()
    if lowercase:
        ids = torch.where((ids >= ord("A")) & (ids <= ord("Z")), ids + 32, ids)
    if ids.shape[1] >= length:
        return ids[:, :length]
    return functional.pad(ids, (0, length - ids.shape[1]))


def build_augmentations(pipeline: Pipeline) -> tuple[Change, ...]:
    return tuple(build_augmentation(each) for each in pipeline.changes if each.type == "Augmentation")


def build_augmentation(setting: Setting) -> Change:
    """Draws from torch's generator: the same state, the same changes."""
    return partial(augment, given=setting.parameters)


def augment(samples: torch.Tensor, given: Mapping[str, float]) -> torch.Tensor:
    """Changes a batch at random, as strongly as ``given`` says."""
    if any(given[name] for name in ("flip_horizontal", "flip_vertical", "shift", "rotate", "zoom")):
        samples = _move(samples, given)
    if given["erase"]:
        samples = _erase(samples, given["erase"])
    if given["contrast"]:
        samples = samples * (1 + given["contrast"] * _between(samples, -1.0, 1.0))
    if given["brightness"]:
        samples = samples + given["brightness"] * _between(samples, -1.0, 1.0)
    if given["noise"]:
        samples = samples + given["noise"] * torch.randn_like(samples)
    return samples


def _between(samples: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A number for each sample, shaped (N, 1, ...)."""
    drawn = torch.empty(len(samples), *(1,) * (samples.ndim - 1), device=samples.device)
    return drawn.uniform_(low, high)


def _move(images: torch.Tensor, given: Mapping[str, float]) -> torch.Tensor:
    """Flips, turns, scales and shifts (N, C, H, W) at once; what comes from outside is 0."""
    count = len(images)

    def draw(limit: float) -> torch.Tensor:
        return torch.empty(count, device=images.device).uniform_(-limit, limit)

    def sign(share: float) -> torch.Tensor:
        return 1.0 - 2.0 * (torch.rand(count, device=images.device) < share).float()

    angle = draw(math.radians(given["rotate"]))
    scale = 1.0 + draw(given["zoom"])
    ratio = images.shape[-2] / images.shape[-1]
    across, down = scale * sign(given["flip_horizontal"]), scale * sign(given["flip_vertical"])
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack(
        (
            torch.stack((cosine * across, -sine * across * ratio, 2 * draw(given["shift"])), -1),
            torch.stack((sine * down / ratio, cosine * down, 2 * draw(given["shift"])), -1),
        ),
        -2,
    )
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _erase(images: torch.Tensor, share: float) -> torch.Tensor:
    """Sets one square of each image to 0."""
    keep = torch.ones_like(images[:, :1])
    for axis in (-2, -1):
        extent = images.shape[axis]
        side = max(1, round(share * extent))
        begin = (_between(images, 0.0, 1.0) * (extent - side + 1)).floor()
        place = torch.arange(extent, device=images.device).reshape(
            (1, 1, extent, 1) if axis == -2 else (1, 1, 1, extent)
        )
        inside = ((place >= begin) & (place < begin + side)).to(images.dtype)
        keep = keep * inside
    return images * (1 - keep)
