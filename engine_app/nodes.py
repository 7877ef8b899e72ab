"""``cyxwiz nodes`` and ``cyxwiz node``: what can be put into a graph. Loads no runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from backend.catalogue import CATALOGUE, NodeType, Parameter, Port, PortKind
from backend.catalogue.parameter import allowed_values
from engine_app.entry import CommandError
from engine_app.show import print_facts, print_json, print_table

_LONGEST = max(map(len, CATALOGUE))


def list_nodes(category: str | None, search: str | None, as_json: bool) -> None:
    """All types, or those of a category, or those that a word is about."""
    found = [record for record in CATALOGUE.values() if _fits(record, category, search)]
    categories = sorted({record.category.value for record in CATALOGUE.values()})
    if category is not None and not any(category.lower() in each.lower() for each in categories):
        raise CommandError(f"no category {category[:64]!r}; categories are {', '.join(categories)}")
    if as_json:
        print_json([document_of(record) for record in found])
        return
    if not found:
        print("no node is about that; categories are " + ", ".join(categories))
        return
    for name in dict.fromkeys(record.category for record in found):
        rows = [(record.name.ljust(_LONGEST), record.help) for record in found if record.category is name]
        print_table((name.value, ""), rows)
        print()
    print("`cyxwiz node NAME` tells its parameters, ports and shapes.")


def explain_node(name: str, as_json: bool) -> None:
    """Ends with status 1 for a name that no type has."""
    by_lower = {known.lower(): known for known in CATALOGUE}
    known = by_lower.get(name.lower())
    if known is None:
        near = [by_lower[each] for each in get_close_matches(name.lower()[:64], by_lower, n=3)]
        hint = f", did you mean {' or '.join(near)}?" if near else "; `cyxwiz nodes` lists them"
        raise CommandError(f"no node {name[:64]!r}{hint}")
    record = CATALOGUE[known]
    if as_json:
        print_json({**document_of(record), "example": example_of(record)})
    else:
        _print(record)


def document_of(record: NodeType) -> dict[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "category": record.category.value,
        "help": record.help,
        "inputs": [_port(port) for port in record.inputs],
        "outputs": [_port(port) for port in record.outputs],
        "parameters": [_parameter(each) for each in record.parameters],
        "shape_rule": record.shape_rule,
        "formats": sorted(record.formats),
        "format_notes": dict(record.format_notes),
        "keywords": list(record.keywords),
        "limitation": record.limitation,
        "wraps": _wraps(record),
    }


def example_of(record: NodeType) -> dict[str, Any]:
    """A piece of a graph: the node between one before and one after it."""
    node: dict[str, Any] = {"id": record.name.lower(), "type": record.name, "version": record.version}
    node["parameters"] = {each.name: _plain(each.default) for each in record.parameters}
    if record.wrapping is not None:
        inner = {"id": "each", "type": "LSTM" if record.wrapping.allowed else "Tanh"}
        entry, end = {"id": "in", "type": "Input"}, {"id": "out", "type": "Output"}
        links = [{"from": ["in", "output"], "to": ["each", "input"]}]
        links.append({"from": ["each", "output"], "to": ["out", "input"]})
        one = record.wrapping.one_node
        node["body"] = {"nodes": [inner]} if one else {"nodes": [entry, inner, end], "links": links}
    into = [{"from": ["before", _usual(port)], "to": [node["id"], port.name]} for port in record.inputs]
    out = [
        {
            "from": [node["id"], port.name],
            "to": ["after", "input" if port.kind.value == "Tensor" else port.name],
        }
        for port in record.outputs
        if port.required
    ]
    return {"nodes": [node], "links": into + out}


def _fits(record: NodeType, category: str | None, search: str | None) -> bool:
    if category is not None and category.lower() not in record.category.value.lower():
        return False
    text = " ".join((record.name, record.help, record.category.value, *record.keywords)).lower()
    return search is None or all(word in text for word in search.lower().split())


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "kind": port.kind.value,
        "variadic": port.variadic,
        "required": port.required,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "type": parameter.type.value,
        "default": _plain(parameter.default),
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "choices": list(parameter.choices),
        "optional": parameter.optional,
        "help": parameter.help,
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _wraps(record: NodeType) -> str:
    if record.wrapping is None:
        return ""
    if not record.wrapping.one_node:
        return "a graph"
    return f"one of {', '.join(sorted(record.wrapping.allowed))}" if record.wrapping.allowed else "one node"


def _usual(port: Port) -> str:
    return "output" if port.kind is PortKind.TENSOR else port.name


def _print(record: NodeType) -> None:
    print(f"{record.name}: {record.help}")
    print_facts(_facts(record))
    print("example")
    example = example_of(record)
    print('  "nodes": [' + ",\n            ".join(json.dumps(each) for each in example["nodes"]) + "],")
    print('  "links": [' + ",\n            ".join(json.dumps(each) for each in example["links"]) + "]")


def _facts(record: NodeType) -> Iterator[tuple[str, str]]:
    yield "category", record.category.value
    yield "formats", ", ".join(sorted(record.formats))
    for name, note in sorted(record.format_notes.items()):
        yield "", f"{name}{'' if name in record.formats else ' (not)'}: {note}"
    yield "shapes", record.shape_rule
    if record.wrapping is not None:
        yield "wraps", _wraps(record)
    if record.limitation:
        yield "limitation", record.limitation
    for side, ports in (("input", record.inputs), ("output", record.outputs)):
        for port in ports:
            yield side, f"{port.name}: {port.kind.value}{_remarks(port)}"
    for parameter in record.parameters:
        default = json.dumps(_plain(parameter.default))
        yield "parameter", f"{parameter.name} = {default}: {parameter.help}; {allowed_values(parameter)}"


def _remarks(port: Port) -> str:
    remarks = ["one or more" if port.variadic else "", "" if port.required else "optional"]
    text = ", ".join(filter(None, remarks))
    return f" ({text})" if text else ""
