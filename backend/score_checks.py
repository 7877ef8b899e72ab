"""Whether outputs are on the scale that their loss takes: scores, probabilities or their logarithms. Pure.

Only what is certain from the last layer is told, as a warning: it would train, and learn badly or fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backend.catalogue import Category
from backend.diagnostics import (
    AddLink,
    ChangeType,
    Diagnostic,
    Edit,
    Fix,
    RemoveNode,
    Severity,
    insert_before,
)
from backend.graph import Graph, Link, Node
from backend.shapes import node_type

SCORES = frozenset(
    {
        "Dense",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2D",
        "SeparableConv2D",
        "ConvTranspose1D",
        "ConvTranspose2D",
        "TokenHead",
    }
)
"""Types whose answers may be any number."""
PROBABILITIES = frozenset({"Sigmoid", "Softmax"})
LOGARITHMS = frozenset({"LogSoftmax"})
_PASSING = frozenset({"Flatten", "Reshape", "View", "Permute", "Squeeze", "Unsqueeze", "Identity"})
"""Types that leave each number as it is."""
_TAKES: Mapping[str, str] = {
    "NLLLoss": "log probabilities",
    "KLDivLoss": "log probabilities",
    "BCELoss": "probabilities",
    "CrossEntropyLoss": "scores",
    "BCEWithLogits": "scores",
}
_MAKES: Mapping[str, str] = {"NLLLoss": "LogSoftmax", "KLDivLoss": "LogSoftmax", "BCELoss": "Sigmoid"}


def check_scores(graph: Graph) -> Iterator[Diagnostic]:
    """A warning for each loss whose prediction is on another scale."""
    nodes, incoming = {node.id: node for node in graph.nodes}, graph.incoming()
    for loss in graph.nodes:
        for link in incoming[loss.id] if loss.type in _TAKES else ():
            output = nodes.get(link.source_node)
            if link.target_port != "prediction" or output is None or output.type != "Output":
                continue
            into_output = incoming[output.id]
            last = _last(nodes, incoming, into_output[0]) if len(into_output) == 1 else None
            given = _scale(last.type) if last is not None else ""
            if last is None or given in ("", _TAKES[loss.type]) or _is_harmless(loss, given):
                continue
            text = f"takes {_TAKES[loss.type]}, {last.id!r} ({last.type}) gives {given}"
            fix = _fix(graph, loss, into_output[0], last, given)
            yield Diagnostic(Severity.WARNING, loss.id, text, fix)


def _last(nodes: Mapping[str, Node], incoming: Mapping[str, list[Link]], link: Link) -> Node | None:
    """What made the numbers that a link carries."""
    for _ in range(len(nodes)):
        node = nodes.get(link.source_node)
        if node is None or node.type not in _PASSING or len(incoming[node.id]) != 1:
            return node
        link = incoming[node.id][0]
    return None


def _scale(type_name: str) -> str:
    if type_name in SCORES:
        return "scores"
    if type_name in PROBABILITIES:
        return "probabilities"
    return "log probabilities" if type_name in LOGARITHMS else ""


def _is_harmless(loss: Node, given: str) -> bool:
    """The softmax of log probabilities are the probabilities."""
    return loss.type == "CrossEntropyLoss" and given == "log probabilities"


def _fix(graph: Graph, loss: Node, link: Link, last: Node, given: str) -> Fix | None:
    made = _MAKES.get(loss.type)
    if made is None:
        return _removed(graph, last)
    if given == "scores":
        return Fix(f"insert {made}", insert_before(graph, link, made, {}))
    if last.type == "Softmax" and made == "LogSoftmax":
        return Fix(f"make it a {made}", (ChangeType(last.id, made),))
    return None


def _removed(graph: Graph, node: Node) -> Fix | None:
    """Edits that take a node with one input out of its way."""
    into, out = graph.incoming()[node.id], graph.outgoing()[node.id]
    record = node_type(node)
    if len(into) != 1 or record is None or record.category is not Category.ACTIVATION:
        return None
    links: tuple[Edit, ...] = tuple(
        AddLink(into[0].source_node, into[0].source_port, link.target_node, link.target_port) for link in out
    )
    return Fix(f"remove {node.id!r}", (RemoveNode(node.id), *links))
