"""Which weights a training changes: nodes that are frozen, and nodes that get LoRA adapters. Pure.

A node that is frozen freezes all that is inside it. What an adapter adapts, and so how many numbers
it has, follows from the node's type and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from backend.catalogue.parameter import Parameters
from backend.catalogue.record import Shape, tensor_shapes
from backend.diagnostics import Diagnostic, error
from backend.graph import Body, Frozen, Graph, Lora, Node, Wiring, model_nodes
from backend.onnx_node import TYPE as OPERATOR
from backend.onnx_node import operator_nodes
from backend.shapes import Shapes, parameters_of

MAX_RANK = 1024
MAX_ALPHA = 4096.0
_NAMED = 4

Matrix = tuple[int, int]
"""Features in and out of one matrix that is adapted."""
Matrices = Callable[[Parameters, tuple[Shape, ...]], list[Matrix]]


def _dense(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
    return [(shapes[0][-1], given["units"])]


def _attention(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
    """Of one input to itself, of the first of two to the second, or of three."""
    query, key, value = {1: (0, 0, 0), 2: (0, 1, 1), 3: (0, 1, 2)}[len(shapes)]
    width = shapes[query][-1]
    return [(width, width), (shapes[key][-1], width), (shapes[value][-1], width), (width, width)]


def _grouped(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
    width = shapes[0][-1]
    narrow = width // given["heads"] * given["kv_heads"]
    return [(width, width), (width, narrow), (width, narrow), (width, width)]


def _linear(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
    return [(shapes[0][-1], shapes[0][-1])] * 4


def _transformer(attentions: int) -> Matrices:
    def matrices(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
        width, inner = shapes[0][-1], given["feed_forward"]
        block = [(width, width)] * (4 * attentions) + [(width, inner), (inner, width)]
        return block * int(given["layers"])

    return matrices


def _llama(given: Parameters, shapes: tuple[Shape, ...]) -> list[Matrix]:
    width, inner = shapes[0][-1], given["feed_forward"]
    return [*_grouped(given, shapes), (width, inner), (width, inner), (inner, width)]


ADAPTED: Mapping[str, Matrices] = {
    "Dense": _dense,
    "MultiHeadAttention": _attention,
    "SelfAttention": _attention,
    "CrossAttention": _attention,
    "GroupedQueryAttention": _grouped,
    "LinearAttention": _linear,
    "TransformerEncoder": _transformer(1),
    "TransformerDecoder": _transformer(2),
    "LlamaBlock": _llama,
}
"""The types that take adapters."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How many numbers a model has and how many of them a training changes."""

    total: int = 0
    """Adapters included."""
    trainable: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.total + other.total, self.trainable + other.trainable)

    def __mul__(self, times: int) -> Weights:
        return Weights(self.total * times, self.trainable * times)


def is_tuned(wiring: Wiring) -> bool:
    """Whether any node, at any depth, says how its weights are trained."""
    return any(
        node.tuning is not None or (node.body is not None and is_tuned(node.body)) for node in wiring.nodes
    )


def count_weights(graph: Graph, shapes: Shapes) -> Weights:
    """Of the nodes that the outputs depend on and whose shapes are known."""
    return _count(model_nodes(graph), shapes)


def _count(nodes: Iterable[Node], shapes: Shapes) -> Weights:
    found = (_count_node(node, shapes) for node in nodes if node.id in shapes.nodes)
    return sum(found, Weights())


def _count_node(node: Node, shapes: Shapes) -> Weights:
    inference = shapes.nodes[node.id]
    total = inference.counts.parameters
    match node.tuning:
        case Frozen():
            return Weights(total, 0)
        case Lora(rank, _) if node.type in ADAPTED:
            matrices = ADAPTED[node.type](parameters_of(node), tensor_shapes(inference.inputs))
            adapters = sum(rank * (features + outputs) for features, outputs in matrices)
            return Weights(total + adapters, adapters)
    if node.body is None or not is_tuned(node.body):
        return Weights(total, total)
    inside = shapes.bodies[node.id]
    once = sum(each.counts.parameters for each in inside.nodes.values())
    # What is inside may be there several times, each with weights of its own.
    return _count(node.body.nodes, inside) * (total // once if once else 1)


def check_tunings(wiring: Wiring) -> Iterator[Diagnostic]:
    """Of a graph or a body, what is wrong at its own nodes."""
    for node in wiring.nodes:
        match node.tuning:
            case Lora() if node.type not in ADAPTED:
                names = ", ".join(sorted(ADAPTED))
                yield error(node.id, f"{node.type[:60]} takes no LoRA adapters, allowed are {names}")
            case Lora(rank, _) if not 1 <= rank <= MAX_RANK:
                yield error(node.id, f"LoRA rank is {rank}, must be from 1 to {MAX_RANK}")
            case Lora(_, alpha) if not 0 < alpha <= MAX_ALPHA:
                yield error(node.id, f"LoRA alpha is {alpha}, must be above 0 and at most {MAX_ALPHA:g}")


def check_gradients(graph: Graph, shapes: Shapes) -> Iterator[Diagnostic]:
    """Through an operator of an ONNX model no gradient passes, so nothing before it may need one."""
    if not operator_nodes(graph):
        return
    incoming = graph.incoming()
    trained_before: dict[str, dict[str, None]] = {}
    """By node, the first few before it, and itself, that are trained."""
    for node in model_nodes(graph):
        before: dict[str, None] = {}
        for link in incoming[node.id]:
            before |= trained_before.get(link.source_node, {})
        own = {node.id: None} if _count([node], shapes).trainable else {}
        if operator_nodes(Body((node,))):
            # What is inside a node beside an operator may stand before it.
            found = [*before, *(own if node.type != OPERATOR else {})]
            if found:
                names = ", ".join(ascii(each[:60]) for each in found[:_NAMED])
                more = " and others" if len(found) > _NAMED else ""
                text = "no gradient passes through an operator of an ONNX model: freeze what is before it: "
                yield error(node.id, f"{text}{names}{more}")
        trained_before[node.id] = dict.fromkeys([*before, *own][: _NAMED + 1])


def check_trainable(graph: Graph, shapes: Shapes) -> Iterator[Diagnostic]:
    """Something must be left to train, where anything was to begin with."""
    if not is_tuned(graph):
        return
    weights = count_weights(graph, shapes)
    if weights.total and not weights.trainable:
        yield error(None, f"all {weights.total} weights are frozen, some must be trained")
