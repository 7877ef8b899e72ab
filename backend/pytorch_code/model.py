"""The model of a graph as a file with one ``nn.Module``, and one more for each body of a node. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backend.catalogue import CATALOGUE
from backend.catalogue.file_formats import ONNX_ALONE
from backend.catalogue.record import LabelsType, PortType, Shape, TensorType, tensor_shapes, variadic_names
from backend.diagnostics import error
from backend.errors import GraphInvalidError
from backend.graph import Body, Graph, Link, Node, Wiring, model_nodes
from backend.onnx_node import operator_nodes
from backend.pytorch_code.excerpts import Excerpt, defined
from backend.pytorch_code.layers import WRITERS
from backend.pytorch_code.names import Names
from backend.pytorch_code.sheet import ModuleWriter, Sheet, Spot
from backend.pytorch_code.text import Code, comment, literal
from backend.shapes import Shapes, framed, infer_shapes, nodes_of_type, ordered_inputs, parameters_of
from backend.validate import Severity, diagnose

HELPERS = ("attention", "function", "normalization", "utility")
"""Modules of ``backend.layers`` that files copy from."""
MODEL_CLASS = "Model"
_Known = dict[tuple[str, str], Code]


def model_source(graph: Graph) -> str:
    """A module that gives the numbers of the compiled graph. Raises GraphInvalidError."""
    sheet, renamed = write_model(graph), renamed_weights(graph)
    if not renamed:
        return file_source(graph, sheet, [], f"{_ABOUT}{_SAME_NAMES}")
    sheet.need_import("from safetensors.torch import load_file")
    return file_source(graph, sheet, _loading(renamed), f"{_ABOUT}{_OTHER_NAMES}")


def renamed_weights(graph: Graph) -> Mapping[str, str]:
    """Parts of weights' names that are others in the file, by what they are in a .cyxmodel."""
    return _names(graph).renamed(node_id for node_id, name in _ids(graph) if name not in ("Input", "Output"))


def write_model(graph: Graph, reserved: frozenset[str] = frozenset()) -> Sheet:
    """The classes of the model, the last of them ``MODEL_CLASS``. Raises GraphInvalidError."""
    errors = tuple(each for each in diagnose(graph, for_training=False) if each.severity is Severity.ERROR)
    errors += tuple(error(node.id, f"{ONNX_ALONE}, and torch does not") for node in operator_nodes(graph))
    if errors:
        raise GraphInvalidError(errors)
    shapes = infer_shapes(graph)
    taken = {name for module in HELPERS for name in defined(f"layers.{module}")}
    sheet = Sheet(_names(graph), reserved=reserved | taken | {MODEL_CLASS, "OrderedDict", "Callable", "Any"})
    used = {node.id for node in model_nodes(graph)}
    doors = [node for node in nodes_of_type(graph, "Input") if node.id in used]
    about = f"{comment(graph.name) or 'A model'}: " + "; ".join(_told(sheet, shapes, doors))
    writer = ModuleWriter(sheet, MODEL_CLASS, about + ".", tuple(sheet.names[door.id] for door in doors))
    _write(writer, graph, shapes, doors)
    sheet.classes.append(writer.lines())
    return sheet


def file_source(graph: Graph, sheet: Sheet, rest: list[str], about: str) -> str:
    """The whole file: imports, copied helpers, classes, and what is added."""
    copied = sheet.copied()
    head = [f'"""{comment(graph.name) or "A model"}, written by CyxWiz. {about}', '"""', ""]
    head += ["from __future__ import annotations", "", *_imports(copied)]
    blocks = ["\n".join(head), *copied.definitions, *("\n".join(lines) for lines in sheet.classes)]
    return "\n\n\n".join([*blocks, *(["\n".join(rest)] if rest else [])]) + "\n"


_ABOUT = "Needs torch alone.\n\nInputs and outputs have the batch first. "
_SAME_NAMES = (
    "Weights have the names that they have in a .cyxmodel\n"
    "and in exported safetensors: model.load_state_dict(safetensors.torch.load_file(path))."
)
_OTHER_NAMES = "Load weights with load_weights: some have other names in a .cyxmodel."


def _loading(renamed: Mapping[str, str]) -> list[str]:
    """What brings the names of weights together where ids of nodes are no names in Python."""
    return [
        "RENAMED = {",
        *(f"    {literal(old)}: {literal(new)}," for old, new in renamed.items()),
        "}",
        '"""Parts of names of weights in a .cyxmodel, and what they are here."""',
        "",
        "",
        "def load_weights(model: nn.Module, path: str) -> None:",
        '    """From exported safetensors, or the weights.safetensors in a .cyxmodel, a ZIP file."""',
        "    found = load_file(path)",
        '    names = {old: ".".join(RENAMED.get(part, part) for part in old.split(".")) for old in found}',
        "    model.load_state_dict({names[old]: tensor for old, tensor in found.items()})",
    ]


def _imports(copied: Excerpt) -> list[str]:
    lines = dict.fromkeys(
        [*copied.imports, "import torch", "from torch import nn", "from torch.nn import functional"]
    )
    standard = [line for line in lines if not _is_third_party(line)]
    others = [line for line in lines if _is_third_party(line)]
    in_order = [sorted(group, key=lambda line: line.startswith("from")) for group in (standard, others)]
    return [*in_order[0], *([""] if standard else []), *in_order[1]]


def _is_third_party(line: str) -> bool:
    return line.split()[1].split(".")[0] in ("torch", "numpy", "safetensors")


def _names(graph: Graph) -> Names:
    return Names(node_id for node_id, _ in _ids(graph))


def _ids(wiring: Wiring) -> Iterator[tuple[str, str]]:
    """The id and type of each node, those of bodies included."""
    for node in wiring.nodes:
        yield node.id, node.type
        if node.body is not None and node.type in CATALOGUE:
            yield from _ids(framed(node.body, CATALOGUE[node.type]))


def _told(sheet: Sheet, shapes: Shapes, doors: list[Node]) -> list[str]:
    return [f"takes {sheet.names[door.id]} {_shape_of(shapes.output(door.id))}" for door in doors]


def _shape_of(value: PortType | None) -> str:
    match value:
        case TensorType(shape, ids) | LabelsType(shape, ids):
            return described(shape) + (f" of ids below {ids}" if ids else "")
        case _:
            return ""


def described(shape: Shape) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


def _write(writer: ModuleWriter, wiring: Wiring, shapes: Shapes, doors: list[Node]) -> None:
    """Writes a graph or a body between its Input nodes and its Output nodes."""
    names = writer.sheet.names
    values: _Known = {(door.id, "output"): Code(names[door.id]) for door in doors}
    nodes = tuple(node for node in model_nodes(wiring) if node.type != "Input")
    write_nodes(writer, wiring, shapes, nodes, values, Code(writer.arguments[0]))
    answers = [values[node.id, "output"] for node in nodes_of_type(wiring, "Output")]
    writer.answer = ", ".join(answers)


def write_nodes(
    writer: ModuleWriter,
    wiring: Wiring,
    shapes: Shapes,
    nodes: tuple[Node, ...],
    values: _Known,
    batch: Code,
) -> None:
    """Writes nodes, sources first; ``values`` holds what enters and gets what comes out, by node and port."""
    incoming = wiring.incoming()
    for node in nodes:
        record = CATALOGUE[node.type]
        links = ordered_inputs(record, incoming[node.id]) or []
        found = shapes.nodes[node.id]
        outputs = tensor_shapes(tuple(found.outputs.values()))
        spot = Spot(
            writer,
            writer.sheet.names[node.id],
            parameters_of(node),
            _shapes_in(found.inputs),
            outputs,
            tuple(values[_source(link)] for link in links),
            batch,
            (lambda node=node: _write_body(writer.sheet, node, shapes.bodies[node.id]))  # type: ignore[misc]
            if node.body is not None
            else None,
        )
        answer = _named(spot, WRITERS[node.type](spot))
        for name, value in zip(variadic_names("output", len(answer)), answer, strict=True):
            values[node.id, name] = value


def _shapes_in(types: tuple[PortType, ...]) -> tuple[Shape, ...]:
    return tuple(each.shape for each in types if isinstance(each, TensorType | LabelsType))


def _named(spot: Spot, answer: Code | tuple[Code, ...]) -> tuple[Code, ...]:
    """Gives an expression the node's name; what has one already keeps it."""
    shape = f"  # {described(spot.outputs[0])}" if spot.outputs else ""
    if isinstance(answer, tuple):
        spot.writer.steps[-1] += shape
        return answer
    if answer in spot.inputs:
        return (answer,)
    if answer == spot.name:
        spot.writer.steps[-1] += shape
    else:
        spot.step(f"{spot.name} = {answer}{shape}")
    return (Code(spot.name),)


def _write_body(sheet: Sheet, node: Node, inside: Shapes) -> tuple[str, bool]:
    body = framed(node.body or Body(), CATALOGUE[node.type])
    doors = nodes_of_type(body, "Input")
    arguments = tuple(sheet.names[door.id] for door in doors) or ("batch",)
    name = sheet.names.fresh_class(sheet.names[node.id], sheet.reserved)
    writer = ModuleWriter(sheet, name, f"What is inside {sheet.names[node.id]}.", arguments)
    _write(writer, body, inside, doors)
    sheet.classes.append(writer.lines())
    return name, not doors


def _source(link: Link) -> tuple[str, str]:
    return link.source_node, link.source_port
