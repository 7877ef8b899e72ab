"""What a supervisor and a worker process tell each other. Pure data.

Both directions are frames of ``u32 message length | u32 body length | message | body`` on a
socket pair; the messages are the msgpack of these structs. File names are plain names inside
the worker's own directory: no separators, so a worker cannot be asked to look elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from backend.code_import.messages import CodeImported, ImportCode
from backend.exporting.messages import Export, Exported, Stage
from backend.importing.messages import ImportModel, ModelImported
from backend.serving.messages import (
    LoadModel,
    ModelLoaded,
    Predict,
    Predicted,
    Serve,
    Serving,
    ServingStopped,
    SetKeys,
    StopServing,
    UnloadModel,
)
from backend.worker_message import FileName, WorkerMessage

MAX_HEADS = 64
"""That are told of, in document order; a graph may have more."""
MAX_LEARNING_RATE = 100.0
MAX_CONFUSION_CLASSES = 100
MAX_CONFUSIONS = 4
"""Of so many heads, so that a report stays well below the limit of a message."""
ConfusionRow = Annotated[tuple[int, ...], Meta(max_length=MAX_CONFUSION_CLASSES)]


class HeadMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one loss of a model stands on one part of the data; what does not apply is None."""

    node: str
    """The id of the loss node."""
    output: str
    """The id of the Output node that it judges."""
    loss: float | None
    """Its mean, without its weight."""
    accuracy: float | None = None
    top5_accuracy: float | None = None
    """Of more than 5 classes: the right one was among the 5 with the highest scores."""
    macro_f1: float | None = None
    """The mean F1 of the classes that occur, or of the labels where a sample has several."""
    mae: float | None = None
    r2: float | None = None
    """1 - the sum of squared errors / that about the mean of each column of the targets."""
    perplexity: float | None = None
    """Of tokens: e to the mean surprise in nats."""
    confusion: Annotated[tuple[ConfusionRow, ...], Meta(max_length=MAX_CONFUSION_CLASSES)] = ()
    """How many of each class (row) were taken for which (column); of 100 classes at most."""


OptimizerKind = Literal["fused", "foreach", "plain"]
"""How an optimizer walks over the weights: in one kernel, in one call for all, or one by one."""


class Numerics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a training computes. It decides speed and rounding, and never changes within a training."""

    precision: Literal["float32", "bfloat16"]
    """bfloat16: in what torch's autocast takes to be safe; weights stay float32."""
    channels_last: bool
    """Whether images lie in memory with their channels together."""
    optimizer: OptimizerKind


class NumericsTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    numerics: Numerics
    step_s: float


MAX_WATCHED = 1_000
"""Nodes whose activity is told."""
Heads = Annotated[tuple[HeadMetrics, ...], Meta(max_length=MAX_HEADS)]


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One point of the training curve; fields that do not apply are None."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    learning_rate: float | None = None
    samples_per_s: float | None = None
    validation: Heads = ()
    """By loss node, at the end of an epoch."""
    test: Heads = ()
    """The same of the test samples, at the end of all."""


class SampleStream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of a dataset whose rows come through the connection: see WantSamples."""

    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    classes: int
    target_shape: tuple[int, ...]
    withheld: tuple[str, ...]
    """Parts that will not be given: they are evaluated elsewhere."""
    scaling: FileName | None
    """Offsets, then factors, float32 little-endian, one of each per channel."""
    ahead_bytes: int = 64 << 20
    """How much of what has been asked for may be unused."""
    answer_bytes: int = 1 << 20
    """The most to ask for at once, but for a sample that is larger."""


# -- supervisor to worker ------------------------------------------------------------------------


class Train(WorkerMessage, frozen=True):
    """Starts training; the body is the graph's canonical JSON.

    Training is cut into ``segments`` of equal numbers of steps (the last may be longer by the
    remainder). It begins at ``first_segment``, from ``checkpoint`` if that is above 0, and stops
    at the end of every segment that ``AllowSegments`` does not cover.
    """

    dataset: FileName | None
    """None where ``stream`` says how the samples come."""
    checkpoint: FileName | None
    segments: int
    first_segment: int
    allowed_segments: int
    """Segments with an index below this may run without asking again."""
    device: str
    """As torch names it: cpu, cuda:0."""
    report_every_s: float = 0.25
    prepare_only: bool = False
    """Load data, build the model and run nothing until AllowSegments arrives."""
    may_stop: bool = False
    """Whether it may end early, when the graph says so: not where the steps themselves are paid for."""
    learning_rate: Annotated[float, Meta(ge=0, le=MAX_LEARNING_RATE)] | None = None
    """In place of the graph's or the checkpoint's, from the first step on."""
    start: FileName | None = None
    """A .cyxmodel with whose weights it begins, where it does not begin from a checkpoint."""
    start_partly: bool = False
    """Whether it may lack some of the graph's weights."""
    stream: SampleStream | None = None
    watch_every_s: Annotated[float, Meta(ge=0.1)] | None = None
    """How often to tell what goes on at the nodes (Watched); None: never, which costs nothing."""


class Samples(WorkerMessage, frozen=True):
    """The answer to a WantSamples. The body is x, then y, C order, little-endian."""

    id: int


class Evaluate(WorkerMessage, frozen=True):
    """Asks how good a model is on all samples of a dataset; answered by Evaluated or Failed."""

    model: FileName
    dataset: FileName
    device: str


class FindRate(WorkerMessage, frozen=True):
    """Trains for some steps at rates from ``lowest`` to ``highest``; the body is the graph.

    Answered by a RateTried for each step, then RatesTried or Failed.
    """

    dataset: FileName
    device: str
    steps: Annotated[int, Meta(ge=1, le=1000)]
    lowest: Annotated[float, Meta(gt=0, le=MAX_LEARNING_RATE)]
    highest: Annotated[float, Meta(gt=0, le=MAX_LEARNING_RATE)]
    start: FileName | None = None
    start_partly: bool = False


class AllowSegments(WorkerMessage, frozen=True):
    upto: int


class Pause(WorkerMessage, frozen=True):
    pass


class Resume(WorkerMessage, frozen=True):
    pass


class Cancel(WorkerMessage, frozen=True):
    """Ends training; answered by Cancelled."""


class ChangeLearningRate(WorkerMessage, frozen=True):
    """From the next step on; schedules go on multiplying it. Answered by LearningRateChanged."""

    rate: Annotated[float, Meta(ge=0, le=MAX_LEARNING_RATE)]


class Ping(WorkerMessage, frozen=True):
    """Asks for a sign of life; answered by Pong."""


Command = (
    Train
    | Samples
    | AllowSegments
    | Pause
    | Resume
    | Cancel
    | ChangeLearningRate
    | Evaluate
    | Export
    | FindRate
    | ImportModel
    | LoadModel
    | Predict
    | UnloadModel
    | ImportCode
    | Serve
    | SetKeys
    | StopServing
    | Ping
)


# -- worker to supervisor ------------------------------------------------------------------------


class Ready(WorkerMessage, frozen=True):
    """Runtime imported, sandbox closed, waiting. ``sandbox`` names the protections in force."""

    sandbox: tuple[str, ...]
    runtime: str


class TrainingPrepared(WorkerMessage, frozen=True):
    total_steps: int
    parameters: int
    training_samples: int
    device: str
    numerics: Numerics | None = None
    notes: tuple[str, ...] = ()
    """For people: how it will compute, and what the graph asks for that cannot be had."""


class WantSamples(WorkerMessage, frozen=True):
    """Asks for rows by their place in the order of an epoch; answered by Samples, in any order."""

    id: int
    part: str
    epoch: int
    first: int
    count: int


class Progress(WorkerMessage, frozen=True):
    metrics: Metrics
    waited_s: float | None = None
    """How long the training has waited for samples so far; None where all of them are here."""


class NodeActivity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``node``: its id, with those of the nodes around it before it, with dots."""

    node: Annotated[str, Meta(max_length=1000)]
    mean: float
    std: float
    gradient: float | None = None
    """Norm of the gradients of its weights; None for a node without any."""


class Watched(WorkerMessage, frozen=True):
    """What went on at the nodes in one step; sent only to who asked for it."""

    step: int
    nodes: Annotated[tuple[NodeActivity, ...], Meta(max_length=MAX_WATCHED)]


class SegmentSaved(WorkerMessage, frozen=True):
    """A checkpoint from which training goes on bit-exactly is in ``file``."""

    segment: int
    file: FileName
    metrics: Metrics


class WaitingForPermission(WorkerMessage, frozen=True):
    """Stopped before ``segment`` until AllowSegments covers it."""

    segment: int


class Paused(WorkerMessage, frozen=True):
    step: int


class Resumed(WorkerMessage, frozen=True):
    step: int


class LearningRateChanged(WorkerMessage, frozen=True):
    """``step`` is the first one with it."""

    step: int
    rate: float


class StateSaved(WorkerMessage, frozen=True):
    """Before Cancelled or Failed: the training can go on from ``file``, bit for bit."""

    step: int
    segments_done: int
    file: FileName


class Finished(WorkerMessage, frozen=True):
    """The trained model is in ``file``; with fewer steps than planned if it stopped early."""

    file: FileName
    metrics: Metrics


class Cancelled(WorkerMessage, frozen=True):
    step: int


class RateTried(WorkerMessage, frozen=True):
    """``loss`` is that of one batch, before the step at ``rate``."""

    step: int
    rate: float
    loss: float


class RatesTried(WorkerMessage, frozen=True):
    """All rates were tried, or losses grew until higher ones had nothing to tell."""

    diverged: bool
    """Whether the last loss was no number."""


class Evaluated(WorkerMessage, frozen=True):
    """``loss`` and ``accuracy`` are None where there is no number to tell."""

    samples: int
    loss: float | None
    accuracy: float | None
    heads: Heads = ()


class Failed(WorkerMessage, frozen=True):
    """``code``: graph, dataset, checkpoint, model, code, input, export, import, memory, diverged, internal.

    ``id`` is that of the Predict that failed, ``None`` for training.
    """

    code: str
    text: str
    id: int | None = None


class Pong(WorkerMessage, frozen=True):
    """The supervisor keeps it to itself. ``stalled_s``: how long the training that should run has
    not taken a step; 0 while it waits, is paused or does not exist."""

    stalled_s: float


Event = (
    Ready
    | TrainingPrepared
    | WantSamples
    | Progress
    | Watched
    | SegmentSaved
    | WaitingForPermission
    | Paused
    | Resumed
    | LearningRateChanged
    | StateSaved
    | Finished
    | Cancelled
    | Evaluated
    | Stage
    | Exported
    | ModelImported
    | CodeImported
    | RateTried
    | RatesTried
    | ModelLoaded
    | Predicted
    | Serving
    | ServingStopped
    | Failed
    | Pong
)

COMMAND_DECODER = msgspec.msgpack.Decoder(Command)
EVENT_DECODER = msgspec.msgpack.Decoder(Event)
