"""/cyxwiz/reach/1: may strangers connect to me? Who is asked dials back, to the caller's host only."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message
from p2p.framing import FrameLimits
from p2p.identifiers import Address
from p2p.protocols import Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/reach/1"
LIMITS = FrameLimits(message_bytes=4 << 10, body_bytes=0)
MAX_PORTS = 2

Port = Annotated[int, Meta(ge=1, le=65535)]


class AskReach(Message, frozen=True):
    """Ports that the caller listens at; the host is the one that its connection comes from."""

    ports: Annotated[tuple[Port, ...], Meta(min_length=1, max_length=MAX_PORTS)]


class Reach(Message, frozen=True):
    observed: Address
    """Where the caller's connection comes from, without its peer id."""
    reachable: Annotated[tuple[Address, ...], Meta(max_length=MAX_PORTS)]
    """Addresses at which the caller, and nobody else, answered a new connection."""


ReachCall = AskReach
ReachAnswer = Reach | Failure
REQUESTS: Codec[Request[ReachCall]] = Codec(Request[ReachCall])
RESPONSES: Codec[Response[ReachAnswer]] = Codec(Response[ReachAnswer])
