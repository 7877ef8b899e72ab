"""How events change a job that a peer of the own network does unpaid: no coordinator, no escrow. Pure.

The Engine itself decides where such a job stands. What it shares with a paid one (what a peer
announces, pausing) is ``paid``'s.
"""

from __future__ import annotations

from msgspec.structs import replace

from p2p.jobs import JobState
from p2p.session import events, paid
from p2p.session.events import Event
from p2p.session.job import ENDED, Checkpoint, Direct, Grant, Job, lease_ref

MAX_FAILURES = 3
"""In a row, without a segment in between; then the job is given up."""
MAX_GRANTS = 16
"""Kept; older leases matter to nobody."""
MAX_AVOIDED = 64


def advance(job: Job, event: Event) -> Job:
    """The job after the event, whatever its terms. Late and repeated events change nothing."""
    return paid.advance(job, event) if job.direct is None else _advance(job, job.direct, event)


def _advance(job: Job, terms: Direct, event: Event) -> Job:
    match event:
        case events.JobQueued(text):
            return replace(job, accepted=True, text=text)
        case events.LeaseGranted():
            return _granted(job, terms, event)
        case events.ResultAnnounced():
            heard = paid.advance(job, event)
            announced = heard.announced_result is not None
            return replace(heard, state=JobState.RESULT_READY, text="trained") if announced else heard
        case events.SegmentKept(lease, checkpoint):
            others = tuple(c for c in job.checkpoints if c.segment != checkpoint.segment)
            kept = replace(job, checkpoints=(*others, checkpoint), announced=_unless(job, checkpoint))
            return _proven(kept, lease.lease_id, checkpoint.segment + 1)
        case events.SegmentMissed(checkpoint):
            return replace(job, announced=_unless(job, checkpoint))
        case events.ResultKept(lease, result):
            kept = replace(job, result=result, announced_result=None)
            return _proven(kept, lease.lease_id, job.spec.segments)
        case events.PeerSaid(lease, sequence, text, retryable):
            if not _is_current(job, lease.lease_id) or sequence <= job.messages:
                return job
            return _lease_ended(replace(job, messages=sequence), terms, text, retryable, counts=True)
        case events.PeerAccused(lease, code, text):
            return _accused(job, terms, code, text) if _is_current(job, lease.lease_id) else job
        case events.JobUpdated():
            return job  # no coordinator has a say in it
        case events.CancelAsked() if job.lease is None:
            return replace(job, cancelling=True, state=JobState.CANCELLED, text="cancelled by the user")
        case _:
            return paid.advance(job, event)


def _is_current(job: Job, lease_id: str) -> bool:
    return job.lease is not None and job.lease.lease_id == lease_id


def _unless(job: Job, checkpoint: Checkpoint) -> Checkpoint | None:
    return None if job.announced == checkpoint else job.announced


def _granted(job: Job, terms: Direct, event: events.LeaseGranted) -> Job:
    first = event.lease.first_segment
    grant = Grant(lease_ref(event.lease), event.lease.peer_id, event.addresses, first, first)
    return replace(
        job,
        direct=replace(terms, grants=(*terms.grants, grant)[-MAX_GRANTS:]),
        accepted=True,
        state=JobState.RUNNING,
        text=f"peer {event.lease.peer_id} trains it, unpaid",
        lease=event.lease,
        messages=0,
        announced=None,
        announced_result=None,
        checkpoints=tuple(c for c in job.checkpoints if c.segment < first),
    )


def _proven(job: Job, lease_id: str, segments_done: int) -> Job:
    assert job.direct is not None
    grants = tuple(
        replace(grant, segments_done=max(grant.segments_done, segments_done))
        if grant.lease.lease_id == lease_id
        else grant
        for grant in job.direct.grants
    )
    return replace(job, direct=replace(job.direct, grants=grants, failures=0))


def _accused(job: Job, terms: Direct, code: str, text: str) -> Job:
    """A peer that is away may be the same again; one that lies is not asked a second time."""
    lies = code not in ("unreachable", "lost")
    if lies and job.lease is not None and not terms.wanted:
        avoided = (*terms.avoided, job.lease.peer_id)[-MAX_AVOIDED:]
        terms = replace(terms, avoided=avoided)
    retryable = not (lies and terms.wanted)
    return _lease_ended(job, terms, f"{code}: {text}", retryable, counts=code != "unreachable")


def _lease_ended(job: Job, terms: Direct, text: str, retryable: bool, *, counts: bool) -> Job:
    failures = terms.failures + counts
    if job.result is not None:
        state, text = JobState.COMPLETED, "the model is here"
    elif job.cancelling:
        state, text = JobState.CANCELLED, f"cancelled by the user: {text}"
    elif retryable and failures <= MAX_FAILURES:
        state = JobState.RETRYING
    else:
        state = JobState.FAILED
    after = replace(
        job,
        direct=replace(terms, failures=failures),
        state=state,
        text=text[:4000],
        announced=None,
        announced_result=None,
    )
    return after if state in ENDED else replace(after, lease=None, messages=0)
