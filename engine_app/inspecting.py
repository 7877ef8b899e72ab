"""``cyxwiz inspect``: what is in a file or folder, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.errors import BackendError
from backend.inspection import GraphSummary, Inspection, inspect
from engine_app.entry import CommandError
from engine_app.plain import plain
from engine_app.show import print_json, print_table

SHOWN_TENSORS = 20


def inspect_file(path: Path, as_json: bool) -> None:
    try:
        found = inspect(path)
    except BackendError as error:
        known = path.name in str(error)
        raise CommandError(str(error) if known else f"{path.name}: {error}") from error
    if as_json:
        print_json({"path": str(path), **_for_programs(found)})
    else:
        _print(path, found)


def _for_programs(found: Inspection) -> dict[str, Any]:
    parts = {
        name: _for_programs(part) if isinstance(part, Inspection) else {"error": part}
        for name, part in found.parts.items()
    }
    return {**asdict(found), "parameters": found.parameters, "parts": parts}


def _print(path: Path, found: Inspection) -> None:
    print(f"{plain(path.name)}: {found.kind}, {found.size_bytes:,} bytes")
    _line("runs in", found.runs_in)
    for name, value in found.facts.items():
        _line(name.replace("_", " "), value)
    if found.graph is not None:
        _print_graph(found.graph)
    for key, value in found.metadata.items():
        _line("metadata", f"{key} = {_text(value)}")
    if found.tensors:
        _print_tensors(found)
    if found.parts:
        print_table(("file", "bytes", "what it is"), map(_row, found.parts.items()))


def _row(part: tuple[str, Inspection | str]) -> tuple[str, str, str]:
    name, found = part
    if isinstance(found, str):
        return name, "", found
    return name, f"{found.size_bytes:,}", f"{found.kind}: {found.runs_in}"


def _print_graph(graph: GraphSummary) -> None:
    _line("graph", f"{graph.name or 'unnamed'}: {graph.nodes} nodes, {graph.parameters:,} parameters")
    _line("node types", ", ".join(f"{name} {count}" for name, count in graph.types.items()))
    for what, ends in (("input", graph.inputs), ("output", graph.outputs)):
        for node, shape in ends.items():
            _line(what, f"{node} {shape}")
    for error in graph.errors:
        _line("error", error)


def _print_tensors(found: Inspection) -> None:
    _line("tensors", f"{len(found.tensors)}, {found.parameters:,} numbers")
    print_table(
        ("name", "type", "shape"),
        [(each.name, each.dtype, each.shape) for each in found.tensors[:SHOWN_TENSORS]],
    )
    if len(found.tensors) > SHOWN_TENSORS:
        print(f"and {len(found.tensors) - SHOWN_TENSORS} more; --json lists all")


def _line(label: str, value: Any) -> None:
    print(f"{label:<15} {plain(_text(value))}")


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
