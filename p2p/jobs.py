"""What a job is, as all three programs see it. Pure data; the state machine is the coordinator's."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from p2p.codec import Part
from p2p.identifiers import Amount, Count, Hash, JobIdField, Label, PeerIdField, Wallet

MAX_SEGMENTS = 1000
MAX_GRAPH_BYTES = 1 << 20


class JobState(Enum):
    """Where a job stands. The coordinator alone decides it; of a direct job its Engine."""

    SUBMITTED = "submitted"
    MATCHED = "matched"
    AWAITING_FUNDS = "awaiting funds"
    FUNDED = "funded"
    RUNNING = "running"
    RESULT_READY = "result ready"
    SETTLED = "settled"
    WAITING_FOR_USER = "waiting for user"
    RETRYING = "retrying"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUNDED = "refunded"
    EXPIRED = "expired"
    COMPLETED = "completed"
    """Of a direct job only, which no coordinator knows: its model is here and nobody is paid."""

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset(
    {JobState.SETTLED, JobState.CANCELLED, JobState.REFUNDED, JobState.EXPIRED, JobState.COMPLETED}
)


class DeviceKind(Enum):
    """Device kinds as torch.accelerator names them."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"
    XPU = "xpu"


class FileRef(Part, frozen=True):
    """A content-addressed file: ``manifest`` is checked before any chunk, ``blake3`` at the end."""

    blake3: Hash
    manifest: Hash
    size: Count


class Delivery(Enum):
    """How a dataset reaches the peer."""

    FILE = "file"
    """As a whole, before the training."""
    STREAM = "stream"
    """It stays with its owner; the peer asks for rows while it trains."""


class DataPart(Enum):
    """What the graph's split divides a dataset into."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


SampleShape = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(max_length=8)]


class DataSummary(Part, frozen=True, omit_defaults=True):
    """What the coordinator and the estimate may know about a dataset: never a sample."""

    file: FileRef
    samples: Annotated[int, Meta(ge=1, le=2**40)]
    sample_shape: SampleShape
    dtype: Label
    classes: Count = 0
    """0 for a regression target."""
    delivery: Delivery = Delivery.FILE
    private: Annotated[tuple[DataPart, ...], Meta(max_length=2)] = ()
    """Parts that never leave their owner, who evaluates them."""

    def __post_init__(self) -> None:
        """Raises ValueError, which a codec turns into a refusal."""
        if self.private and self.delivery is not Delivery.STREAM:
            raise ValueError(f"private parts with delivery {self.delivery.value}, allowed with stream")
        if DataPart.TRAIN in self.private or len(set(self.private)) != len(self.private):
            found = ", ".join(part.value for part in self.private)
            raise ValueError(f"private parts {found}, allowed are validation and test, once each")


class Requirements(Part, frozen=True):
    """What a peer must have. Empty fields do not filter."""

    device: DeviceKind | None = None
    memory_bytes: Count = 0
    price_ceiling: Amount = 2**63 - 1
    """Units per device-hour."""
    allow: Annotated[tuple[PeerIdField, ...], Meta(max_length=256)] = ()
    deny: Annotated[tuple[PeerIdField, ...], Meta(max_length=256)] = ()


class StartWeights(Part, frozen=True):
    """Of a .cyxmodel, by the nodes of the graph."""

    file: FileRef
    partly: bool
    """What fits is taken, and the rest begins afresh."""


class JobSpec(Part, frozen=True):
    """What a user wants done. The graph travels beside it, as the body of the message."""

    job_id: JobIdField
    graph_hash: Hash
    """BLAKE3 of the graph's canonical JSON."""
    data: DataSummary
    budget: Amount
    user_wallet: Wallet
    segments: Annotated[int, Meta(ge=1, le=MAX_SEGMENTS)]
    requirements: Requirements = Requirements()
    weights: StartWeights | UnsetType = UNSET
    """What the training begins with; without it a message has the bytes that it always had."""

    @property
    def start(self) -> FileRef | None:
        """The model with whose weights the training begins."""
        return None if self.weights is UNSET else self.weights.file

    @property
    def start_partly(self) -> bool:
        return self.weights is not UNSET and self.weights.partly

    @property
    def brought(self) -> tuple[FileRef, ...]:
        """The user's files: data, and weights to begin with."""
        return (self.data.file, *([self.start] if self.start is not None else ()))


class JobMetrics(Part, frozen=True, omit_defaults=True):
    """One point of a training curve; fields that do not apply are None."""

    step: Count
    total_steps: Count
    epoch: Count
    loss: float
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    learning_rate: float | None = None
    samples_per_s: float | None = None
    sample_wait_s: float | None = None
    """How long the training has waited for streamed samples, on this peer and in all."""
