"""/cyxwiz/data/1: rows of a dataset that stays with its owner, asked by the peer that trains on it.

The peer opens it to the Engine, once for each lease, and again after a loss; many requests may be
under way. Rows are named by their place in the order of an epoch, which both sides know from the
graph alone: the peer needs neither labels nor private rows to ask, and can name no others.

    peer                                    Engine
    OpenData(token, job, lease)         ->
                                        <-  DataOpened (scaling as body)
    GetRows(part, epoch, first, count)  ->
                                        <-  Rows (x, then y, as body)
"""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message
from p2p.framing import FrameLimits
from p2p.identifiers import Count, JobIdField, Label, Token
from p2p.jobs import DataPart, SampleShape
from p2p.protocols import Failure, Request, Response
from p2p.protocols.coordinator import LeaseRef

PROTOCOL_ID = "/cyxwiz/data/1"
MAX_ROWS_BYTES = 4 << 20
"""The most that one answer carries, so also the largest sample that can be streamed."""
MAX_CHANNELS = 1 << 20
LIMITS = FrameLimits(message_bytes=16 << 10, body_bytes=2 * 4 * MAX_CHANNELS)


ITEM_BYTES = {"float32": 4, "uint8": 1, "int32": 4}
"""Types that samples come in."""
_LABEL_BYTES, _TARGET_BYTES = 8, 4


def row_bytes(dtype: str, sample_shape: tuple[int, ...], classes: int, target_shape: tuple[int, ...]) -> int:
    """Of one sample with its target: class numbers, or values. Raises KeyError for an unknown type."""
    target = (_LABEL_BYTES if classes else _TARGET_BYTES) * math.prod(target_shape)
    return ITEM_BYTES[dtype] * math.prod(sample_shape) + target


class OpenData(Message, frozen=True):
    """First on a stream. ``token`` is the one that the Engine opened the job with, or a newer one; empty
    for a direct lease, whose right is the connection's identity."""

    token: Token
    job_id: JobIdField
    lease: LeaseRef


class GetRows(Message, frozen=True):
    """``first`` and ``count`` are places in the order of ``epoch``; 0 for parts that are only evaluated."""

    part: DataPart
    epoch: Annotated[int, Meta(ge=0, le=2**31)]
    first: Count
    count: Annotated[int, Meta(ge=1, le=MAX_ROWS_BYTES)]


class DataOpened(Message, frozen=True):
    """Facts of the whole dataset. The body is the scaling: offsets, then factors, float32 little-endian,
    one of each per channel; empty where the graph normalizes nothing."""

    samples: Annotated[int, Meta(ge=1, le=2**40)]
    sample_shape: SampleShape
    dtype: Label
    classes: Count
    target_shape: SampleShape

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.dtype, self.sample_shape, self.classes, self.target_shape)


class Rows(Message, frozen=True):
    """The body is x, then y, of the rows asked for, in that order, C order, little-endian."""

    count: Count


DataCall = OpenData | GetRows
DataAnswer = DataOpened | Rows | Failure
REQUESTS: Codec[Request[DataCall]] = Codec(Request[DataCall])
RESPONSES: Codec[Response[DataAnswer]] = Codec(Response[DataAnswer])
