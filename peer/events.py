"""What can happen to a job on its peer: facts, in the past tense. Pure data; see ``peer.job``."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.jobs import FileRef, JobMetrics
from p2p.protocols.job import StartJob
from p2p.protocols.transfer import FileSource
from p2p.vouchers import Voucher


@dataclass(frozen=True, slots=True)
class OfferAccepted:
    at: float


@dataclass(frozen=True, slots=True)
class EngineOpened:
    """The Engine's first OpenJob, its token, graph and price checked."""

    graph: bytes
    quote: int
    duration_s: int
    checkpoint: FileRef | None
    at: float
    sources: tuple[FileSource, ...] = ()


@dataclass(frozen=True, slots=True)
class DataFetched:
    pass


@dataclass(frozen=True, slots=True)
class CheckpointFetched:
    pass


@dataclass(frozen=True, slots=True)
class WorkerPrepared:
    total_steps: int
    device: str
    notes: tuple[str, ...] = ()
    """For the user: how it will compute, what a model that it begins with gave."""


@dataclass(frozen=True, slots=True)
class StartRequested:
    start: StartJob


@dataclass(frozen=True, slots=True)
class EscrowChecked:
    pass


@dataclass(frozen=True, slots=True)
class StartReported:
    pass


@dataclass(frozen=True, slots=True)
class SegmentAllowed:
    segment: int


@dataclass(frozen=True, slots=True)
class Progressed:
    metrics: JobMetrics


@dataclass(frozen=True, slots=True)
class SegmentStored:
    segment: int
    checkpoint: FileRef
    metrics: JobMetrics
    at: float


@dataclass(frozen=True, slots=True)
class ResultStored:
    result: FileRef
    metrics: JobMetrics
    at: float


@dataclass(frozen=True, slots=True)
class ResultReported:
    pass


@dataclass(frozen=True, slots=True)
class VoucherReceived:
    """A voucher that ``peer.vouchers.check_voucher`` found good."""

    voucher: Voucher
    at: float


@dataclass(frozen=True, slots=True)
class SegmentsConfirmed:
    """The Engine of a direct job holds what these segments made."""

    segments_done: int


@dataclass(frozen=True, slots=True)
class PauseRequested:
    at: float


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    at: float


@dataclass(frozen=True, slots=True)
class RateRequested:
    rate: float


@dataclass(frozen=True, slots=True)
class WorkerRateSet:
    rate: float


@dataclass(frozen=True, slots=True)
class WorkerPaused:
    step: int


@dataclass(frozen=True, slots=True)
class WorkerResumed:
    step: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    pass


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    reason: str


@dataclass(frozen=True, slots=True)
class WorkFailed:
    code: str
    text: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class SamplesMissed:
    """The training waits for samples that the Engine does not send."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class SamplesBack:
    pass


@dataclass(frozen=True, slots=True)
class FailureReported:
    pass


@dataclass(frozen=True, slots=True)
class VoucherCollected:
    """The chain has paid it, or never will; None where there was none to collect."""

    voucher: Voucher | None


@dataclass(frozen=True, slots=True)
class RestReturned:
    pass


Event = (
    OfferAccepted
    | EngineOpened
    | DataFetched
    | CheckpointFetched
    | WorkerPrepared
    | StartRequested
    | EscrowChecked
    | StartReported
    | SegmentAllowed
    | Progressed
    | SamplesMissed
    | SamplesBack
    | SegmentStored
    | ResultStored
    | ResultReported
    | VoucherReceived
    | SegmentsConfirmed
    | PauseRequested
    | ResumeRequested
    | RateRequested
    | WorkerRateSet
    | WorkerPaused
    | WorkerResumed
    | StopRequested
    | LeaseRevoked
    | WorkFailed
    | FailureReported
    | VoucherCollected
    | RestReturned
)
