"""``cyxwiz check``: reads a graph and says what is wrong with it. Loads no runtime."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backend.diagnostics import edit_document
from backend.errors import BackendError
from backend.estimate import ASSUMED_FLOPS_PER_S, estimate, training_seconds
from backend.facts import DataFacts
from backend.graph import Graph
from backend.sample_plan import RESIDENT_BYTES
from backend.serialize import graph_hash
from backend.validate import Diagnostic, diagnose, has_errors
from engine_app.document.lowering import load_lowered
from engine_app.entry import CommandError, report
from engine_app.plain import plain
from engine_app.show import print_json
from p2p.protocols.data import ITEM_BYTES


def check_graph(path: Path, data: Path | None, measure: str | None, as_json: bool) -> None:
    """Ends with status 1 if the graph has errors. ``measure`` is the device to time it on."""
    try:
        graph = load_lowered(path.read_bytes())
    except (BackendError, OSError) as error:
        report(CommandError(f"{path.name}: {error}"))
    try:
        facts = _facts(data) if data is not None else None
    except (BackendError, OSError) as error:
        report(error)
    found = diagnose(graph, facts)
    size = None
    if facts is not None and data is not None and not has_errors(found):
        size = _size(graph, facts, data, measure)
    if as_json:
        print_json(_as_json(graph, found, size))
    else:
        _print(graph, found, size)
    sys.exit(1 if has_errors(found) else 0)


def _size(graph: Graph, facts: DataFacts, data: Path, measure: str | None) -> dict[str, Any]:
    found = estimate(graph, facts.samples, facts.sample_shape)
    rate = float(ASSUMED_FLOPS_PER_S)
    if measure is not None:
        from engine_app.rehearsal import measured_rate

        rate = measured_rate(graph, data, found, measure)
    seconds = round(training_seconds(found, rate), 3)
    measured = {"flops_per_s": int(rate), "measured_on": measure, "seconds": seconds}
    return asdict(found) | measured | {"data_streamed": _is_streamed(facts)}


def _is_streamed(facts: DataFacts) -> bool:
    """Whether the inputs stay on disk while they are trained on."""
    return facts.samples * math.prod(facts.sample_shape) * ITEM_BYTES[facts.dtype] > RESIDENT_BYTES


def _facts(data: Path) -> DataFacts:
    from backend.readers import convert

    with TemporaryDirectory() as directory:
        return convert(data, Path(directory) / "dataset.safetensors")


def _as_json(graph: Graph, found: tuple[Diagnostic, ...], size: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": graph.name,
        "graph_hash": graph_hash(graph),
        "nodes": len(graph.nodes),
        "links": len(graph.links),
        "valid": not has_errors(found),
        "diagnostics": [_diagnostic(item) for item in found],
        "estimate": size,
    }


def _diagnostic(found: Diagnostic) -> dict[str, Any]:
    """``inside`` leads from the node into bodies; ``edits``, in order, put it right in ``edits_inside``."""
    fix = found.fix
    return {
        "severity": found.severity.value,
        "node": found.node_id,
        "inside": list(found.inside),
        "text": found.text,
        "fix": fix.text if fix else None,
        "edits": [edit_document(edit) for edit in fix.edits] if fix else [],
        "edits_inside": list(fix.inside) if fix else [],
    }


def _is_partly_trained(size: dict[str, Any]) -> bool:
    return bool(size["trainable_parameters"] != size["parameters"])


def _print(graph: Graph, found: tuple[Diagnostic, ...], size: dict[str, Any] | None) -> None:
    for item in found:
        print(plain(str(item)))
    verdict = "has errors" if has_errors(found) else "can be trained"
    print(f"{plain(graph.name)}: {len(graph.nodes)} nodes, {len(graph.links)} links, {verdict}")
    if size is not None:
        gflop = size["training_flops"] / 1e9
        of_them = f", {size['trainable_parameters']} of them trained" if _is_partly_trained(size) else ""
        print(f"{size['parameters']} parameters{of_them}, {size['steps']} steps, {gflop:.2f} GFLOP")
        parts = ("weights", "gradients", "optimizer", "activations", "data")
        told = ", ".join(f"{part} {size[f'{part}_bytes'] / 1e6:.1f}" for part in parts)
        streamed = " at most, streamed from disk" if size["data_streamed"] else ""
        print(f"memory {size['memory_bytes'] / 1e6:.1f} MB: {told}{streamed}")
        device = size["measured_on"]
        how = f"measured on {plain(device)}" if device else "assumed; --measure cpu times it here"
        print(f"time {size['seconds']:.1f} s at {size['flops_per_s'] / 1e9:.2f} GFLOP/s, {how}")
