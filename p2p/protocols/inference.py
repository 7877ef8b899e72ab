"""/cyxwiz/infer/1: calls to a model on a peer, on one kept-open stream. Tensors are bodies."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from p2p.codec import Codec, Message, Part
from p2p.framing import FrameLimits
from p2p.identifiers import Hash, JobIdField, Label, Seconds, Token
from p2p.protocols import Done, Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/infer/1"
LIMITS = FrameLimits(message_bytes=64 << 10, body_bytes=64 << 20)

Dtype = Literal["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=8)]


class TensorInfo(Part, frozen=True):
    name: Label
    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**31)], ...], Meta(max_length=8)]
    """-1 for a dimension of any size (the batch)."""


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


InferenceCall = Authorize | AuthorizeJob | DescribeModel | Predict
InferenceAnswer = Done | ModelDescription | Prediction | Failure
REQUESTS: Codec[Request[InferenceCall]] = Codec(Request[InferenceCall])
RESPONSES: Codec[Response[InferenceAnswer]] = Codec(Response[InferenceAnswer])
