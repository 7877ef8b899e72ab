"""Graph documents to bytes and back. Canonical JSON, migrated forward, nothing lost.

A file is checked for its form only: a graph that makes no sense still loads, so that an editor can
show it. Everything is bounded, for files come from strangers.

Document::

    {"format_version": 2, "name": "...", "training": {"epochs": 10, "seed": 0},
     "nodes": [{"id": "conv1", "type": "Conv2D", "version": 1, "parameters": {"filters": 16}}],
     "links": [{"from": ["input", "output"], "to": ["conv1", "input"]}], "view": {}}

A node that wraps others also has a ``"body": {"nodes": [...], "links": [...]}``. One that is not trained
as others are has ``"training": "frozen"`` or ``"training": {"lora": {"rank": 8, "alpha": 16}}``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blake3 import blake3

from backend.errors import GraphFormatError
from backend.graph import (
    FORMAT_VERSION,
    Body,
    Frozen,
    Graph,
    JsonValue,
    Link,
    Lora,
    Node,
    TrainingSettings,
    Tuning,
)

MAX_GRAPH_BYTES = 4 << 20
MAX_NODES = 10_000
MAX_LINKS = 50_000
"""Both of a whole document, bodies included."""
MAX_NAME_CHARACTERS = 128
MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1

Document = dict[str, Any]


def load_graph(data: bytes | bytearray | memoryview) -> Graph:
    """Reads a graph of this or an older format version.

    Raises GraphFormatError, saying what was found, where, and what is allowed.
    """
    return graph_from_document(_parse(bytes(data)))


def dump_graph(graph: Graph) -> bytes:
    """The canonical form: UTF-8, sorted keys, no white space; equal graphs give equal bytes."""
    text = json.dumps(
        document_of(graph), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def graph_hash(graph: Graph) -> str:
    """BLAKE3 of the canonical form, in hexadecimal."""
    return blake3(dump_graph(graph)).hexdigest()


def document_of(graph: Graph) -> Document:
    document: Document = {
        **graph.extra,
        "format_version": graph.format_version,
        "name": graph.name,
        "training": _training_document(graph.training),
        "nodes": [_node_document(node) for node in graph.nodes],
        "links": [_link_document(link) for link in graph.links],
    }
    if graph.view:
        document["view"] = dict(graph.view)
    return document


def _training_document(training: TrainingSettings) -> Document:
    return {**training.extra, "epochs": training.epochs, "seed": training.seed, **training.options}


def _node_document(node: Node) -> Document:
    known: Document = {
        "id": node.id,
        "type": node.type,
        "version": node.version,
        "parameters": dict(node.parameters),
    }
    if node.body is not None:
        known["body"] = {
            **node.body.extra,
            "nodes": [_node_document(inner) for inner in node.body.nodes],
            "links": [_link_document(link) for link in node.body.links],
        }
    match node.tuning:
        case Frozen():
            known["training"] = "frozen"
        case Lora(rank, alpha):
            known["training"] = {"lora": {"rank": rank, "alpha": alpha}}
    return {**node.extra, **known}


def _link_document(link: Link) -> Document:
    ends = {"from": [link.source_node, link.source_port], "to": [link.target_node, link.target_port]}
    return {**link.extra, **ends}


# -- reading -------------------------------------------------------------------------------------


def graph_from_document(document: JsonValue) -> Graph:
    """Raises GraphFormatError."""
    current = migrate(_object(document, "the document"))
    fields = _Fields(current, "the document")
    nodes, links = _read_wiring(fields, "", _Budget())
    return Graph(
        name=fields.text("name", ""),
        nodes=nodes,
        links=links,
        training=_read_training(fields.mapping("training")),
        view=fields.mapping("view"),
        format_version=fields.integer("format_version", FORMAT_VERSION),
        extra=fields.rest(),
    )


class _Budget:
    """Counts nodes and links over all bodies."""

    def __init__(self) -> None:
        self._left = {"nodes": MAX_NODES, "links": MAX_LINKS}

    def take(self, what: str, count: int) -> None:
        """Raises GraphFormatError."""
        self._left[what] -= count
        if self._left[what] < 0:
            limit = {"nodes": MAX_NODES, "links": MAX_LINKS}[what]
            raise GraphFormatError(f"{limit - self._left[what]} {what} with all bodies, limit {limit}")


def _read_wiring(fields: _Fields, where: str, budget: _Budget) -> tuple[tuple[Node, ...], tuple[Link, ...]]:
    nodes, links = fields.array("nodes", MAX_NODES), fields.array("links", MAX_LINKS)
    budget.take("nodes", len(nodes))
    budget.take("links", len(links))
    return (
        tuple(_read_node(entry, f"{where}nodes[{index}]", budget) for index, entry in enumerate(nodes)),
        tuple(_read_link(entry, f"{where}links[{index}]") for index, entry in enumerate(links)),
    )


def _read_node(value: JsonValue, where: str, budget: _Budget) -> Node:
    fields = _Fields(_object(value, where), where)
    return Node(
        id=fields.text("id"),
        type=fields.text("type"),
        version=fields.integer("version", 1),
        parameters=fields.mapping("parameters"),
        body=_read_body(fields, where, budget),
        tuning=fields.tuning("training"),
        extra=fields.rest(),
    )


def _read_body(fields: _Fields, where: str, budget: _Budget) -> Body | None:
    if not fields.has("body"):
        return None
    inner = _Fields(fields.mapping("body"), f"body of {where}")
    nodes, links = _read_wiring(inner, f"{where}.", budget)
    return Body(nodes, links, inner.rest())


def _read_link(value: JsonValue, where: str) -> Link:
    fields = _Fields(_object(value, where), where)
    source_node, source_port = fields.port("from")
    target_node, target_port = fields.port("to")
    return Link(source_node, source_port, target_node, target_port, fields.rest())


def _read_training(value: dict[str, JsonValue]) -> TrainingSettings:
    fields = _Fields(value, "training")
    return TrainingSettings(
        epochs=fields.integer("epochs", 1),
        seed=fields.integer("seed", 0),
        patience=fields.integer("patience", 0),
        keep=fields.text("keep", "last"),
        accumulate=fields.integer("accumulate", 1),
        precision=fields.text("precision", "auto"),
        extra=fields.rest(),
    )


class _Fields:
    """Takes known fields out of an object one by one; what is left is kept as ``extra``."""

    def __init__(self, value: dict[str, JsonValue], where: str) -> None:
        self._left = dict(value)
        self._where = where

    def rest(self) -> dict[str, JsonValue]:
        return self._left

    def has(self, name: str) -> bool:
        return name in self._left

    def _take(self, name: str, default: JsonValue) -> JsonValue:
        return self._left.pop(name, default)

    def _fail(self, name: str, found: object, allowed: str) -> GraphFormatError:
        return GraphFormatError(f"{name} of {self._where} is {_shown(found)}, must be {allowed}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self._fail(name, value, "a string")
        if len(value) > MAX_NAME_CHARACTERS or (default is None and not value):
            raise self._fail(name, value, f"1 to {MAX_NAME_CHARACTERS} characters")
        return value

    def integer(self, name: str, default: int) -> int:
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
            raise self._fail(name, value, "an integer of 64 bits")
        return value

    def array(self, name: str, limit: int) -> list[JsonValue]:
        value = self._take(name, [])
        if not isinstance(value, list):
            raise self._fail(name, value, "a list")
        if len(value) > limit:
            raise GraphFormatError(f"{len(value)} {name}, limit {limit}")
        return value

    def mapping(self, name: str) -> dict[str, JsonValue]:
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise self._fail(name, value, "an object")
        return value

    def tuning(self, name: str) -> Tuning | None:
        match self._take(name, None):
            case None:
                return None
            case "frozen":
                return Frozen()
            case {"lora": {"rank": int(rank), "alpha": int(alpha) | float(alpha), **odd}, **other} if (
                not odd and not other and not isinstance(rank, bool) and not isinstance(alpha, bool)
            ):
                return Lora(rank, alpha)
            case found:
                raise self._fail(name, found, '"frozen" or {"lora": {"rank": 8, "alpha": 16}}')

    def port(self, name: str) -> tuple[str, str]:
        match self._take(name, None):
            case [str(node_id), str(port)] if max(len(node_id), len(port)) <= MAX_NAME_CHARACTERS:
                return node_id, port
            case other:
                raise self._fail(name, other, 'a pair ["node id", "port name"]')


def _object(value: JsonValue, where: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise GraphFormatError(f"{where} is {_shown(value)}, must be an object")
    return value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- migrations ----------------------------------------------------------------------------------


def _from_0(document: Document) -> Document:
    """Version 0 kept nodes in an object by id, links as "node.port -> node.port", settings on top."""
    fields = _Fields(document, "the document")
    nodes = [
        {**_object(value, f"node {_shown(key)}"), "id": key} for key, value in fields.mapping("nodes").items()
    ]
    links = [_link_of_text(entry) for entry in fields.array("links", MAX_LINKS)]
    training = {"epochs": fields.integer("epochs", 1), "seed": fields.integer("seed", 0)}
    return {**fields.rest(), "format_version": 1, "nodes": nodes, "links": links, "training": training}


def _from_1(document: Document) -> Document:
    """Version 1 knew no bodies: a field of that name was one that it kept without knowing it."""
    fields = _Fields(document, "the document")
    nodes = []
    for index, entry in enumerate(fields.array("nodes", MAX_NODES)):
        node = dict(_object(entry, f"nodes[{index}]"))
        if "body" in node:
            node["body of format 1"] = node.pop("body")
        nodes.append(node)
    return {**fields.rest(), "format_version": 2, "nodes": nodes}


def _link_of_text(entry: JsonValue) -> Document:
    source, arrow, target = str(entry).partition(" -> ")
    if not arrow or "." not in source or "." not in target:
        raise GraphFormatError(f'link {_shown(entry)}, must be "node.port -> node.port"')
    return {"from": list(source.rpartition(".")[::2]), "to": list(target.rpartition(".")[::2])}


MIGRATIONS: Mapping[int, Callable[[Document], Document]] = {0: _from_0, 1: _from_1}
"""From the version that is the key to the next one."""


def migrate(document: Document) -> Document:
    """Brings a document of any known version to the newest one.

    Raises GraphFormatError for a version from the future or without a number.
    """
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= FORMAT_VERSION:
        raise GraphFormatError(f"format_version is {_shown(version)}, must be 0 to {FORMAT_VERSION}")
    while version < FORMAT_VERSION:
        document = MIGRATIONS[version](document)
        version += 1
    return document


# -- parsing -------------------------------------------------------------------------------------


def _parse(data: bytes) -> JsonValue:
    if len(data) > MAX_GRAPH_BYTES:
        raise GraphFormatError(f"graph of {len(data)} bytes, limit {MAX_GRAPH_BYTES}")
    try:
        value: JsonValue = json.loads(
            data.decode(),
            parse_int=_read_integer,
            parse_float=_read_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise GraphFormatError(f"not JSON in UTF-8: {error}") from error
    _check(value)
    return value


def _read_integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
        raise GraphFormatError(f"integer {_shown(text)}, limit {MAX_INTEGER}")
    return int(text)


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise GraphFormatError(f"number {_shown(text)} is out of range")
    return value


def _refuse_constant(text: str) -> JsonValue:
    raise GraphFormatError(f"number {text}, must be finite")


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise GraphFormatError(f"field {_shown(twice)} appears twice in one object")
    return found


def _check(document: JsonValue) -> None:
    """Depth, and texts: JSON may spell half a surrogate pair, which no UTF-8 can hold."""
    level = [document]
    for _ in range(MAX_DEPTH):
        texts = [value for value in level if isinstance(value, str)]
        texts += [key for value in level if isinstance(value, dict) for key in value]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise GraphFormatError(f"text that is not Unicode: {error.reason}") from error
        level = [inner for value in level for inner in _children(value)]
        if not level:
            return
    raise GraphFormatError(f"graph nested more than {MAX_DEPTH} deep, limit {MAX_DEPTH}")


def _children(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
