"""What an Engine has to do now, from what it knows of a job. Pure: one small rule each.

Every step may be begun again after a crash: it either shows in the record once it is done, or doing
it twice is harmless. Steps of one answer are independent and run side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, TypeVar

from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.identifiers import Hash, PeerId
from p2p.jobs import DataPart, Delivery, FileRef, JobState
from p2p.protocols.coordinator import Lease, LeaseRef, PeerRecord
from p2p.protocols.job import (
    ChangeRate,
    ConfirmSegments,
    FromEngine,
    GiveVoucher,
    PauseJob,
    ResumeJob,
    StartJob,
    StopJob,
)
from p2p.session.job import WITH_PEER, Checkpoint, Escrow, Grant, Job, lease_ref
from p2p.vouchers import Voucher


@dataclass(frozen=True, slots=True)
class Submit:
    """Ask the coordinator to take the job, or to take it up again (``attempt`` tells the times apart)."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SendCancel:
    pass


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Check what the coordinator arranged and fix the escrow for it."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Pay:
    address: str


@dataclass(frozen=True, slots=True)
class ReportEscrow:
    address: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Ask back the money of an escrow that nobody counts."""

    address: str


@dataclass(frozen=True, slots=True)
class ProveSegment:
    """Fetch the checkpoint, check it, sign for it."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class ProveResult:
    result: FileRef


@dataclass(frozen=True, slots=True)
class DeliverVoucher:
    address: str
    voucher: Voucher


@dataclass(frozen=True, slots=True)
class AskPeer:
    """Ask peers of the own network to take a direct job."""


@dataclass(frozen=True, slots=True)
class SendComplaint:
    """Report the peer of the lease to the coordinator."""

    lease: LeaseRef
    code: str


@dataclass(frozen=True, slots=True)
class EvaluatePart:
    """Hold a model against private samples, which its peer never saw."""

    model: Hash
    part: DataPart
    step: int
    """Of the training, at which the model was taken."""


@dataclass(frozen=True, slots=True)
class TryModel:
    """Ask the Engine's own copy of a deployment's model, to know what its peer has to answer next."""


Step = (
    Submit
    | SendCancel
    | TakeLease
    | Pay
    | ReportEscrow
    | Reclaim
    | ProveSegment
    | ProveResult
    | DeliverVoucher
    | SendComplaint
    | AskPeer
    | EvaluatePart
    | TryModel
)


def next_steps(job: Job) -> tuple[Step, ...]:
    """Everything that should be under way now."""
    rules = _RULES if job.direct is None else _DIRECT_RULES
    return tuple(step for rule in rules for step in rule(job))


def is_finished(job: Job) -> bool:
    """Nothing is left that follows from the job being followed; its money may still be on its way back."""
    delivered = all(escrow.delivered for escrow in job.escrows)
    return job.is_over and delivered and (job.result is None or not any(_evaluate(job)))


def peer_to_talk_to(job: Job) -> Lease | None:
    """The lease whose peer the job stream should be open to."""
    if job.lease is None or job.state not in WITH_PEER or job.hold is None:
        return None
    return None if job.complained == lease_ref(job.lease) else job.lease


def files_for(job: Job, peer_id: str) -> frozenset[Hash]:
    """Manifests of the files that this peer may fetch for the job: its data, and where to begin from."""
    if job.lease is None or job.lease.peer_id != peer_id or job.state not in WITH_PEER:
        return frozenset()
    start = job.begins_from(job.lease.first_segment)
    files = (*job.spec.files, *([start] if start is not None else ()))
    return frozenset(file.manifest for file in files)


def holders_of_data(jobs: Iterable[Job], job: Job, limit: int) -> tuple[Escrow | Grant, ...]:
    """Under which leases other peers proved that they have the job's dataset; the newest of each."""
    found: dict[str, Escrow | Grant] = {}
    for other in sorted(jobs, key=lambda other: other.created_at):
        both = {job.spec.data.delivery, other.spec.data.delivery}
        if other.spec.data.file == job.spec.data.file and both == {Delivery.FILE}:
            for hold in reversed(other.holds):
                if hold.segments_done > hold.first_segment and hold.peer_id != job.peer_id:
                    found.pop(hold.peer_id, None)
                    found[hold.peer_id] = hold
    return tuple(found.values())[-limit:]


def own_files(job: Job) -> frozenset[Hash]:
    """BLAKE3 of all files of the job: what its peer may learn that the Engine holds."""
    checkpoints = (checkpoint.file for checkpoint in job.checkpoints)
    files = (*job.spec.files, *checkpoints, job.spec.start, job.result)
    return frozenset(file.blake3 for file in files if file is not None)


def why_no_rows(job: Job, peer_id: str, lease: LeaseRef) -> tuple[str, str] | None:
    """Code and text by which a peer is refused any row of the job's data, or None."""
    delivery = job.spec.data.delivery
    if delivery is not Delivery.STREAM:
        return "refused", f"the data comes as {delivery.value}, allowed is {Delivery.STREAM.value}"
    if job.lease is None or job.state not in WITH_PEER:
        return "conflict", f"the job is {job.state.value} and nobody's"
    if job.lease.peer_id != peer_id:
        return "unauthorized", f"the lease is of {job.lease.peer_id}, not of {peer_id}"
    current = lease_ref(job.lease)
    if lease != current:
        return "conflict", f"lease {lease.lease_id} of fencing {lease.fencing}, allowed {current.fencing}"
    if job.complaint is not None or job.complained == current:
        return "conflict", "this peer was reported to the coordinator"
    return None


def why_part_stays(job: Job, part: DataPart) -> str | None:
    """Why no row of a part may leave this machine, or None."""
    private = job.spec.data.private
    if part not in private:
        return None
    allowed = ", ".join(other.value for other in DataPart if other not in private)
    return f"part {part.value} is private, allowed are {allowed}"


@dataclass(frozen=True, slots=True)
class Told:
    """What the peer was told on the stream that is open now."""

    started: bool = False
    voucher: Voucher | None = None
    confirmed: int = 0
    """Segments of a direct job."""
    paused: bool | None = None
    """None before anything was said: the peer may remember a pause of an earlier stream."""
    learning_rate: float | None = None
    stopped: bool = False


def things_to_tell(job: Job, told: Told) -> tuple[tuple[FromEngine, ...], Told]:
    """What to send to the peer now, in order, and what it knows after that."""
    messages: list[FromEngine] = []
    match job.hold:
        case Escrow() as escrow:
            told = _tell_money(escrow, told, messages)
        case Grant(segments_done=done, first_segment=first) if done > max(told.confirmed, first):
            messages.append(ConfirmSegments(done))
            told = replace(told, confirmed=done)
    if job.cancelling and not told.stopped:
        messages.append(StopJob())
        told = replace(told, stopped=True)
    if job.paused != told.paused:
        messages.append(PauseJob() if job.paused else ResumeJob())
        told = replace(told, paused=job.paused)
    if job.learning_rate is not None and job.learning_rate != told.learning_rate:
        messages.append(ChangeRate(job.learning_rate))
        told = replace(told, learning_rate=job.learning_rate)
    return tuple(messages), told


def _tell_money(escrow: Escrow, told: Told, messages: list[FromEngine]) -> Told:
    if escrow.signature is not None and not told.started:
        messages.append(StartJob(escrow.address, escrow.deadline, escrow.signature))
        told = replace(told, started=True)
    if escrow.voucher is not None and escrow.voucher.supersedes(told.voucher):
        messages.append(_given(escrow.voucher))
        told = replace(told, voucher=escrow.voucher)
    return told


def _given(voucher: Voucher) -> GiveVoucher:
    return GiveVoucher(
        voucher.escrow, voucher.segments_done, voucher.earned, voucher.final, voucher.signature
    )


def out_of_order(job: Job, segments_done: int) -> str | None:
    """Why what the peer announced cannot come next; ``segments_done`` is what it would prove, or None."""
    if job.hold is None:
        return "no current lease"
    allowed = job.hold.segments_done + 1
    if segments_done == allowed or (job.direct is not None and allowed < segments_done <= job.spec.segments):
        return None
    return f"announced segment {segments_done} of {job.spec.segments}, allowed {allowed}"


# -- direct jobs ---------------------------------------------------------------------------------


class Choosable(Protocol):
    """What is known of a peer that could take a direct job."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def record(self) -> PeerRecord: ...

    @property
    def free(self) -> int: ...


C = TypeVar("C", bound=Choosable)


def in_order_of_choice(job: Job, peers: Iterable[C]) -> list[C]:
    """Those with a free device first, the fastest of them first; none that was caught lying."""
    avoided = job.direct.avoided if job.direct is not None else ()

    def speed(peer: C) -> int:
        return max(device.flops_per_s for device in peer.record.devices)

    fit = [peer for peer in peers if peer.peer_id not in avoided]
    return sorted(fit, key=lambda peer: (peer.free == 0, -speed(peer), peer.peer_id))


def first_segment_left(job: Job) -> int:
    """Where another lease of a direct job goes on: after the newest checkpoint that is here."""
    return max((checkpoint.segment + 1 for checkpoint in job.checkpoints), default=0)


def known_addresses(job: Job) -> tuple[str, ...]:
    """Of the peer that a direct job wants: where it was last, and where the user said."""
    terms = job.direct
    if terms is None:
        return ()
    last = next((grant.addresses for grant in reversed(terms.grants) if grant.peer_id == terms.wanted), ())
    return tuple(dict.fromkeys((*last, *terms.addresses)))


def is_patient(job: Job) -> bool:
    """Whether a peer out of reach is waited for: the only one that may do the job, which may be back."""
    if job.direct is None or not job.direct.wanted:
        return False
    return job.result is None and not job.cancelling


def _ask_peer(job: Job) -> Iterator[Step]:
    if job.lease is None and not job.cancelling and job.state in (JobState.SUBMITTED, JobState.RETRYING):
        yield AskPeer()


def _submit(job: Job) -> Iterator[Step]:
    if not job.cancelling and (not job.accepted or job.revive):
        yield Submit(job.updates)


def _cancel(job: Job) -> Iterator[Step]:
    if job.cancelling and not job.cancel_sent and not job.state.is_final:
        yield SendCancel()


def _take_lease(job: Job) -> Iterator[Step]:
    wanted = job.state is JobState.AWAITING_FUNDS and not job.cancelling
    if wanted and job.lease is not None and job.escrow is None:
        yield TakeLease(job.lease)


def _pay(job: Job) -> Iterator[Step]:
    for escrow in job.escrows:
        if escrow.signature is None and not escrow.dropped:
            yield Pay(escrow.address)


def _report_escrow(job: Job) -> Iterator[Step]:
    for escrow in job.escrows:
        if escrow.signature is not None and not escrow.reported and escrow.refused is None:
            yield ReportEscrow(escrow.address)


def _reclaim(job: Job) -> Iterator[Step]:
    for escrow in job.escrows:
        if owed_back(escrow):
            yield Reclaim(escrow.address)


def owed_back(escrow: Escrow) -> bool:
    """The coordinator does not count this escrow, so its user asks the money back."""
    return escrow.refused is not None and not escrow.reclaimed


class Fate(Enum):
    """Of an escrow that may serve no job any more."""

    GONE = "gone"
    WAIT = "wait"
    TAKE_BACK = "take back"


STRANDED_S = 600.0
"""Beyond the claim window: the time that coordinator and peer have to do their part."""


def may_be_stranded(job: Job, escrow: Escrow, now: float) -> bool:
    """Whether the chain is worth a look: it may hold money that nobody works for."""
    if escrow.reclaimed or escrow.dropped or not (escrow.sent or escrow.signature):
        return False
    serves = job.escrow is not None and job.escrow.address == escrow.address and not job.state.is_final
    return not serves or escrow.refused is not None or now >= escrow.deadline


def fate_of(job: Job, escrow: Escrow, account: EscrowAccount | None, now: float, stranded_s: float) -> Fate:
    """``stranded_s``: for how long it has been seen to serve no job."""
    if account is None:  # not created, closed, or a node that lags
        return Fate.GONE if now > escrow.deadline else Fate.WAIT
    if account.status is not EscrowStatus.OPEN:
        return Fate.GONE
    if escrow.refused is not None or now >= escrow.deadline or _never_counted(job, escrow):
        return Fate.TAKE_BACK
    if escrow.voucher is not None and escrow.voucher.final:
        return Fate.WAIT  # the peer has earned what is in it
    return Fate.TAKE_BACK if stranded_s >= STRANDED_S + escrow.claim_window_s else Fate.WAIT


def _never_counted(job: Job, escrow: Escrow) -> bool:
    """The job was over before its coordinator heard of the escrow: nobody else will return it."""
    return job.state.is_final and not escrow.reported and escrow.voucher is None


def _prove(job: Job) -> Iterator[Step]:
    is_known = job.trial is not None and job.trial.covers(job.segments_done)
    if job.complaint is not None or (any(_try_model(job)) and not is_known):
        return
    if job.announced is not None:
        yield ProveSegment(job.announced)
    elif job.announced_result is not None:
        yield ProveResult(job.announced_result)


def _deliver(job: Job) -> Iterator[Step]:
    for escrow in job.escrows:
        if escrow.voucher is not None and not escrow.delivered:
            yield DeliverVoucher(escrow.address, escrow.voucher)


def _complain(job: Job) -> Iterator[Step]:
    if job.complaint is not None and job.lease is not None and job.state in WITH_PEER:
        yield SendComplaint(lease_ref(job.lease), job.complaint[0])


def _evaluate(job: Job) -> Iterator[Step]:
    """One after the other: the result on all private parts, until then the newest checkpoint."""
    private = job.spec.data.private
    if job.result is not None:
        wanted = [EvaluatePart(job.result.blake3, part, job.steps) for part in private]
    elif DataPart.VALIDATION in private and job.checkpoints:
        newest = max(job.checkpoints, key=lambda checkpoint: checkpoint.segment)
        step = (newest.segment + 1) * (job.steps // job.spec.segments)
        wanted = [EvaluatePart(newest.file.blake3, DataPart.VALIDATION, step)]
    else:
        return
    done = {(evaluation.model, evaluation.part) for evaluation in job.evaluations}
    yield from [step for step in wanted if (step.model, step.part) not in done][:1]


def _try_model(job: Job) -> Iterator[Step]:
    """Of what is paid for, as soon as somebody may serve it, and again before its questions are used up."""
    if job.spec.serving is None or job.direct is not None or not job.accepted:
        return
    if job.trial is None or job.trial.is_due(job.segments_done, job.spec.segments):
        yield TryModel()


_DIRECT_RULES = (_ask_peer, _prove, _evaluate)
_RULES = (
    _submit,
    _cancel,
    _take_lease,
    _pay,
    _report_escrow,
    _reclaim,
    _try_model,
    _prove,
    _deliver,
    _complain,
    _evaluate,
)
