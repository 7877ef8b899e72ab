"""Brings an ONNX model to numbers of single precision, as all graphs compute. Worker processes only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_SINGLE = TensorProto.FLOAT
_SAYING_A_TYPE = ("to", "dtype")
"""Attributes that name a type of elements, in Cast and in what makes tensors."""


def bring_to_single(model: onnx.ModelProto) -> bool:
    """Changes the model where it takes or holds numbers of half, or takes such of double precision.

    Returns whether they were halves, so that answers differ by as much as these are rounded. Double precision
    that is only passed through inside stays: whoever made the model wanted it there.
    """
    taken = {value.type.tensor_type.elem_type for value in model.graph.input}
    held = {tensor.data_type for graph in _graphs(model.graph) for tensor in graph.initializer}
    halves = (taken | held) & _HALVES
    changed = halves | (taken & {TensorProto.DOUBLE})
    if changed:
        for graph in _graphs(model.graph):
            _change(graph, changed)
    return bool(halves)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """It, and those inside its nodes. How deep they are was checked."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.g.node else attribute.graphs:
                yield from _graphs(inner)


def _change(graph: onnx.GraphProto, changed: frozenset[int] | set[int]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in changed:
            value.type.tensor_type.elem_type = _SINGLE
    for tensor in graph.initializer:
        _widen(tensor, changed)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t, changed)
            elif attribute.name in _SAYING_A_TYPE and attribute.i in changed:
                attribute.i = _SINGLE


def _widen(tensor: onnx.TensorProto, changed: frozenset[int] | set[int]) -> None:
    if tensor.data_type in changed:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
