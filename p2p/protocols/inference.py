"""/cyxwiz/infer/1: calls to a model on a peer. Tensors are bodies.

Calls share one kept-open stream. An Ask has a stream to itself until its answer is whole, so that the
stream's window holds back who answers and its reset takes the question back; then the next may follow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from p2p.codec import Codec, Message, Part
from p2p.framing import FrameLimits
from p2p.identifiers import Count, Hash, JobIdField, Label, Seconds, Text, Token
from p2p.protocols import Done, Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/infer/1"
LIMITS = FrameLimits(message_bytes=64 << 10, body_bytes=64 << 20)

Dtype = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=8)]


class TensorInfo(Part, frozen=True):
    name: Label
    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**31)], ...], Meta(max_length=8)]
    """-1 for a dimension of any size (the batch)."""


class TensorGiven(Part, frozen=True):
    """One of those that lie in a body one after the other."""

    name: Label
    """Of an input: may be empty where the model takes only one."""
    dtype: Dtype
    shape: Shape


Tensors = Annotated[tuple[TensorGiven, ...], Meta(max_length=64)]
FieldName = Annotated[bytes, Meta(max_length=64)]
FieldValue = Annotated[bytes, Meta(max_length=1024)]
Fields = Annotated[tuple[tuple[FieldName, FieldValue], ...], Meta(max_length=16)]
ContentType = Annotated[str, Meta(max_length=256, pattern=r"^[ -~]*\Z")]
Path = Annotated[str, Meta(max_length=512, pattern=r"^/[!-~]*\Z")]


class Authorize(Message, frozen=True):
    """First call on a stream, and again before the token expires."""

    token: Token


class AuthorizeJob(Message, frozen=True):
    """In place of Authorize, for the models of a direct job: the connection's identity is the right."""

    job: JobIdField


class DescribeModel(Message, frozen=True):
    model: Hash


class Predict(Message, frozen=True):
    """The body is the input, C order, little-endian; the answer's body is the output."""

    model: Hash
    dtype: Dtype
    shape: Shape


class PredictNamed(Message, frozen=True):
    """All inputs of a deployment's model; the answer's body holds all its outputs."""

    deployment: JobIdField
    inputs: Tensors


class Ask(Message, frozen=True):
    """An HTTP request to a deployment, the body its body. Answered by an AnswerBegun, parts, and the end."""

    deployment: JobIdField
    method: Literal["GET", "POST"]
    path: Path
    content_type: ContentType
    headers: Fields = ()
    """Those that mean something to a model, names in lower case."""


class StatusOf(Message, frozen=True):
    deployment: JobIdField


class ModelDescription(Message, frozen=True):
    model: Hash
    format: Label
    inputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)]
    outputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)]
    loaded: bool


class Prediction(Message, frozen=True):
    dtype: Dtype
    shape: Shape
    duration_s: Seconds
    """Inside the runtime."""


class PredictionNamed(Message, frozen=True):
    outputs: Tensors
    duration_s: Seconds
    """Inside the model's process, its queue included."""


class AnswerBegun(Message, frozen=True):
    """The body is the first part of the answer."""

    status: Annotated[int, Meta(ge=100, le=599)]
    content_type: ContentType
    headers: Fields = ()
    is_whole: bool = False
    """Nothing else follows."""


class AnswerPart(Message, frozen=True):
    """The body is the next part, never empty."""


class AnswerEnded(Message, frozen=True):
    size_bytes: Count
    """Of all parts together."""


Figure = Annotated[float, Meta(ge=0, le=1e12)]


class DeploymentStatus(Message, frozen=True):
    """What is told of the model is empty while nobody can be asked: see ``state``."""

    state: Literal["loading", "ready", "restarting", "ended"]
    reason: Text = ""
    """Why the worker ended last, if it did."""
    restarts: Count = 0
    name: Label = ""
    """What requests call the model."""
    format: Label = ""
    runtime: Label = ""
    devices: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    abilities: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    """predict, embed, complete, chat."""
    inputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)] = ()
    outputs: Annotated[tuple[TensorInfo, ...], Meta(max_length=64)] = ()
    context_tokens: Count | None = None
    size_bytes: Count = 0
    requests: Count = 0
    failed: Count = 0
    in_flight: Count = 0
    queue_depth: Count = 0
    p50_ms: Figure = 0.0
    p95_ms: Figure = 0.0
    tokens_per_s: Figure = 0.0


InferenceCall = Authorize | AuthorizeJob | DescribeModel | Predict | PredictNamed | Ask | StatusOf
InferenceAnswer = (
    Done
    | ModelDescription
    | Prediction
    | PredictionNamed
    | AnswerBegun
    | AnswerPart
    | AnswerEnded
    | DeploymentStatus
    | Failure
)
REQUESTS: Codec[Request[InferenceCall]] = Codec(Request[InferenceCall])
RESPONSES: Codec[Response[InferenceAnswer]] = Codec(Response[InferenceAnswer])
