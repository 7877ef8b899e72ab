"""A job finds its peer: submitted, offered, answered. Pure; called by ``coordinator.state``."""

from __future__ import annotations

import msgspec

from coordinator.job import (
    Grant,
    Job,
    JobSubmitted,
    NoteEvidence,
    OfferAccepted,
    OfferDeclined,
    OfferExpired,
    OfferMade,
    SendOrder,
)
from coordinator.moves import (
    DECLINED_PAUSE_S,
    Step,
    back_in_line,
    grant_of,
    illegal,
    lease_of,
    revocation,
    with_line,
)
from coordinator.reputation import Evidence
from p2p.identifiers import JobId
from p2p.jobs import JobState
from p2p.pricing import format_tokens
from p2p.protocols.coordinator import OfferJob

_replace = msgspec.structs.replace


def submitted(event: JobSubmitted) -> Step:
    spec = event.spec
    job = Job(
        job_id=JobId(spec.job_id),
        engine_id=event.engine_id,
        spec=spec,
        cost=event.cost,
        submitted_at=event.at,
        state=JobState.SUBMITTED,
        waiting_since=event.at,
    )
    what = f"{event.cost.parameters} parameters, {spec.segments} segments"
    if spec.serving is not None:
        what = f"{spec.serving.name}, {spec.segments} periods of {spec.serving.period_s} s"
    return with_line(job, f"submitted: {what}, budget {format_tokens(spec.budget)}; looking for a peer")


def offered(job: Job, event: OfferMade) -> Step:
    if not job.waits_for_peer:
        raise illegal(job, event)
    grant = Grant(
        lease_id=event.lease_id,
        fencing=job.fencing + 1,
        peer_id=event.peer_id,
        device=event.device,
        amount=event.amount,
        first_segment=event.first_segment,
        record=event.record,
        node_wallet=event.node_wallet,
        payout_wallet=event.payout_wallet,
        granted_at=event.at,
        answer_before=event.answer_before,
    )
    matched = _replace(
        job,
        state=JobState.MATCHED,
        fencing=grant.fencing,
        grant=grant,
        lines=event.lines,
        rejected=event.rejected,
    )
    offer = OfferJob(
        lease=grant.ref,
        job=job.spec,
        engine_id=job.engine_id,
        device=grant.device,
        amount=grant.amount,
        first_segment=grant.first_segment,
    )
    return with_line(
        matched,
        f"offered to {grant.peer_id} for {format_tokens(grant.amount)}",
        SendOrder(grant.peer_id, offer),
    )


def answered(job: Job, event: OfferAccepted | OfferDeclined | OfferExpired) -> Step:
    grant = grant_of(job, event.lease)
    match job.state, event:
        case JobState.MATCHED, OfferAccepted(_, _, fund_before):
            accepted = _replace(grant, accepted=True, fund_before=fund_before)
            waiting = _replace(job, state=JobState.AWAITING_FUNDS, grant=accepted)
            text = f"{grant.peer_id} accepted; waiting for {format_tokens(grant.amount)} in escrow"
            return with_line(waiting, text, lease=lease_of(accepted))
        case JobState.MATCHED, OfferDeclined(at, _, reason):
            text = f"{grant.peer_id} declined: {reason[:200] or 'no reason given'}"
            return with_line(back_in_line(job, text, at, DECLINED_PAUSE_S), text)
        case JobState.MATCHED, OfferExpired(at):
            text = f"{grant.peer_id} did not answer the offer in time"
            blame = NoteEvidence(grant.peer_id, Evidence.OFFER_IGNORED)
            revoke = revocation(job, grant, "the offer was not answered in time")
            return with_line(back_in_line(job, text, at, DECLINED_PAUSE_S), text, revoke, blame)
        case _, OfferAccepted() if grant.accepted and job.live_grant is not None:
            return job, ()  # the answer was lost, and given again
        case _:
            raise illegal(job, event)
