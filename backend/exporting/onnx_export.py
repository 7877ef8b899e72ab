"""A model as ONNX, through torch's exporter. Worker processes only.

One file with dynamic batch and the graph's own names, without what torch would tell of this machine.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from backend.compiler import End
from backend.errors import ExportError
from backend.exporting.onnx_operators import Original, StandIn, put_back
from backend.formats.onnx_check import MAX_MODEL_BYTES, check_onnx
from backend.formats.onnx_names import moved_aside, rename
from backend.runtime.onnx_operator import OnnxOperation

_DOOR, _END = "cyxwiz_input_", "cyxwiz_output_"
"""What the exporter is told to call the ends: it takes no care that a name of ours is free inside."""
_EXAMPLES = 2
"""Samples in the batch that is traced: a single one would be taken for a fixed size."""


def export_onnx(
    module: fx.GraphModule,
    inputs: tuple[End, ...],
    outputs: tuple[End, ...],
    metadata: Mapping[str, str],
) -> bytes:
    """Raises ExportError for a model over what one file holds; torch's own errors come through."""
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    if weights > MAX_MODEL_BYTES:
        raise ExportError(f"weights of {weights} bytes, one ONNX file holds {MAX_MODEL_BYTES}")
    translatable, operators = _translatable(module)
    program = _trace(translatable, inputs, outputs)
    model = program.model
    model.producer_name, model.producer_version = "cyxwiz", None
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            # torch notes here which line of which file of this machine a node is from.
            node.metadata_props.clear()
            node.doc_string = None
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    proto = program.model_proto
    put_back(proto, operators)
    doors = {f"{_DOOR}{number}": end.name for number, end in enumerate(inputs)}
    _rename(proto.graph, doors | {f"{_END}{number}": end.name for number, end in enumerate(outputs)})
    if takes_one(module):
        _fix_batch(proto.graph)
    data: bytes = proto.SerializeToString(deterministic=True)
    check_onnx(data)
    return data


def takes_one(module: fx.GraphModule) -> bool:
    """Holds an operator that an ONNX has right only for one sample at a time."""
    return any(isinstance(each, OnnxOperation) and each.node.alone for each in module.modules())


def _fix_batch(graph: Any) -> None:
    """Of an ``onnx.GraphProto``, to one sample."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # What else is said of shapes was said of any batch.
    del graph.value_info[:]


def _trace(module: fx.GraphModule, inputs: tuple[End, ...], outputs: tuple[End, ...]) -> Any:
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        return torch.onnx.export(
            module,
            tuple(_example(end) for end in inputs),
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=[f"{_DOOR}{number}" for number in range(len(inputs))],
            output_names=[f"{_END}{number}" for number in range(len(outputs))],
            verbose=False,
        )


def _example(end: End) -> torch.Tensor:
    shape = (_EXAMPLES, *end.shape)
    return torch.zeros(shape, dtype=torch.int64) if end.ids else torch.zeros(shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision that is missing and of its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _rename(graph: Any, ends: Mapping[str, str]) -> None:
    """Gives the ends of an ``onnx.GraphProto`` their own names; inner values of that name get another."""
    inner = {name for node in graph.node for name in node.output} | {each.name for each in graph.initializer}
    taken = inner | set(ends.values())
    names = {**ends, **moved_aside(inner & set(ends.values()), taken)}
    for node in graph.node:
        rename(node, names)
    for each in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        each.name = names.get(each.name, each.name)


# -- what the exporter cannot translate ----------------------------------------------------------


def _translatable(module: fx.GraphModule) -> tuple[fx.GraphModule, list[Original]]:
    """The module, or a copy of it in which others stand for what has no translation, and the operators."""
    operators: list[Original] = []
    if not any(_untranslatable(each) or isinstance(each, OnnxOperation) for each in module.modules()):
        return module, operators
    copied = copy.deepcopy(module)
    for part in [*copied.modules()]:
        for node in _untranslatable(part):
            node.target = adaptive_average
        for name, child in part.named_children():
            if isinstance(child, OnnxOperation):
                part.register_module(name, StandIn(child, len(operators)))
                operators.append(Original.of(child))
        if isinstance(part, fx.GraphModule):
            part.recompile()
    return copied, operators


def _untranslatable(module: torch.nn.Module) -> list[fx.Node]:
    if not isinstance(module, fx.GraphModule):
        return []
    return [node for node in module.graph.nodes if node.target is functional.adaptive_avg_pool3d]


def adaptive_average(x: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Adaptive average pooling over the last axes, as one product for each."""
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        shares = _shares(x.shape[axis], size)
        x = (x.transpose(axis, -1) @ shares).transpose(axis, -1)
    return x


def _shares(length: int, size: int) -> torch.Tensor:
    """(length, size): how much of each place goes into each mean."""
    shares = torch.zeros(length, size)
    for place in range(size):
        begin, end = place * length // size, -(-(place + 1) * length // size)
        shares[begin:end, place] = 1 / (end - begin)
    return shares
