"""Which offers and graphs this peer takes, and its own price for them. Pure but for parsing the graph."""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from backend.errors import BackendError
from backend.estimate import estimate
from backend.graph import Graph
from backend.onnx_node import why_not_at_a_peer
from backend.serialize import load_graph
from backend.validate import Severity, diagnose
from p2p.jobs import DataSummary, Delivery, FileRef, JobSpec, ServingSpec
from p2p.pricing import price_of
from p2p.protocols.coordinator import OfferJob
from p2p.protocols.data import ITEM_BYTES, MAX_ROWS_BYTES, row_bytes
from peer.errors import JobError, OfferRefusedError

MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """This peer's own price and time for the segments that are left."""

    quote: int
    duration_s: int


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Which models of others this peer serves; without formats none."""

    formats: tuple[str, ...] = ()
    memory_bytes: int = 0
    """Of one model's worker at most."""


NO_SERVING = ServingLimits()


def check_offer(
    offer: OfferJob,
    device_count: int,
    max_data_bytes: int,
    deliveries: tuple[Delivery, ...],
    serving: ServingLimits = NO_SERVING,
) -> None:
    """What can be said before the graph is here. Raises OfferRefusedError."""
    if not 0 <= offer.device < device_count:
        raise OfferRefusedError(f"device {offer.device}, offered 0 to {device_count - 1}")
    data = offer.job.data
    if data.delivery not in deliveries:
        allowed = ", ".join(delivery.value for delivery in deliveries)
        raise OfferRefusedError(f"data comes as {data.delivery.value}, allowed is {allowed}")
    if data.delivery is Delivery.FILE and data.file.size > max_data_bytes:
        raise OfferRefusedError(f"dataset of {data.file.size} bytes, limit {max_data_bytes}")
    if data.delivery is Delivery.STREAM:
        _check_samples(data)
    if not 0 <= offer.first_segment < offer.job.segments:
        raise OfferRefusedError(f"first segment {offer.first_segment} of {offer.job.segments}")
    if offer.job.serving is not None:
        _check_serving(offer.job.serving, max_data_bytes, serving)


def _check_serving(wanted: ServingSpec, max_data_bytes: int, limits: ServingLimits) -> None:
    if wanted.format not in limits.formats:
        allowed = ", ".join(limits.formats) or "none"
        raise OfferRefusedError(f"a deployment whose model is {wanted.format}, served here: {allowed}")
    if wanted.memory_bytes > limits.memory_bytes:
        raise OfferRefusedError(
            f"a deployment of {wanted.memory_bytes} bytes of memory, limit {limits.memory_bytes}"
        )
    if wanted.tokenizer is not None and wanted.tokenizer.size > max_data_bytes:
        raise OfferRefusedError(f"tokenizer of {wanted.tokenizer.size} bytes, limit {max_data_bytes}")


def _check_samples(data: DataSummary) -> None:
    if data.dtype not in ITEM_BYTES:
        raise OfferRefusedError(f"samples are {data.dtype}, allowed are {', '.join(ITEM_BYTES)}")
    size = row_bytes(data.dtype, data.sample_shape, data.classes, ())
    if size > MAX_ROWS_BYTES:
        raise OfferRefusedError(f"a sample of {size} bytes, limit {MAX_ROWS_BYTES}")


def check_checkpoint(offer: OfferJob, checkpoint: FileRef | None) -> None:
    """Raises JobError."""
    if offer.job.serving is not None:
        is_right = checkpoint == (offer.job.data.file if offer.first_segment > 0 else None)
    else:
        is_right = checkpoint is not None if offer.first_segment > 0 else checkpoint == offer.job.start
    if not is_right:
        found = "none" if checkpoint is None else "one"
        text = f"checkpoint: found {found} for first segment {offer.first_segment}"
        raise JobError("checkpoint", text, retryable=False)


def judge_graph(graph: bytes, offer: OfferJob, flops_per_s: int, price_per_hour: int) -> Verdict:
    """Raises JobError for a graph that is not the one submitted, or that has errors."""
    found = blake3(graph).hexdigest()
    if found != offer.job.graph_hash:
        text = f"graph hash: found {found}, allowed {offer.job.graph_hash}"
        raise JobError("graph", text, retryable=False)
    duration_ms = offer.job.duration_ms(_training_flops(graph, offer.job), flops_per_s)
    whole = price_of(duration_ms, price_per_hour)
    segments, remaining = offer.job.segments, offer.job.segments - offer.first_segment
    return Verdict(-(-whole * remaining // segments), -(-duration_ms * remaining // (segments * 1000)))


def _training_flops(graph: bytes, job: JobSpec) -> int:
    """None of a deployment, which has no graph. Raises JobError."""
    if job.serving is not None:
        if graph:
            text = f"graph of {len(graph)} bytes with a deployment, which has none"
            raise JobError("graph", text, retryable=False)
        return 0
    try:
        parsed = load_graph(graph)
        _check_graph(parsed, job.data)
        return estimate(parsed, job.data.samples, job.data.sample_shape).training_flops
    except BackendError as error:
        raise JobError("graph", str(error), retryable=False) from error


def _check_graph(graph: Graph, data: DataSummary) -> None:
    if reason := why_not_at_a_peer(graph):
        raise JobError("graph", reason, retryable=False)
    errors = [item for item in diagnose(graph, data) if item.severity is Severity.ERROR]
    if errors:
        shown = "; ".join(f"{item.node_id}: {item.text}" for item in errors[:MAX_SHOWN])
        raise JobError("graph", f"{len(errors)} errors in the graph: {shown}", retryable=False)
