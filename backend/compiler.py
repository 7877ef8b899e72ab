"""From a graph to a ``torch.fx.GraphModule`` that runs as fast as code written by hand.

Weights are found in the state dict under their node's id. They are drawn from the graph's seed
alone; torch's global generator is left as it was.
"""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn, optim

from backend import losses, optimizers
from backend.catalogue import CATALOGUE
from backend.catalogue.record import Shape, TensorType, tensor_shapes, variadic_names
from backend.errors import GraphInvalidError
from backend.graph import Body, Graph, Link, Node, Wiring, model_nodes
from backend.layers import BUILDERS, Emitter, Site
from backend.layers.emitter import Inner, Values
from backend.lora import Tuned, tune
from backend.pipeline import read_loss, read_optimizer
from backend.rewrites import pool_before_relu
from backend.shapes import Shapes, framed, infer_shapes, nodes_of_type, ordered_inputs, parameters_of
from backend.validate import Severity, diagnose

INPUT_NAME = "x"
_ENCODED = "node_x"
_FRESH = frozenset({"BatchNorm", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D"})
"""Types whose output is a tensor of its own that their backward pass does not read."""


ORIGIN = "origin"
"""Where a call of a compiled graph says in its ``meta`` which node it was compiled from."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A node of the document; ``path`` has the ids of the nodes around it before its own, with dots."""

    path: str
    type: str

    def __str__(self) -> str:
        return f"{self.path!r} ({self.type})"


@dataclass(frozen=True, slots=True)
class End:
    """An input or output of a model: its node, the shape of a sample, and for ids, their number."""

    name: str
    shape: Shape
    ids: int = 0


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """``module`` takes a tensor for each input and gives one, or a tuple of those for each output."""

    graph: Graph
    module: fx.GraphModule
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]

    @property
    def input_shape(self) -> Shape:
        """Of the first input, without the batch."""
        return self.inputs[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.outputs[0].shape

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(end.name for end in self.outputs)

    def build_loss(self) -> losses.LossFunction:
        """``(prediction, target) -> loss``. Raises GraphInvalidError for a graph without one loss."""
        return losses.build_loss(read_loss(self.graph))

    def build_optimizer(self, parameters: Iterable[nn.Parameter] | None = None) -> optim.Optimizer:
        """Over all weights unless told which. Raises GraphInvalidError for a graph without one."""
        weights = self.module.parameters() if parameters is None else parameters
        return optimizers.build_optimizer(read_optimizer(self.graph), weights)


def compile_graph(graph: Graph, *, for_training: bool = False) -> CompiledModel:
    """Builds the model on the CPU, in training mode; ``for_training`` with adapters, and frozen nodes frozen.

    Dataset, loss and optimizer may be missing. Raises GraphInvalidError for a model with errors.
    """
    errors = tuple(each for each in diagnose(graph, for_training=False) if each.severity is Severity.ERROR)
    if errors:
        raise GraphInvalidError(errors)
    shapes = infer_shapes(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(graph.training.seed)
        module, tunings = _build(graph, shapes, for_training=for_training)
    if for_training:
        tune(module, tunings, graph.training.seed)
    inputs, outputs = ends_of(graph, shapes)
    return CompiledModel(graph, module, inputs, outputs)


def ends_of(graph: Graph, shapes: Shapes) -> tuple[tuple[End, ...], tuple[End, ...]]:
    """The inputs that a model uses and its outputs, both in document order."""
    used = {node.id for node in model_nodes(graph)}
    found = []
    for name in ("Input", "Output"):
        nodes = [node for node in nodes_of_type(graph, name) if node.id in used]
        types = [(node.id, shapes.output(node.id)) for node in nodes]
        found.append(tuple(End(node_id, t.shape, t.ids) for node_id, t in types if isinstance(t, TensorType)))
    return found[0], found[1]


def _build(graph: Graph, shapes: Shapes, *, for_training: bool) -> tuple[fx.GraphModule, list[Tuned]]:
    root, calls = nn.Module(), fx.Graph()
    inputs, _ = ends_of(graph, shapes)
    doors = {end.name: calls.placeholder(_argument_name(number)) for number, end in enumerate(inputs)}
    emit = Emitter(root, calls)
    answers = _emit(emit, graph, shapes, "", doors, next(iter(doors.values())))
    calls.output(answers[0] if len(answers) == 1 else answers)
    if for_training:
        pool_before_relu(calls)
    return fx.GraphModule(root, calls, class_name="CompiledGraph"), emit.tunings


def _argument_name(number: int) -> str:
    return INPUT_NAME if number == 0 else f"{INPUT_NAME}{number + 1}"


def _emit(
    emit: Emitter, wiring: Wiring, shapes: Shapes, prefix: str, doors: Mapping[str, fx.Node], batch: fx.Node
) -> Values:
    """Builds a graph or a body between the values at its Input nodes and those of its Output nodes."""
    values = {(node_id, "output"): value for node_id, value in doors.items()}
    nodes = tuple(node for node in model_nodes(wiring) if node.type != "Input")
    emit_nodes(emit, wiring, shapes, nodes, values, Place(prefix, batch))
    return tuple(values[node.id, "output"] for node in nodes_of_type(wiring, "Output"))


@dataclass(frozen=True, slots=True)
class Place:
    """What the names of weights begin with, and a tensor whose first axis is the batch."""

    prefix: str
    batch: fx.Node


def emit_nodes(
    emit: Emitter,
    wiring: Wiring,
    shapes: Shapes,
    nodes: tuple[Node, ...],
    values: dict[tuple[str, str], fx.Node],
    place: Place,
) -> None:
    """Builds nodes, sources first; ``values`` holds what enters and gets what comes out, by node and port."""
    incoming = wiring.incoming()
    fresh = {node.id for node in nodes if node.type in _FRESH}
    readers = Counter(link.source_node for node in nodes for link in incoming[node.id])
    for node in nodes:
        links = ordered_inputs(CATALOGUE[node.type], incoming[node.id]) or []
        first = links[0].source_node if links else ""
        site = Site(
            place.prefix + module_name(node.id),
            parameters_of(node),
            tensor_shapes(shapes.nodes[node.id].inputs),
            may_overwrite=first in fresh and readers[first] == 1,
            batch=place.batch,
            inner=_inner(emit, node, shapes) if node.body is not None else None,
        )
        before = emit.last
        if node.tuning is not None:
            emit.tunings.append(Tuned(site.name, node.tuning))
        built = BUILDERS[node.type](emit, site, tuple(values[_source(link)] for link in links))
        _sign(emit, before, Origin(place.prefix + node.id, node.type))
        outputs = built if isinstance(built, tuple) else (built,)
        for name, value in zip(variadic_names("output", len(outputs)), outputs, strict=True):
            values[node.id, name] = value


def _sign(emit: Emitter, before: fx.Node | None, origin: Origin) -> None:
    """Marks the calls since ``before``; those of nodes inside are marked already."""
    for call in emit.since(before):
        call.meta.setdefault(ORIGIN, origin)


def _source(link: Link) -> tuple[str, str]:
    return link.source_node, link.source_port


def _inner(emit: Emitter, node: Node, shapes: Shapes) -> Inner:
    body = framed(node.body or Body(), CATALOGUE[node.type])
    inside = shapes.bodies[node.id]

    def build(name: str, inputs: Values, batch: fx.Node) -> Values:
        doors = {door.id: value for door, value in zip(nodes_of_type(body, "Input"), inputs, strict=True)}
        return _emit(emit, body, inside, f"{name}.", doors, batch)

    return build


def module_name(node_id: str) -> str:
    """The id itself where it can name an attribute, else an encoding of it; no two ids share one."""
    usable = (
        node_id.isidentifier()
        and node_id.isascii()
        and not keyword.iskeyword(node_id)
        and not node_id.startswith(("_", _ENCODED))
        and not hasattr(fx.GraphModule, node_id)
        and not hasattr(_PLAIN, node_id)
    )
    return node_id if usable else _ENCODED + node_id.encode().hex()


_PLAIN = fx.GraphModule(nn.Module(), fx.Graph())
