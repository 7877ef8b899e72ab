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
from p2p.jobs import DataSummary, Delivery, FileRef
from p2p.pricing import estimated_duration_ms, price_of
from p2p.protocols.coordinator import OfferJob
from p2p.protocols.data import ITEM_BYTES, MAX_ROWS_BYTES, row_bytes
from peer.errors import JobError, OfferRefusedError

MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """This peer's own price and time for the segments that are left."""

    quote: int
    duration_s: int


def check_offer(
    offer: OfferJob, device_count: int, max_data_bytes: int, deliveries: tuple[Delivery, ...]
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


def _check_samples(data: DataSummary) -> None:
    if data.dtype not in ITEM_BYTES:
        raise OfferRefusedError(f"samples are {data.dtype}, allowed are {', '.join(ITEM_BYTES)}")
    size = row_bytes(data.dtype, data.sample_shape, data.classes, ())
    if size > MAX_ROWS_BYTES:
        raise OfferRefusedError(f"a sample of {size} bytes, limit {MAX_ROWS_BYTES}")


def check_checkpoint(offer: OfferJob, checkpoint: FileRef | None) -> None:
    """Raises JobError."""
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
    try:
        parsed = load_graph(graph)
        _check_graph(parsed, offer.job.data)
        data = offer.job.data
        flops = estimate(parsed, data.samples, data.sample_shape).training_flops
    except BackendError as error:
        raise JobError("graph", str(error), retryable=False) from error
    duration_ms = estimated_duration_ms(flops, flops_per_s)
    whole = price_of(duration_ms, price_per_hour)
    segments, remaining = offer.job.segments, offer.job.segments - offer.first_segment
    return Verdict(-(-whole * remaining // segments), -(-duration_ms * remaining // (segments * 1000)))


def _check_graph(graph: Graph, data: DataSummary) -> None:
    if reason := why_not_at_a_peer(graph):
        raise JobError("graph", reason, retryable=False)
    errors = [item for item in diagnose(graph, data) if item.severity is Severity.ERROR]
    if errors:
        shown = "; ".join(f"{item.node_id}: {item.text}" for item in errors[:MAX_SHOWN])
        raise JobError("graph", f"{len(errors)} errors in the graph: {shown}", retryable=False)
