"""From a graph to a ``torch.fx.GraphModule`` that runs as fast as code written by hand.

Weights are found in the state dict under their node's id. They are drawn from the graph's seed
alone; torch's global generator is left as it was.
"""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn, optim

from backend import losses, optimizers
from backend.catalogue import CATALOGUE
from backend.catalogue.record import Shape, tensor_shapes
from backend.errors import GraphInvalidError
from backend.graph import Graph, Node, model_nodes
from backend.layers import BUILDERS, Emitter, Site
from backend.pipeline import read_loss, read_optimizer
from backend.shapes import Shapes, infer_shapes, ordered_inputs, parameters_of
from backend.validate import Severity, diagnose

INPUT_NAME = "x"
_ENCODED = "node_x"
_FRESH = frozenset({"BatchNorm", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D"})
"""Types whose output is a tensor of its own that their backward pass does not read."""


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """Shapes are without the batch."""

    graph: Graph
    module: fx.GraphModule
    input_shape: Shape
    output_shape: Shape
    output_names: tuple[str, ...]

    def build_loss(self) -> losses.LossFunction:
        """``(prediction, target) -> loss``. Raises GraphInvalidError for a graph without one loss."""
        return losses.build_loss(read_loss(self.graph))

    def build_optimizer(self, parameters: Iterable[nn.Parameter] | None = None) -> optim.Optimizer:
        """Over all weights unless told which. Raises GraphInvalidError for a graph without one."""
        weights = self.module.parameters() if parameters is None else parameters
        return optimizers.build_optimizer(read_optimizer(self.graph), weights)

    def correct_predictions(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        """How many samples of a batch got the right class; None where there are no classes."""
        return losses.correct_predictions(read_loss(self.graph), prediction, target)


def compile_graph(graph: Graph) -> CompiledModel:
    """Builds the model on the CPU, in training mode.

    Dataset, loss and optimizer may be missing. Raises GraphInvalidError for a model with errors.
    """
    errors = tuple(each for each in diagnose(graph, for_training=False) if each.severity is Severity.ERROR)
    if errors:
        raise GraphInvalidError(errors)
    shapes = infer_shapes(graph)
    nodes = model_nodes(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(graph.training.seed)
        module = _build(graph, nodes, shapes)
    output = next(node for node in nodes if node.type == "Output")
    entry = next(node for node in nodes if node.type == "Input")
    return CompiledModel(
        graph, module, _shape(shapes, entry), _shape(shapes, output), output_names=(output.id,)
    )


def _shape(shapes: Shapes, node: Node) -> Shape:
    (shape,) = tensor_shapes(tuple(shapes.nodes[node.id].outputs.values()))
    return shape


def _build(graph: Graph, nodes: tuple[Node, ...], shapes: Shapes) -> fx.GraphModule:
    root, calls = nn.Module(), fx.Graph()
    emit = Emitter(root, calls)
    values: dict[str, fx.Node] = {}
    incoming = graph.incoming()
    fresh = {node.id for node in nodes if node.type in _FRESH}
    readers = Counter(link.source_node for node in nodes for link in incoming[node.id])
    for node in nodes:
        if node.type == "Input":
            values[node.id] = calls.placeholder(INPUT_NAME)
            continue
        links = ordered_inputs(CATALOGUE[node.type], incoming[node.id]) or []
        site = Site(
            module_name(node.id),
            parameters_of(node),
            tensor_shapes(shapes.nodes[node.id].inputs),
            may_overwrite=links[0].source_node in fresh and readers[links[0].source_node] == 1,
        )
        values[node.id] = BUILDERS[node.type](emit, site, tuple(values[link.source_node] for link in links))
        if node.type == "Output":
            calls.output(values[node.id])
    return fx.GraphModule(root, calls, class_name="CompiledGraph")


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
