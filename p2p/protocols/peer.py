"""/cyxwiz/peer/1: what an Engine asks a peer itself, without any coordinator. Request and response.

A peer that offers itself on its own network answers anybody what it has; it gives a lease only to
Engines that its owner lets in, known by the identity of their connection. Nobody pays for a lease
that is given here. Nothing is pushed: an Engine that waits asks again, and keeps its place by that.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message
from p2p.framing import FrameLimits
from p2p.identifiers import Count
from p2p.jobs import MAX_SEGMENTS, JobSpec
from p2p.protocols import Failure, Request, Response
from p2p.protocols.coordinator import LeaseRef, SignedRecord

PROTOCOL_ID = "/cyxwiz/peer/1"
LIMITS = FrameLimits(message_bytes=256 << 10, body_bytes=0)


class DescribePeer(Message, frozen=True):
    pass


class RequestLease(Message, frozen=True):
    """For the segments from ``first_segment`` on. Ends an earlier lease of the same job, if there is one."""

    job: JobSpec
    first_segment: Annotated[int, Meta(ge=0, le=MAX_SEGMENTS)]


class PeerDescription(Message, frozen=True):
    record: SignedRecord
    allowed: bool
    """Whether the caller may have leases here."""
    free: Count
    """Devices."""
    waiting: Count
    """Jobs in the queue."""


class LeaseGranted(Message, frozen=True):
    """To be opened with OpenJob and an empty token, on a connection of the same identity."""

    lease: LeaseRef
    device: Count


class LeaseQueued(Message, frozen=True):
    """Ask again within half a minute. ``position`` counts from 1."""

    position: Annotated[int, Meta(ge=1, le=2**20)]


PeerCall = DescribePeer | RequestLease
PeerAnswer = PeerDescription | LeaseGranted | LeaseQueued | Failure
REQUESTS: Codec[Request[PeerCall]] = Codec(Request[PeerCall])
RESPONSES: Codec[Response[PeerAnswer]] = Codec(Response[PeerAnswer])
