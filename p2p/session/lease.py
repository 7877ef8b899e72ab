"""Is a lease what the user agreed to, and what pays for it? Pure.

The Engine believes neither coordinator nor peer: it opens the signed record itself, computes the
amount again, and builds the escrow from that.
"""

from __future__ import annotations

import math

from p2p.chain.escrow_codec import escrow_address
from p2p.errors import RecordRefusedError
from p2p.identifiers import PeerId
from p2p.pricing import (
    earned_after,
    format_tokens,
    price_of,
    remaining_amount,
)
from p2p.protocols.coordinator import ChainInfo, Lease, PeerRecord
from p2p.records import open_record
from p2p.session.errors import JobRefusedError
from p2p.session.job import Escrow, Job, lease_ref

MIN_ESCROW_LIFE_S = 24 * 3600
DURATIONS_OF_LIFE = 4
"""An escrow lives four times as long as the job should take."""


def check_lease(job: Job, lease: Lease, chain: ChainInfo, now: float) -> Escrow:
    """The escrow that pays for the lease. Raises JobRefusedError, naming what was found and allowed."""
    try:
        record = open_record(lease.record, now, PeerId(lease.peer_id))
    except RecordRefusedError as error:
        raise JobRefusedError(f"the coordinator's lease holds a bad peer record: {error}") from error
    if lease.device >= len(record.devices):
        raise JobRefusedError(f"lease on device {lease.device}, the peer offers {len(record.devices)}")
    if lease.first_segment >= job.spec.segments:
        raise JobRefusedError(f"lease from segment {lease.first_segment}, the job has {job.spec.segments}")
    if lease.first_segment > 0 and job.checkpoint_before(lease.first_segment) is None:
        held = [checkpoint.segment + 1 for checkpoint in job.checkpoints]
        raise JobRefusedError(
            f"lease from segment {lease.first_segment}, checkpoints held here: {held or 'none'}"
        )
    duration_ms = _check_amount(job, lease, record)
    return _escrow(job, lease, record, chain, now, duration_ms)


def _check_amount(job: Job, lease: Lease, record: PeerRecord) -> int:
    """The expected duration. Raises JobRefusedError unless the amount is the computed one and affordable."""
    device = record.devices[lease.device]
    duration_ms = job.spec.duration_ms(job.training_flops, device.flops_per_s)
    quote = price_of(duration_ms, record.price_per_hour)
    amount = remaining_amount(quote, lease.first_segment, job.spec.segments)
    if lease.amount != amount:
        raise JobRefusedError(
            f"the coordinator asks {format_tokens(lease.amount)}, "
            f"this peer's price for this job is {format_tokens(amount)}"
        )
    if record.price_per_hour > job.spec.requirements.price_ceiling:
        raise JobRefusedError(
            f"the peer takes {format_tokens(record.price_per_hour)} an hour, "
            f"allowed {format_tokens(job.spec.requirements.price_ceiling)}"
        )
    if job.spent + amount > job.spec.budget:
        raise JobRefusedError(
            f"the job would cost {format_tokens(job.spent + amount)} in all, "
            f"the budget is {format_tokens(job.spec.budget)}"
        )
    return duration_ms


def _escrow(
    job: Job, lease: Lease, record: PeerRecord, chain: ChainInfo, now: float, duration_ms: int
) -> Escrow:
    life_s = max(MIN_ESCROW_LIFE_S, DURATIONS_OF_LIFE * math.ceil(duration_ms / 1000))
    # The deadline is part of the address: no two escrows of a job share one.
    latest = max((escrow.deadline for escrow in job.escrows), default=0)
    deadline = max(int(now) + life_s, latest + 1)
    user = job.spec.user_wallet
    return Escrow(
        lease=lease_ref(lease),
        peer_id=lease.peer_id,
        addresses=record.addresses,
        node=record.node_wallet,
        payout=record.payout_wallet,
        arbiter=chain.arbiter,
        amount=lease.amount,
        first_segment=lease.first_segment,
        claim_window_s=chain.claim_window_s,
        deadline=deadline,
        address=escrow_address(chain.program_id, user, job.job_id, deadline),
    )


def earned_by(escrow: Escrow, segments_done: int, segments: int) -> int:
    """Cumulative units that the escrow owes once ``segments_done`` of the job's segments are proven."""
    done = segments_done - escrow.first_segment
    return earned_after(escrow.amount, done, segments - escrow.first_segment)
