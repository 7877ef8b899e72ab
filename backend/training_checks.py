"""What is wrong around the model: data, losses, optimizer, and whether a dataset fits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from backend.catalogue import Category
from backend.catalogue.record import LabelsType, Shape, TensorType, described, elements
from backend.diagnostics import (
    AddLink,
    AddNode,
    ChangeParameter,
    ChangeTraining,
    Diagnostic,
    Edit,
    Fix,
    RemoveLink,
    RemoveNode,
    ends_of,
    error,
    free_id,
    insert_before,
)
from backend.graph import Graph, JsonValue, Link, Node, model_nodes, upstream
from backend.pipeline import Pipeline, nodes_of, preparing_nodes, read_pipeline, target_links
from backend.score_checks import check_scores
from backend.shapes import Shapes, node_type, nodes_of_type

MAX_EPOCHS = 1_000_000
MAX_SEED = 2**63 - 1
MAX_ACCUMULATE = 65_536
BOUNDS = {
    "epochs": (1, MAX_EPOCHS),
    "seed": (0, MAX_SEED),
    "patience": (0, MAX_EPOCHS),
    "accumulate": (1, MAX_ACCUMULATE),
}
CHOICES = {"keep": ("last", "best"), "precision": ("auto", "float32", "bfloat16")}
DEFAULT_VALIDATION = 0.1
PREPARES = frozenset({Category.SHAPE, Category.MERGE, Category.UTILITY, Category.ACTIVATION})
"""What may stand between the DataLoader and the Inputs or targets, if it has no weights."""
SINGLE = ("DataSplit", "Normalize", "Augmentation", "OneHotEncode", "Tokenize", "GradientClip")


class DataFacts(Protocol):
    """What must be known of a dataset to check a graph against it."""

    @property
    def samples(self) -> int: ...
    @property
    def sample_shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...


def check_training(graph: Graph, shapes: Shapes) -> Iterator[Diagnostic]:
    yield from _check_settings(graph)
    yield from _check_counts(graph)
    yield from _check_loader(graph)
    yield from _check_chain(graph)
    yield from _check_data_order(graph)
    yield from _check_ends(graph)
    yield from _check_preparation(graph, shapes)
    yield from check_scores(graph)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")


def _check_settings(graph: Graph) -> Iterator[Diagnostic]:
    training = graph.training
    for name, (low, high) in BOUNDS.items():
        value = getattr(training, name)
        if not low <= value <= high:
            near = min(max(value, low), high)
            fix = Fix(f"set it to {near}", (ChangeTraining(name, near),))
            yield error(None, f"{name} is {value}, must be from {low} to {high}", fix)
    for name, allowed in CHOICES.items():
        value = getattr(training, name)
        if value not in allowed:
            meant = value.strip().lower()
            choice = meant if meant in allowed else allowed[0]
            fix = Fix(f"set it to {choice}", (ChangeTraining(name, choice),))
            yield error(None, f"{name} is {_shown(value)}, must be {_one_of(allowed)}", fix)
    yield from _check_validation(graph)


def _one_of(allowed: tuple[str, ...]) -> str:
    return f"{', '.join(allowed[:-1])} or {allowed[-1]}"


def _check_validation(graph: Graph) -> Iterator[Diagnostic]:
    """What goes by the validation loss needs samples to measure it on."""
    splits = nodes_of_type(graph, "DataSplit")
    if any(node.parameters.get("validation", DEFAULT_VALIDATION) for node in splits):
        return
    asks: dict[str, tuple[int | str, int | str]] = {
        "patience": (graph.training.patience, 0),
        "keep": (graph.training.keep, "last"),
    }
    for name, (value, idle) in asks.items():
        if value == "best" or (name == "patience" and value != idle):
            text = f"{name} is {value}, which needs validation samples: no DataSplit sets any aside"
            yield error(None, text, Fix(f"set it to {idle}", (ChangeTraining(name, idle),)))


def _check_counts(graph: Graph) -> Iterator[Diagnostic]:
    losses, optimizers = nodes_of(graph, Category.LOSS), nodes_of(graph, Category.OPTIMIZER)
    if not losses:
        yield error(None, "the graph has no loss node, must have one or more", Fix("add a loss"))
    if optimizers:
        yield from _too_many(optimizers, "optimizer")
    else:
        yield error(None, "the graph has no optimizer node, must have 1", _added_optimizer(graph, losses))
    for name in ("DatasetInput", "DataLoader"):
        found = nodes_of_type(graph, name)
        if not found:
            fix = Fix("add one", (AddNode(free_id(graph, name.lower()), name),))
            yield error(None, f"the graph has no {name} node, must have 1", fix)
        yield from _too_many(found, name)
    for name in SINGLE:
        yield from _too_many(nodes_of_type(graph, name), name)


def _too_many(nodes: list[Node], what: str) -> Iterator[Diagnostic]:
    for node in nodes[1:]:
        fix = Fix("remove it", (RemoveNode(node.id),))
        yield error(node.id, f"the graph has {len(nodes)} {what} nodes, must have 1", fix)


def _added_optimizer(graph: Graph, losses: list[Node]) -> Fix:
    new = free_id(graph, "adam")
    links = tuple(AddLink(node.id, "loss", new, "loss") for node in losses)
    return Fix("add Adam", (AddNode(new, "Adam"), *links))


def _check_loader(graph: Graph) -> Iterator[Diagnostic]:
    used = upstream(graph, [node.id for node in nodes_of_type(graph, "DataLoader")])
    for node in nodes_of(graph, Category.DATA):
        if node.id not in used:
            fix = Fix("link its dataset on, or remove it", (RemoveNode(node.id),))
            yield error(node.id, "no DataLoader takes its dataset", fix)


def _check_chain(graph: Graph) -> Iterator[Diagnostic]:
    """Losses and penalties must reach the optimizer; what follows it is one chain."""
    optimizers = nodes_of(graph, Category.OPTIMIZER)
    reaching = upstream(graph, [node.id for node in optimizers])
    for node in [*nodes_of(graph, Category.LOSS), *nodes_of(graph, Category.PENALTY)]:
        if node.type != "GradientClip" and node.id not in reaching and optimizers:
            link = AddLink(node.id, "loss", optimizers[0].id, "loss")
            yield error(node.id, "its loss reaches no optimizer", Fix("link it to the optimizer", (link,)))
    outgoing = graph.outgoing()
    for node in graph.nodes:
        record = node_type(node)
        if record is None or record.category not in (Category.OPTIMIZER, Category.SCHEDULE, Category.PENALTY):
            continue
        followers = [link for link in outgoing[node.id] if link.source_port in ("optimizer", "loss")]
        if len(followers) > 1:
            fix = Fix("keep the first", tuple(RemoveLink(*ends_of(link)) for link in followers[:0:-1]))
            yield error(node.id, f"{len(followers)} nodes follow it, must be 1", fix)


def _check_data_order(graph: Graph) -> Iterator[Diagnostic]:
    """Splits and statistics are of the dataset as it is stored; random changes come before encodings."""
    for name, before in (
        ("Normalize", {"Augmentation", "OneHotEncode", "Tokenize"}),
        ("DataSplit", {"Augmentation", "OneHotEncode", "Tokenize"}),
        ("Augmentation", {"OneHotEncode", "Tokenize"}),
    ):
        for node in nodes_of_type(graph, name):
            above = upstream(graph, [node.id])
            wrong = [each.type for each in graph.nodes if each.id in above and each.type in before]
            if wrong:
                yield error(node.id, f"comes after {wrong[0]}, must come before it")


# -- where the model begins and ends -------------------------------------------------------------


def _check_ends(graph: Graph) -> Iterator[Diagnostic]:
    """Samples enter the model at its Inputs and leave it for the losses at its Outputs."""
    types = {node.id: node.type for node in graph.nodes}
    incoming = graph.incoming()
    loaders = nodes_of_type(graph, "DataLoader")
    model = {node.id for node in model_nodes(graph)}
    losses = {node.id for node in nodes_of(graph, Category.LOSS)}
    for node in graph.nodes:
        if node.type == "Input" and not incoming[node.id]:
            links = tuple(AddLink(each.id, "samples", node.id, "input") for each in loaders[:1])
            yield error(node.id, "no samples are linked to it", Fix("link samples of the DataLoader", links))
        for link in incoming[node.id]:
            source = types.get(link.source_node, "")
            if node.type == "Input" and source == "DataLoader" and link.source_port == "labels":
                fix = Fix("remove the link", (RemoveLink(*ends_of(link)),))
                yield error(node.id, "brings labels to an Input, which a model must not see", fix)
            if node.id in losses and link.target_port in ("prediction", "other"):
                if source not in ("", "Output"):
                    yield _past_the_output(graph, node, link, source)
            elif source == "DataLoader" and node.type != "Input" and node.id in model:
                yield _past_the_input(graph, node, link)


def _past_the_output(graph: Graph, node: Node, link: Link, source: str) -> Diagnostic:
    text = f"{link.target_port} comes from {_shown(source)}, must come from the Output"
    outputs = nodes_of_type(graph, "Output")
    edits: tuple[Edit, ...] = ()
    if outputs:
        edits = (
            RemoveLink(*ends_of(link)),
            AddLink(outputs[0].id, "output", link.target_node, link.target_port),
        )
    return error(node.id, text, Fix("link the Output to it", edits))


def _past_the_input(graph: Graph, node: Node, link: Link) -> Diagnostic:
    if link.source_port == "labels":
        fix = Fix("remove the link", (RemoveLink(*ends_of(link)),))
        return error(node.id, "takes labels, which a model must not see", fix)
    fix = Fix("insert an Input", insert_before(graph, link, "Input", {}))
    return error(node.id, "takes samples past the Input", fix)


def _check_preparation(graph: Graph, shapes: Shapes) -> Iterator[Diagnostic]:
    """What stands between the DataLoader and the Inputs or targets only moves and computes."""
    entries = {node.id for node in graph.nodes if node.type == "Input"}
    between = preparing_nodes(graph)
    from_model = _downstream(graph, entries)
    to_inputs = upstream(graph, entries)
    incoming = graph.incoming()
    for link in target_links(graph):
        if link.source_node in from_model:
            yield error(link.target_node, "target comes from the model, must come from the DataLoader")
    for node in nodes_of_type(graph, "Input"):
        if any(link.source_node in from_model for link in incoming[node.id]):
            yield error(node.id, "input comes from the model, must come from the DataLoader")
    for node in between:
        record = node_type(node)
        found = shapes.nodes.get(node.id)
        if node.id in from_model:
            continue
        if record is not None and record.category not in PREPARES:
            yield error(
                node.id,
                f"{node.type} stands between the DataLoader and an Input or a target, where only shape, "
                "merge and arithmetic nodes can",
            )
        elif found is not None and found.counts.parameters:
            yield error(node.id, "has weights outside the model, where they would not be trained")
        if node.id in to_inputs:
            for link in incoming[node.id]:
                if link.source_port == "labels":
                    yield error(node.id, "brings labels to an Input, which a model must not see")


def _downstream(graph: Graph, starts: set[str]) -> frozenset[str]:
    outgoing = graph.outgoing()
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        node_id = waiting.pop()
        if node_id not in seen and node_id in outgoing:
            seen.add(node_id)
            waiting += [link.target_node for link in outgoing[node_id]]
    return frozenset(seen)


# -- scores and targets --------------------------------------------------------------------------


def fix_scores(graph: Graph, shapes: Shapes, loss: str) -> Fix | None:
    """How the layers before an Output would give what a loss compares; None where there is no one way."""
    links = {link.target_port: link for link in graph.incoming()[loss]}
    if not {"prediction", "target"} <= links.keys():
        return None
    found = shapes.output(links["prediction"].source_node, links["prediction"].source_port)
    target = shapes.output(links["target"].source_node, links["target"].source_port)
    into_output = graph.incoming()[links["prediction"].source_node]
    if not isinstance(found, TensorType) or len(into_output) != 1:
        return None
    wanted = _wanted(target)
    if wanted is None or wanted == found.shape:
        return None
    dense = _dense_before(graph, into_output[0])
    if dense is not None and wanted[:-1] == found.shape[:-1] and wanted:
        edits: tuple[Edit, ...] = (ChangeParameter(dense.id, "units", wanted[-1]),)
        return Fix(f"set units of {_shown(dense.id)} to {wanted[-1]}", edits)
    if not wanted and found.shape == (1,):
        return Fix("insert Squeeze", insert_before(graph, into_output[0], "Squeeze", {}))
    return _flattened(graph, into_output[0], found.shape, wanted)


def _wanted(target: object) -> Shape | None:
    match target:
        case LabelsType(shape, classes) if classes:
            return (*shape, classes)
        case LabelsType(shape) | TensorType(shape):
            return shape
        case _:
            return None


def _dense_before(graph: Graph, link: Link) -> Node | None:
    """The Dense that a link comes from, seen through activations."""
    nodes, incoming = {node.id: node for node in graph.nodes}, graph.incoming()
    for _ in range(8):
        node = nodes.get(link.source_node)
        if node is None or node.type == "Dense":
            return node
        record = node_type(node)
        before = incoming[node.id]
        if record is None or record.category is not Category.ACTIVATION or len(before) != 1:
            return None
        link = before[0]
    return None


def _flattened(graph: Graph, link: Link, found: Shape, wanted: Shape) -> Fix | None:
    """Flatten, and a Dense where that is not yet the shape that is wanted."""
    if len(wanted) != 1:
        return None
    texts: list[str] = []
    edits: tuple[Edit, ...] = ()
    if len(found) != 1:
        edits = insert_before(graph, link, "Flatten", {})
        texts.append("insert Flatten")
        new = next(edit.node for edit in edits if isinstance(edit, AddNode))
        link = Link(new, "output", link.target_node, link.target_port)
    if (elements(found),) != wanted:
        edits += insert_before(graph, link, "Dense", {"units": wanted[0]})
        texts.append(f"insert Dense with units {wanted[0]}")
    return Fix(" and ".join(texts), edits)


# -- data ----------------------------------------------------------------------------------------


def check_data(graph: Graph, shapes: Shapes, data: DataFacts) -> Iterator[Diagnostic]:
    """For a graph without errors."""
    pipeline = read_pipeline(graph)
    source = nodes_of_type(graph, "DatasetInput")[0].id
    if tuple(data.sample_shape) != pipeline.sample_shape:
        shape: JsonValue = list(data.sample_shape)
        yield error(
            source,
            f"sample_shape is {described(pipeline.sample_shape)}, the data has "
            f"{described(tuple(data.sample_shape))}",
            Fix(f"set it to {shape}", (ChangeParameter(source, "sample_shape", shape),)),
        )
    target_shape = getattr(data, "target_shape", None)
    if target_shape is not None and tuple(target_shape) != pipeline.target_shape:
        wanted: JsonValue = list(target_shape)
        yield error(
            source,
            f"target_shape is {described(pipeline.target_shape)}, the data has "
            f"{described(tuple(target_shape))}",
            Fix(f"set it to {wanted}", (ChangeParameter(source, "target_shape", wanted),)),
        )
    # Labels with axes of their own may be stored as either; what they mean, the graph says.
    too_many = data.classes > pipeline.classes and (pipeline.classes or not pipeline.target_shape)
    differs = not pipeline.target_shape and bool(data.classes) != bool(pipeline.classes)
    if too_many or differs:
        yield error(
            source,
            f"classes is {pipeline.classes}, the data has {data.classes or 'real numbers for labels'}",
            Fix(f"set it to {data.classes}", (ChangeParameter(source, "classes", data.classes),)),
        )
    yield from _check_batches(graph, pipeline, shapes, source, data.samples)


def _check_batches(
    graph: Graph, pipeline: Pipeline, shapes: Shapes, source: str, samples: int
) -> Iterator[Diagnostic]:
    training, validation, _ = pipeline.split_sizes(samples)
    if not validation and (pipeline.patience or pipeline.keep_best):
        name, idle = ("patience", 0) if pipeline.patience else ("keep", "last")
        fix = Fix(f"set {name} to {idle}", (ChangeTraining(name, idle),))
        yield error(source, f"{samples} samples leave none for validation, which {name} goes by", fix)
    last = training % pipeline.batch_size or pipeline.batch_size
    if training < 1:
        yield error(source, f"{samples} samples leave none to train on")
    elif pipeline.steps_per_epoch(samples) < 1:
        yield error(source, f"{training} training samples do not fill a batch of {pipeline.batch_size}")
    elif pipeline.batch_size == 1 or (last == 1 and not pipeline.drop_last):
        yield from _check_single_samples(graph, shapes, training)


def _check_single_samples(graph: Graph, shapes: Shapes, training: int) -> Iterator[Diagnostic]:
    """A batch of one sample has no variance for BatchNorm to divide by."""
    loader = nodes_of_type(graph, "DataLoader")[0]
    for node in nodes_of(graph, Category.NORMALIZATION):
        shape = shapes.shape(node.id)
        if node.type == "BatchNorm" and shape is not None and all(extent == 1 for extent in shape[1:]):
            yield error(
                node.id,
                f"of {training} training samples a batch has only 1, at least 2 are needed here",
                Fix(
                    "change batch_size or set drop_last of the DataLoader",
                    (ChangeParameter(loader.id, "drop_last", True),),
                ),
            )
