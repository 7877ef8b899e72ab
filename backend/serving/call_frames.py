"""What a supervisor and a model's worker say to each other about requests: frames of a channel. Pure.

A frame is ``u32 payload length | u32 request | u8 kind | u16 head length | head | data``, big-endian; the
head is msgpack and comes with the first frame of a direction. Many requests share the channel: a long body
goes out in parts, and of an answer no more than its window is under way before it has been taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from backend.errors import WorkerError
from backend.serving.messages import TensorSpec

_HEADER = struct.Struct(">IIBH")
_LAST = 0x80
PART_BYTES = 128 << 10
"""Of data in one frame."""
WINDOW_BYTES = 512 << 10
"""Of one answer, sent and not yet taken."""
MAX_HEAD_BYTES = 60 << 10
_MAX_PAYLOAD_BYTES = PART_BYTES + MAX_HEAD_BYTES
MAX_TENSORS = 64
MAX_IN_FLIGHT = 1024
"""Requests of one channel."""

T = TypeVar("T")


class Kind(IntEnum):
    ASK = 1
    PREDICT = 2
    STATUS = 3
    BODY = 4
    """More of a request's body."""
    TAKEN = 5
    """Of an answer, as many bytes as its head says: so many more may come."""
    CANCEL = 6
    BEGIN = 17
    PART = 18
    FAILED = 19


@dataclass(frozen=True, slots=True)
class CallFrame:
    number: int
    kind: Kind
    is_last: bool
    """Of its direction, for this request."""
    head: bytes
    data: bytes


class AskHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An HTTP request; the data is the body."""

    method: str
    path: str
    content_type: str
    headers: tuple[tuple[bytes, bytes], ...]
    body_bytes: int


class PredictHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The data holds the inputs one after the other. A name may be empty where a model takes one input."""

    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    body_bytes: int
    timeout_s: float


class AnswerHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    status: Annotated[int, Meta(ge=100, le=599)]
    content_type: Annotated[str, Meta(max_length=256)]
    headers: Annotated[tuple[tuple[bytes, bytes], ...], Meta(max_length=16)]


class PredictedHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The data holds the outputs one after the other."""

    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    body_bytes: Annotated[int, Meta(ge=0)]
    duration_s: Annotated[float, Meta(ge=0)]


class FailedHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    code: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=4096)]


Figure = Annotated[float, Meta(ge=0, le=1e12)]
Number = Annotated[int, Meta(ge=0, le=2**53)]


class ModelStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model at work, as its worker tells it."""

    name: Annotated[str, Meta(max_length=128)]
    format: Annotated[str, Meta(max_length=64)]
    runtime: Annotated[str, Meta(max_length=128)]
    devices: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)]
    abilities: Annotated[tuple[Literal["predict", "embed", "complete", "chat"], ...], Meta(max_length=4)]
    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    context_tokens: Number | None
    size_bytes: Number
    requests: Number
    failed: Number
    in_flight: Number
    queue_depth: Number
    p50_ms: Figure
    p95_ms: Figure
    tokens_per_s: Figure


_ENCODER = msgspec.msgpack.Encoder()


def encode_head(head: msgspec.Struct | int | None) -> bytes:
    return b"" if head is None else _ENCODER.encode(head)


def head_decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(kind)


def decode_head(decoder: msgspec.msgpack.Decoder[T], head: bytes) -> T:
    """Raises WorkerError."""
    try:
        return decoder.decode(head)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerError(f"head of {len(head)} bytes: {error}") from error


def encode_frame(
    number: int, kind: Kind, head: bytes = b"", data: bytes | memoryview = b"", *, is_last: bool = True
) -> bytes:
    """Raises WorkerError for what the other side would refuse."""
    size = len(head) + len(data)
    _check(len(head), size)
    return b"".join((_HEADER.pack(size, number, kind | _LAST if is_last else kind, len(head)), head, data))


def encode_whole(number: int, kind: Kind, head: bytes, body: bytes | memoryview) -> Iterator[bytes]:
    """The frames of a direction that is known as a whole, one after the other."""
    view = memoryview(body)
    end = max(len(view), 1)
    for start in range(0, end, PART_BYTES):
        is_first, is_last = start == 0, start + PART_BYTES >= end
        following = Kind.BODY if kind < Kind.BEGIN else Kind.PART
        part = view[start : start + PART_BYTES]
        yield encode_frame(
            number, kind if is_first else following, head if is_first else b"", part, is_last=is_last
        )


def _check(head_bytes: int, payload_bytes: int) -> None:
    if not head_bytes <= min(payload_bytes, MAX_HEAD_BYTES):
        raise WorkerError(f"head of {head_bytes} bytes in {payload_bytes}, limit {MAX_HEAD_BYTES}")
    if payload_bytes > _MAX_PAYLOAD_BYTES:
        raise WorkerError(f"frame of {payload_bytes} bytes, limit {_MAX_PAYLOAD_BYTES}")


_KINDS: dict[int, Kind] = {kind.value: kind for kind in Kind}


class CallFrames:
    """Bytes cut anywhere to frames."""

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> list[CallFrame]:
        """The frames that are now whole. Raises WorkerError for what is no frame."""
        if self._rest:
            data = self._rest + data
        frames: list[CallFrame] = []
        at, end = 0, len(data)
        while end - at >= _HEADER.size:
            size, number, marked, head_bytes = _HEADER.unpack_from(data, at)
            _check(head_bytes, size)
            begin = at + _HEADER.size
            if begin + size > end:
                break
            kind = _KINDS.get(marked & ~_LAST)
            if kind is None:
                raise WorkerError(f"frame of kind {marked & ~_LAST}")
            middle, at = begin + head_bytes, begin + size
            frames.append(CallFrame(number, kind, bool(marked & _LAST), data[begin:middle], data[middle:at]))
        self._rest = data[at:]
        return frames


def decode_count(head: bytes) -> int:
    """Raises WorkerError."""
    count: int = decode_head(_COUNT, head)
    return count


_COUNT: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Annotated[int, Meta(ge=0, le=1 << 30)])
