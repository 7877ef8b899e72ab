"""Is a submitted graph what the job says, does it make sense, and what does it need? Never runs it.

Uses only backend's pure modules. Called off the event loop: a large graph takes a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

from coordinator.job import Cost
from p2p.errors import RemoteFailureError
from p2p.jobs import SERVED_FORMATS, JobSpec, ServingSpec

if TYPE_CHECKING:
    from backend.graph import Graph, Wiring

MAX_DIAGNOSTICS = 20
MAX_NODES = 2_000
MAX_TEXT = 4000


def admit(spec: JobSpec, body: bytes) -> Cost:
    """Raises RemoteFailureError for what cannot be trained, with the diagnostics, or served."""
    return _admit_graph(spec, body) if spec.serving is None else _admit_serving(spec, spec.serving, body)


def _admit_serving(spec: JobSpec, serving: ServingSpec, body: bytes) -> Cost:
    """The model itself is its peer's to judge: no weight ever comes here."""
    if body or spec.graph_hash != blake3(b"").hexdigest():
        raise RemoteFailureError("invalid", f"graph of {len(body)} bytes with a deployment, which has none")
    if serving.format not in SERVED_FORMATS:
        allowed = ", ".join(SERVED_FORMATS)
        raise RemoteFailureError("invalid", f"model format {serving.format!r}, allowed {allowed}")
    size = sum(file.size for file in spec.files)
    if serving.memory_bytes < size:
        raise RemoteFailureError(
            "invalid", f"memory of {serving.memory_bytes} bytes for a model of {size} bytes, which is less"
        )
    return Cost(0, 0, serving.memory_bytes, spec.duration_ms(0, 1))


def _admit_graph(spec: JobSpec, body: bytes) -> Cost:
    # Here and not above: --help must not load the catalogue.
    from backend.errors import BackendError
    from backend.serialize import graph_hash, load_graph

    try:
        graph = load_graph(body)
    except (BackendError, RecursionError) as error:
        raise RemoteFailureError("invalid", f"malformed graph: {error}"[:MAX_TEXT]) from error
    count = _nodes_in(graph)
    if count > MAX_NODES:
        raise RemoteFailureError("invalid", f"graph of {count} nodes, limit {MAX_NODES}")
    found = graph_hash(graph)
    if found != spec.graph_hash:
        raw = blake3(body).hexdigest()
        raise RemoteFailureError(
            "invalid", f"graph hash: found {found} (of the bytes {raw}), the job names {spec.graph_hash}"
        )
    _check(graph, spec)
    return _cost(graph, spec)


def _nodes_in(wiring: Wiring) -> int:
    """Also those inside of others."""
    return sum(1 if node.body is None else 1 + _nodes_in(node.body) for node in wiring.nodes)


def _check(graph: Graph, spec: JobSpec) -> None:
    from backend.onnx_node import why_not_at_a_peer
    from backend.validate import Severity, diagnose

    if reason := why_not_at_a_peer(graph):
        raise RemoteFailureError("invalid", reason[:MAX_TEXT])
    errors = [entry for entry in diagnose(graph, spec.data) if entry.severity is Severity.ERROR]
    if errors:
        shown = "; ".join(str(entry) for entry in errors[:MAX_DIAGNOSTICS])
        more = f"; and {len(errors) - MAX_DIAGNOSTICS} more" if len(errors) > MAX_DIAGNOSTICS else ""
        raise RemoteFailureError("invalid", f"malformed graph: {shown}{more}"[:MAX_TEXT])


def _cost(graph: Graph, spec: JobSpec) -> Cost:
    from backend.errors import BackendError
    from backend.estimate import estimate

    try:
        found = estimate(graph, spec.data.samples, spec.data.sample_shape)
    except (BackendError, ValueError, OverflowError) as error:
        raise RemoteFailureError("invalid", f"graph and data do not fit: {error}"[:MAX_TEXT]) from error
    largest = max(found.parameters, found.training_flops, found.memory_bytes)
    if largest > 2**53:
        raise RemoteFailureError("invalid", f"the job needs {largest} operations or bytes, limit {2**53}")
    return Cost(found.parameters, found.training_flops, found.memory_bytes)
