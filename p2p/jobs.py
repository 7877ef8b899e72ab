"""What a job is, as all three programs see it. Pure data; the state machine is the coordinator's."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from p2p.codec import Part
from p2p.identifiers import Amount, Count, Hash, JobIdField, Label, NamedPeer, Wallet
from p2p.pricing import estimated_duration_ms

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
    allow: Annotated[tuple[NamedPeer, ...], Meta(max_length=256)] = ()
    deny: Annotated[tuple[NamedPeer, ...], Meta(max_length=256)] = ()


class StartWeights(Part, frozen=True):
    """Of a .cyxmodel, by the nodes of the graph."""

    file: FileRef
    partly: bool
    """What fits is taken, and the rest begins afresh."""


class ServingSpec(Part, frozen=True, omit_defaults=True):
    """What makes a job a deployment: a model that is served for a time, period by period.

    The model is the job's data file. A period that it was ready for counts as a segment, and the
    checkpoint of each segment, like the result, is the model itself: nothing has to come back.
    """

    name: Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9._-]+\Z")]
    """What requests call the model."""
    format: Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[a-z]+\Z")]
    memory_bytes: Annotated[int, Meta(ge=1, le=2**50)]
    """Of its worker, the runtime included."""
    period_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    tokenizer: FileRef | None = None
    gpu_layers: Annotated[int, Meta(ge=-1, le=10_000)] = 0
    """Of a GGUF model on the GPU; -1: all."""
    context: Annotated[int, Meta(ge=0, le=2**20)] = 0
    """Tokens of a GGUF model; 0: as many as the model takes."""
    continues: JobIdField | None = None
    """The deployment at the same peer that this one takes over from, without a pause."""


SERVED_FORMATS = ("cyxmodel", "onnx", "gguf")
SERVED_DTYPE = "model"
"""In the summary of a deployment's "data", which is its model: one sample without a shape of its own."""


class JobSpec(Part, frozen=True):
    """What a user wants done. The graph travels beside it, as the body of the message."""

    job_id: JobIdField
    graph_hash: Hash
    """BLAKE3 of the graph's canonical JSON; of a deployment, which has none, of nothing."""
    data: DataSummary
    budget: Amount
    user_wallet: Wallet
    segments: Annotated[int, Meta(ge=1, le=MAX_SEGMENTS)]
    requirements: Requirements = Requirements()
    weights: StartWeights | UnsetType = UNSET
    """What the training begins with; without it a message has the bytes that it always had."""
    served: ServingSpec | UnsetType = UNSET
    """Of a deployment."""

    def __post_init__(self) -> None:
        """Raises ValueError, which a codec turns into a refusal."""
        if self.serving is not None and self.data.delivery is not Delivery.FILE:
            raise ValueError(
                f"a deployment's model with delivery {self.data.delivery.value}, allowed is file"
            )

    @property
    def start(self) -> FileRef | None:
        """The model with whose weights the training begins."""
        return None if self.weights is UNSET else self.weights.file

    @property
    def start_partly(self) -> bool:
        return self.weights is not UNSET and self.weights.partly

    @property
    def serving(self) -> ServingSpec | None:
        return None if self.served is UNSET else self.served

    @property
    def part_name(self) -> str:
        """What ``segments`` counts, in words."""
        return "period" if self.serving is not None else "segment"

    @property
    def tokenizer(self) -> FileRef | None:
        """Of a deployment whose model has none in it."""
        return self.serving.tokenizer if self.serving is not None else None

    @property
    def brought(self) -> tuple[FileRef, ...]:
        """The user's files: data, weights to begin with, and a tokenizer."""
        found = (self.data.file, self.start, self.tokenizer)
        return tuple(file for file in found if file is not None)

    @property
    def files(self) -> tuple[FileRef, ...]:
        """What its peer has to fetch as files before it can work."""
        stays_here = self.data.file if self.data.delivery is Delivery.STREAM else None
        return tuple(file for file in self.brought if file not in (stays_here, self.start))

    def duration_ms(self, training_flops: int, device_flops_per_s: int) -> int:
        """What is paid for, on a device of that speed. Raises ValueError for a device without any."""
        if self.serving is not None:
            return self.segments * self.serving.period_s * 1000
        return estimated_duration_ms(training_flops, device_flops_per_s)


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
