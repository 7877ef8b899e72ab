"""A table of every node type at work: parameters, what is linked to it, what is inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from backend.catalogue import CATALOGUE
from backend.catalogue.record import Shape, elements
from backend.graph import Body, Graph, Link, Node, TrainingSettings
from backend.onnx_node import OnnxNode, OnnxTensor, read_node

IMAGE, SIGNAL, VOLUME, VECTOR, SEQUENCE = (4, 9, 8), (4, 9), (2, 5, 6, 7), (12,), (5, 8)
MANY = (IMAGE, SIGNAL, VOLUME, VECTOR)
VOCABULARY = 11


@dataclass(frozen=True)
class Case:
    """``ids`` above 0: the input is ids below it."""

    type: str
    given: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    body: Body | None = None
    ids: int = 0

    def __str__(self) -> str:
        return f"{self.type}-{dict(self.given)}-{self.shapes}"


def inner(*nodes: Node) -> Body:
    """Input, the nodes one after the other, Output."""
    chain = (Node("in", "Input"), *nodes, Node("out", "Output"))
    links = tuple(Link(a.id, "output", b.id, CATALOGUE[b.type].inputs[0].name) for a, b in pairwise(chain))
    return Body(chain, links)


def wrapped(type_name: str, **given: Any) -> Body:
    return Body((Node("each", type_name, 1, given),))


TWO_WAYS = Body(
    (
        Node("a", "Input"),
        Node("b", "Input"),
        Node("sum", "Add"),
        Node("scale", "Dense", 1, {"units": 3}),
        Node("first", "Output"),
        Node("second", "Output"),
    ),
    (
        Link("a", "output", "sum", "inputs"),
        Link("b", "output", "sum", "inputs"),
        Link("sum", "output", "scale", "input"),
        Link("scale", "output", "first", "input"),
        Link("sum", "output", "second", "input"),
    ),
)
ALONE = Body((Node("c", "Constant"), Node("o", "Output")), (Link("c", "output", "o", "input"),))
BLOCK = inner(Node("dense", "Dense", 1, {"units": 8}), Node("act", "Tanh"))
NESTED = inner(Node("deep", "Repeat", 1, {"times": 2}, body=BLOCK), Node("norm", "LayerNorm"))


def onnx_given(operator: str, shape: Shape, **attributes: Any) -> dict[str, Any]:
    """Of an operator that keeps the shape of its one input."""
    tensor = OnnxTensor("float32", shape)
    return OnnxNode(operator, 20, attributes, (tensor,), (tensor,)).parameters


def _cases() -> list[Case]:
    same: dict[str, Any] = {"padding": "same", "dilation": 2}
    return [
        Case("Dense", {}, (VECTOR,)),
        Case("Dense", {"units": 7, "bias": False}, (IMAGE,)),
        Case("Conv1D", {}, (SIGNAL,)),
        Case("Conv1D", {"stride": 2, "padding": 2, "groups": 2}, (SIGNAL,)),
        Case("Conv1D", same, (SIGNAL,)),
        Case("Conv2D", {}, (IMAGE,)),
        Case("Conv2D", {"kernel_size": [3, 2], "stride": [2, 3], "padding": [1, 0], "bias": False}, (IMAGE,)),
        Case("Conv2D", {"kernel_size": 4, "padding": "same"}, (IMAGE,)),
        Case("Conv2D", {"groups": 4, "dilation": 3}, (IMAGE,)),
        Case("Conv3D", {}, (VOLUME,)),
        Case("Conv3D", {"kernel_size": [1, 2, 3], "padding": 1}, (VOLUME,)),
        Case("DepthwiseConv2D", {}, (IMAGE,)),
        Case("DepthwiseConv2D", {"multiplier": 3, "stride": 2, "padding": 1}, (IMAGE,)),
        Case("SeparableConv2D", {}, (IMAGE,)),
        Case("SeparableConv2D", {"padding": "same", "bias": False}, (IMAGE,)),
        Case("ConvTranspose1D", {}, (SIGNAL,)),
        Case("ConvTranspose1D", {"stride": 3, "output_padding": 2, "padding": 1}, (SIGNAL,)),
        Case("ConvTranspose2D", {}, (IMAGE,)),
        Case("ConvTranspose2D", {"stride": [2, 1], "dilation": 2, "bias": False}, (IMAGE,)),
        Case("MaxPool1D", {}, (SIGNAL,)),
        Case("MaxPool1D", {"kernel_size": 3, "stride": 1, "padding": 1}, (SIGNAL,)),
        Case("MaxPool2D", {}, (IMAGE,)),
        Case("MaxPool2D", {"kernel_size": [3, 2], "stride": [1, 3]}, (IMAGE,)),
        Case("AvgPool2D", {}, (IMAGE,)),
        Case("AvgPool2D", {"kernel_size": 3, "padding": 1}, (IMAGE,)),
        *(
            Case(name, {}, (s,))
            for name in ("GlobalMaxPool", "GlobalAvgPool")
            for s in (SIGNAL, IMAGE, VOLUME)
        ),
        Case("AdaptiveAvgPool", {"output_size": [3]}, (SIGNAL,)),
        Case("AdaptiveAvgPool", {"output_size": [1, 20]}, (IMAGE,)),
        Case("AdaptiveAvgPool", {"output_size": [2, 2, 2]}, (VOLUME,)),
        Case("Upsample", {"factor": 3}, (IMAGE,)),
        *(Case("Upsample", {"mode": "linear"}, (s,)) for s in (SIGNAL, IMAGE, VOLUME)),
        *(Case("BatchNorm", {}, (s,)) for s in MANY),
        Case("BatchNorm", {"affine": False}, (IMAGE,)),
        Case("LayerNorm", {}, (VECTOR,)),
        Case("LayerNorm", {"axes": 3}, (IMAGE,)),
        Case("LayerNorm", {"axes": 2, "affine": False}, (IMAGE,)),
        Case("RMSNorm", {}, (VECTOR,)),
        Case("RMSNorm", {"axes": 2}, (IMAGE,)),
        Case("RMSNorm", {"affine": False}, (IMAGE,)),
        Case("GroupNorm", {}, (IMAGE,)),
        Case("GroupNorm", {"groups": 2}, (SIGNAL,)),
        Case("GroupNorm", {"affine": False}, (VECTOR,)),
        *(Case("InstanceNorm", {}, (s,)) for s in (SIGNAL, IMAGE, VOLUME)),
        Case("InstanceNorm", {"affine": False}, (IMAGE,)),
        *(Case("Dropout", {}, (s,)) for s in MANY),
        *(Case("SpatialDropout", {}, (s,)) for s in (SIGNAL, IMAGE, VOLUME)),
        *(Case("StochasticDepth", {}, (s,)) for s in MANY),
        *(
            Case(name, given, (SEQUENCE,))
            for name in ("RNN", "LSTM", "GRU")
            for given in (
                {},
                {"units": 3, "layers": 2, "sequences": False, "bias": False},
                {"layers": 3, "dropout": 0.5},
            )
        ),
        Case("RNN", {"nonlinearity": "relu"}, (SEQUENCE,)),
        *(
            Case(
                "Bidirectional", {"merge": merge}, (SEQUENCE,), wrapped(name, units=3, layers=2, sequences=s)
            )
            for name, merge, s in (
                ("LSTM", "concatenate", True),
                ("GRU", "sum", False),
                ("RNN", "average", True),
                ("LSTM", "multiply", False),
            )
        ),
        Case("TimeDistributed", {}, (SEQUENCE,), wrapped("Dense", units=3)),
        Case("TimeDistributed", {}, ((3, 4, 9, 8),), wrapped("Conv2D", filters=2)),
        Case("TimeDistributed", {}, ((3, 5),), wrapped("Embedding", vocabulary=VOCABULARY), VOCABULARY),
        Case("TimeDistributed", {}, ((3, 5, 8),), Body((Node("each", "Repeat", 1, {}, body=BLOCK),))),
        Case("Embedding", {"vocabulary": VOCABULARY, "dimension": 3}, ((5,),), None, VOCABULARY),
        Case("Embedding", {"vocabulary": 20, "padding_id": 0}, ((2, 5),), None, VOCABULARY),
        Case("PositionalEncoding", {}, (SEQUENCE,)),
        Case("PositionalEncoding", {}, ((4, 7),)),
        Case("PositionalEncoding", {"method": "learned"}, (SEQUENCE,)),
        Case("PositionalEncoding", {"method": "learned", "length": 9}, (SEQUENCE,)),
        Case("RotaryEmbedding", {}, (SEQUENCE,)),
        Case("RotaryEmbedding", {"head_size": 4, "interleaved": False}, ((2, 5, 8),)),
        Case("MultiHeadAttention", {}, (SEQUENCE, (7, 3), (7, 6))),
        Case("MultiHeadAttention", {"causal": True, "bias": False, "heads": 2}, (SEQUENCE,) * 3),
        Case("SelfAttention", {}, (SEQUENCE,)),
        Case("SelfAttention", {"causal": True, "heads": 1, "dropout": 0.5}, (SEQUENCE,)),
        Case("CrossAttention", {}, (SEQUENCE, (3, 6))),
        Case("CrossAttention", {"bias": False, "heads": 8}, (SEQUENCE, (9, 2))),
        Case("GroupedQueryAttention", {}, (SEQUENCE,)),
        Case("GroupedQueryAttention", {"kv_heads": 4, "causal": False, "bias": True}, (SEQUENCE,)),
        Case("GroupedQueryAttention", {"kv_heads": 1, "rotary": False, "heads": 8}, (SEQUENCE,)),
        Case("LinearAttention", {}, (SEQUENCE,)),
        Case("LinearAttention", {"causal": True, "bias": False, "heads": 2}, (SEQUENCE,)),
        Case("TransformerEncoder", {}, (SEQUENCE,)),
        Case("TransformerEncoder", {"layers": 3, "feed_forward": 5, "norm_first": False}, (SEQUENCE,)),
        Case("TransformerDecoder", {}, (SEQUENCE, (7, 8))),
        Case("TransformerDecoder", {"layers": 2, "heads": 2, "causal": False}, (SEQUENCE, (2, 8))),
        Case("LlamaBlock", {}, (SEQUENCE,)),
        Case("LlamaBlock", {"heads": 2, "kv_heads": 1, "feed_forward": 7}, (SEQUENCE,)),
        Case("TokenHead", {"vocabulary": 5}, (SEQUENCE,)),
        Case("TokenHead", {"norm": "layer", "bias": True, "last": True}, (SEQUENCE,)),
        Case("TokenHead", {"norm": "none"}, (SEQUENCE,)),
        *(
            Case(name, {}, (s,))
            for name in ("ReLU", "LeakyReLU", "ELU", "SELU", "Swish", "Mish", "Sigmoid", "Tanh", "Softplus")
            for s in MANY
        ),
        Case("PReLU", {}, (IMAGE,)),
        Case("PReLU", {"per_channel": True}, (IMAGE,)),
        Case("PReLU", {"per_channel": True}, (VECTOR,)),
        Case("GLU", {}, (IMAGE,)),
        Case("GLU", {"axis": 0}, (IMAGE,)),
        Case("Softmax", {}, (VECTOR,)),
        Case("Softmax", {"axis": 0}, (IMAGE,)),
        Case("Softmax", {"axis": -3}, (IMAGE,)),
        Case("LogSoftmax", {}, (VECTOR,)),
        Case("LogSoftmax", {"axis": 1}, (IMAGE,)),
        Case("GELU", {}, (IMAGE,)),
        Case("GELU", {"approximate": "tanh"}, (IMAGE,)),
        *(Case("Flatten", {}, (s,)) for s in (*MANY, ())),
        *(
            Case(name, given, (s,))
            for name in ("Reshape", "View")
            for given, s in (({}, IMAGE), ({"shape": [8, -1]}, IMAGE), ({"shape": [3, 2, 2]}, VECTOR))
        ),
        Case("Permute", {}, (VECTOR,)),
        Case("Permute", {"order": [2, 0, 1]}, (IMAGE,)),
        Case("Squeeze", {}, ((4, 1),)),
        Case("Squeeze", {"axis": 0}, ((1, 5),)),
        Case("Unsqueeze", {}, (VECTOR,)),
        Case("Unsqueeze", {"axis": 0}, (VECTOR,)),
        Case("Unsqueeze", {"axis": -2}, (IMAGE,)),
        Case("Unsqueeze", {}, ((),)),
        Case("Split", {"sizes": [4, 8]}, (VECTOR,)),
        Case("Split", {"axis": 0, "sizes": [1, 1, 2]}, (IMAGE,)),
        Case("Slice", {"start": 2}, (VECTOR,)),
        Case("Slice", {"axis": 1, "start": -5, "stop": -1}, (IMAGE,)),
        Case("Slice", {"axis": 0, "start": 1, "step": 2}, (IMAGE,)),
        Case("Slice", {"start": -100, "stop": 100, "step": 5}, (VECTOR,)),
        Case("Pad", {}, (IMAGE,)),
        Case("Pad", {"before": [3], "after": [0], "value": 1.5}, (IMAGE,)),
        Case("Pad", {"before": [2, 0], "after": [1, 3], "mode": "reflect"}, (IMAGE,)),
        Case("Pad", {"before": [2], "after": [1], "mode": "circular"}, (SIGNAL,)),
        Case("Pad", {"before": [1, 1, 1], "after": [0, 9, 0], "mode": "replicate"}, (VOLUME,)),
        Case("Concatenate", {}, (IMAGE, (2, 9, 8))),
        Case("Concatenate", {"axis": -1}, (VECTOR, (3,), (1,))),
        Case("Concatenate", {}, (VECTOR,)),
        Case("Add", {}, (IMAGE,) * 3),
        Case("Add", {}, (VECTOR,)),
        Case("Multiply", {}, (IMAGE,) * 2),
        Case("Average", {}, (IMAGE,) * 3),
        Case("Average", {}, (VECTOR,)),
        Case("MatMul", {}, ((5, 6), (6, 7))),
        Case("MatMul", {}, ((2, 5, 6), (2, 6, 1))),
        Case("Identity", {}, (IMAGE,)),
        Case("Identity", {}, ((5,),), None, VOCABULARY),
        Case("Constant", {"shape": [2, 3], "values": [1.5]}),
        Case("Constant", {"shape": [3], "values": [1.0, 2.0, 3.0]}),
        Case("Constant", {"shape": []}),
        Case("Parameter", {"shape": [2, 3]}),
        Case("Parameter", {"shape": [], "initial": "ones"}),
        Case("Lambda", {}, (IMAGE,)),
        Case("Lambda", {"expression": "x1 * sigmoid(x2) - max(x1, 2) / (x2 ^ 2 + 1)"}, (VECTOR,) * 2),
        Case("OnnxOperator", onnx_given("Softsign", SEQUENCE), (SEQUENCE,)),
        Case("OnnxOperator", onnx_given("MeanVarianceNormalization", IMAGE, axes=[1, 2, 3]), (IMAGE,)),
        Case("OnnxOperator", onnx_given("Hardmax", VECTOR, axis=-1), (VECTOR,)),
        Case("Output", {}, (VECTOR,)),
        Case("Subgraph", {}, (SEQUENCE,), BLOCK),
        Case("Subgraph", {}, (VECTOR, VECTOR), TWO_WAYS),
        Case("Subgraph", {}, (SEQUENCE,), NESTED),
        Case(
            "Subgraph",
            {},
            (),
            Body((Node("c", "Constant"), Node("o", "Output")), (Link("c", "output", "o", "input"),)),
        ),
        Case("Repeat", {"times": 3}, (SEQUENCE,), BLOCK),
        Case("Repeat", {"times": 2}, (SEQUENCE,), NESTED),
        Case("Repeat", {"times": 1}, (SEQUENCE,), inner(Node("flat", "Flatten"))),
    ]


CASES = _cases()

SMALL: dict[str, Case] = {
    case.type: case
    for case in (
        Case("Conv1D", {"filters": 2}, ((2, 6),)),
        Case("Conv2D", {"filters": 2}, ((2, 4, 4),)),
        Case("Conv3D", {"filters": 2, "kernel_size": 2}, ((2, 3, 3, 3),)),
        Case("DepthwiseConv2D", {}, ((2, 4, 4),)),
        Case("SeparableConv2D", {"filters": 3}, ((2, 4, 4),)),
        Case("ConvTranspose1D", {"filters": 2}, ((2, 5),)),
        Case("ConvTranspose2D", {"filters": 2, "kernel_size": 2}, ((2, 3, 3),)),
        Case("MaxPool2D", {}, ((2, 4, 4),)),
        Case("AvgPool2D", {}, ((2, 4, 4),)),
        Case("RNN", {"units": 4}, ((3, 4),)),
        Case("LSTM", {"units": 4}, ((3, 4),)),
        Case("GRU", {"units": 4}, ((3, 4),)),
        Case("Dropout", {"rate": 0.2}, ((12,),)),
        Case("SpatialDropout", {"rate": 0.2}, ((3, 4),)),
        Case("StochasticDepth", {"rate": 0.2}, ((12,),)),
        Case("Dense", {"units": 5}, ((6,),)),
        Case("GroupNorm", {"groups": 2}, ((4, 4),)),
        Case("BatchNorm", {}, ((12,),)),
        Case("InstanceNorm", {}, ((3, 4),)),
        Case("LayerNorm", {}, ((3, 4),)),
        Case("RMSNorm", {}, ((3, 4),)),
        Case("Lambda", {"expression": "x1 * sigmoid(x2) - 0.5 * x2 ^ 2"}, ((8,), (8,))),
        Case("Embedding", {"vocabulary": VOCABULARY, "dimension": 3}, ((5,),), None, VOCABULARY),
        Case("TokenHead", {"vocabulary": 5}, ((3, 4),)),
        Case("LlamaBlock", {"heads": 2, "kv_heads": 1, "feed_forward": 6}, ((3, 4),)),
        Case("TransformerEncoder", {"heads": 2, "feed_forward": 6}, ((3, 4),)),
        Case("TransformerDecoder", {"heads": 2, "feed_forward": 6}, ((3, 4), (2, 4))),
        Case("MultiHeadAttention", {"heads": 2}, ((3, 4), (3, 2), (3, 3))),
        Case("SelfAttention", {"heads": 2}, ((3, 4),)),
        Case("CrossAttention", {"heads": 2}, ((3, 4), (2, 3))),
        Case("GroupedQueryAttention", {"heads": 2, "kv_heads": 1}, ((3, 4),)),
        Case("LinearAttention", {"heads": 2}, ((3, 4),)),
        Case("PositionalEncoding", {"method": "learned"}, ((3, 4),)),
        Case("RotaryEmbedding", {}, ((3, 4),)),
        Case("Bidirectional", {}, ((3, 4),), wrapped("GRU", units=3)),
        Case("TimeDistributed", {}, ((3, 4),), wrapped("Dense", units=3)),
        Case("Subgraph", {}, ((5,), (5,)), TWO_WAYS),
        Case("Repeat", {"times": 2}, ((2, 8),), NESTED),
        Case("Constant", {"shape": [2], "values": [1.5, -1.0]}),
        Case("Parameter", {"shape": [3]}),
        Case("Upsample", {"mode": "linear"}, ((2, 3, 3),)),
        Case("GlobalMaxPool", {}, ((3, 2, 2),)),
        Case("GlobalAvgPool", {}, ((3, 2, 2),)),
        Case("AdaptiveAvgPool", {"output_size": [2]}, ((3, 4),)),
        Case("Add", {}, ((6,),) * 2),
        Case("Multiply", {}, ((6,),) * 2),
        Case("Average", {}, ((6,),) * 2),
        Case("Concatenate", {}, ((6,),) * 2),
        Case("MatMul", {}, ((2, 3), (3, 2))),
        Case("Permute", {"order": [1, 0]}, ((3, 4),)),
        Case("Pad", {"before": [1], "after": [1]}, ((3, 4),)),
        Case("Reshape", {"shape": [2, 6]}, ((3, 4),)),
        Case("View", {"shape": [2, 6]}, ((3, 4),)),
        Case("Split", {"sizes": [1, 3]}, ((3, 4),)),
    )
}
"""Small enough for a gradient check, for types whose first case is not."""


def small_case(type_name: str) -> Case:
    return SMALL.get(type_name) or next(case for case in CASES if case.type == type_name)


def graph_of(case: Case, seed: int = 0) -> Graph:
    """An Input for each shape, the node, an Output for each of its tensors."""
    record = CATALOGUE[case.type]
    shapes = case.shapes or ((2,),)
    doors = [
        Node(f"x{n}", "Input", 1, {"shape": list(shape), "vocabulary": case.ids})
        for n, shape in enumerate(shapes)
    ]
    ports = [port.name for port in record.inputs]
    targets = ports * len(doors) if len(ports) == 1 else ports
    links = [
        Link(door.id, "output", "node", port)
        for door, port in zip(doors, targets, strict=False)
        if case.shapes
    ]
    nodes = [*doors, Node("node", case.type, 1, dict(case.given), body=case.body)]
    if case.type == "Output":
        return Graph("case", tuple(nodes), tuple(links), TrainingSettings(1, seed))
    for number, name in enumerate(output_names(case)):
        nodes.append(Node(f"y{number}", "Output"))
        links.append(Link("node", name, f"y{number}", "input"))
    if not case.shapes:  # A model needs an Input, also around a node that has none.
        nodes.append(Node("also", "Output"))
        links.append(Link("x0", "output", "also", "input"))
    return Graph("case", tuple(nodes), tuple(links), TrainingSettings(1, seed))


def output_names(case: Case) -> list[str]:
    if case.type == "Split":
        count = len(case.given["sizes"])
    elif case.type == "OnnxOperator":
        count = len(read_node(case.given).given)
    elif case.type == "Subgraph" and case.body is not None:
        count = sum(node.type == "Output" for node in case.body.nodes)
    else:
        count = 1
    return ["output", *(f"output{number}" for number in range(2, count + 1))]


def walk_graph(case: Case, targets: int = 2, seed: int = 0, epochs: int = 1) -> Graph:
    """A graph to train around the node: one Input, cut into what the node takes, and a Dense behind it.

    Real-numbered targets, so that another graph of the same kind can be the teacher.
    """
    sizes = [elements(shape) for shape in case.shapes] or [2]
    total = sum(sizes)
    nodes = [
        Node(
            "data",
            "DatasetInput",
            1,
            {"sample_shape": [total], "target_shape": [targets], "vocabulary": case.ids},
        ),
        Node("loader", "DataLoader", 1, {"batch_size": 16}),
        Node("x", "Input"),
        Node("cut", "Split", 1, {"sizes": sizes}),
        Node("node", case.type, 1, dict(case.given), body=case.body),
        Node("all", "Concatenate"),
        Node("head", "Dense", 1, {"units": targets}),
        Node("y", "Output"),
        Node("loss", "MSELoss"),
        Node("adam", "Adam", 1, {"learning_rate": 0.01}),
    ]
    links = [
        Link("data", "dataset", "loader", "dataset"),
        Link("loader", "samples", "x", "input"),
        Link("x", "output", "cut", "input"),
        Link("all", "output", "head", "input"),
        Link("head", "output", "y", "input"),
        Link("y", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "adam", "loss"),
    ]
    ports = [port.name for port in CATALOGUE[case.type].inputs]
    for number, shape in enumerate(case.shapes):
        nodes.append(Node(f"part{number}", "Reshape", 1, {"shape": list(shape)}))
        source = "output" if number == 0 else f"output{number + 1}"
        links.append(Link("cut", source, f"part{number}", "input"))
        port = ports[number] if len(ports) > 1 else ports[0]
        links.append(Link(f"part{number}", "output", "node", port))
    if not case.shapes:
        links.append(Link("cut", "output", "all", "inputs"))
    for number, name in enumerate(["output"] if case.type == "Output" else output_names(case)):
        nodes.append(Node(f"flat{number}", "Flatten"))
        links.append(Link("node", name, f"flat{number}", "input"))
        links.append(Link(f"flat{number}", "output", "all", "inputs"))
    return Graph("walk", tuple(nodes), tuple(links), TrainingSettings(epochs, seed))
