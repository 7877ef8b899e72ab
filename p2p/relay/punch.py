"""Hole punching (DCUtR): both ends of a relayed connection dial each other directly at the same moment.

Whoever was called through the relay leads. TCP then opens from both sides at once, and the caller of
the relayed connection plays the client of the direct one, as the specification says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio

from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.limits import Rate, RateLimiter
from p2p.network import Stream
from p2p.relay.messages import PunchMessage, PunchType, decode_endpoint, encode_endpoint
from p2p.relay.wire import read_message, write_message

log = structlog.get_logger(__name__)

Endpoint = tuple[str, int]
ATTEMPTS = 3
_MESSAGE_TIMEOUT_S = 10.0
_DIAL_TIMEOUT_S = 6.0
_RETRY_S, _LONGEST_RETRY_S = 0.1, 1.0
_FOLLOWED = Rate(per_s=0.5, burst=16.0)
"""Punches that strangers may lead: each costs a few packets to where they say."""
_LED = Rate(per_s=0.5, burst=64.0)
"""Those that strangers cause by calling through a relay."""
_PAUSE_S = 2.0
_MAX_ENDPOINTS = 4


class PunchingHost(Protocol):
    async def own_endpoints(self, peer_id: PeerId) -> Sequence[Endpoint]:
        """Where the network outside sees this host, as the relays between the two say."""

    async def punch(self, peer_id: PeerId, endpoint: Endpoint, *, as_client: bool) -> None:
        """One dial from the very port that is listened at. Raises an error where it fails."""

    def is_direct(self, peer_id: PeerId) -> bool:
        """Whether there is a connection without a relay."""


class Puncher:
    """``lead`` on the side that was called, ``follow`` (a stream handler) on the other."""

    def __init__(self, host: PunchingHost) -> None:
        self._host = host
        self._under_way: set[PeerId] = set()
        self._followed, self._led = RateLimiter(_FOLLOWED), RateLimiter(_LED)

    async def lead(self, peer_id: PeerId, open_stream: Callable[[], Awaitable[Stream]]) -> None:
        """A few attempts; the relayed connection serves on where all fail. Raises P2PError."""
        _check_rate(self._led)
        with self._alone(peer_id) as first:
            for number in range(ATTEMPTS if first else 0):
                await trio.sleep(_PAUSE_S if number else 0.0)
                await self._lead_once(peer_id, await open_stream())
                if self._host.is_direct(peer_id):
                    log.info("hole punched", peer_id=peer_id, attempts=number + 1)
                    return
            log.info("hole not punched", peer_id=peer_id)

    async def _lead_once(self, peer_id: PeerId, stream: Stream) -> None:
        try:
            await self._send(stream, PunchType.CONNECT, await self._host.own_endpoints(peer_id))
            sent_at = trio.current_time()
            theirs = await self._receive(stream, PunchType.CONNECT)
            round_trip_s = trio.current_time() - sent_at
            await self._send(stream, PunchType.SYNC, ())
            await trio.sleep(round_trip_s / 2)
            await self._dial(peer_id, theirs, as_client=False)
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def follow(self, stream: Stream) -> None:
        """Raises P2PError."""
        peer_id = stream.remote_peer_id
        if self._host.is_direct(peer_id):
            raise LocalProtocolError(f"no punch with {peer_id}, which is connected directly")
        _check_rate(self._followed)
        mine = await self._host.own_endpoints(peer_id)  # first: the other side measures the round trip
        theirs = await self._receive(stream, PunchType.CONNECT)
        await self._send(stream, PunchType.CONNECT, mine)
        await self._receive(stream, PunchType.SYNC)
        with self._alone(peer_id) as first:
            if first and not self._host.is_direct(peer_id):
                await self._dial(peer_id, theirs, as_client=True)

    async def _dial(self, peer_id: PeerId, endpoints: Sequence[Endpoint], *, as_client: bool) -> None:
        with trio.move_on_after(_DIAL_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for endpoint in endpoints:
                    nursery.start_soon(self._dial_one, peer_id, endpoint, as_client, nursery.cancel_scope)

    async def _dial_one(
        self, peer_id: PeerId, endpoint: Endpoint, as_client: bool, scope: trio.CancelScope
    ) -> None:
        """Again and again: a refusal may only mean that the other side's NAT was not open yet."""
        pause_s = _RETRY_S
        while not self._host.is_direct(peer_id):
            try:
                await self._host.punch(peer_id, endpoint, as_client=as_client)
            except Exception as error:  # the boundary of the attempt's task
                log.debug("punch failed", peer_id=peer_id, endpoint=endpoint, reason=repr(error))
            if not self._host.is_direct(peer_id):  # also where a connection was lost at once
                await trio.sleep(pause_s)
                pause_s = min(_LONGEST_RETRY_S, 2 * pause_s)
        scope.cancel()

    @contextmanager
    def _alone(self, peer_id: PeerId) -> Iterator[bool]:
        """False for all but the first: at most one punch with a peer at a time."""
        if peer_id in self._under_way:
            yield False
            return
        self._under_way.add(peer_id)
        try:
            yield True
        finally:
            self._under_way.discard(peer_id)

    async def _send(self, stream: Stream, kind: PunchType, endpoints: Sequence[Endpoint]) -> None:
        encoded = tuple(encode_endpoint(*endpoint) for endpoint in endpoints)
        await write_message(stream, PunchMessage(kind, encoded).encode(), _MESSAGE_TIMEOUT_S)

    async def _receive(self, stream: Stream, kind: PunchType) -> list[Endpoint]:
        message = await read_message(stream, PunchMessage.decode, _MESSAGE_TIMEOUT_S)
        if message.type is not kind:
            raise RemoteProtocolError(f"punch message {message.type.name}, expected {kind.name}")
        found = dict.fromkeys(decode_endpoint(encoded) for encoded in message.addresses)
        return [endpoint for endpoint in found if endpoint is not None][:_MAX_ENDPOINTS]


def _check_rate(rates: RateLimiter) -> None:
    if not rates.allow("all", trio.current_time()):
        raise LocalProtocolError(f"more than {rates.rate.burst:g} punches in a row")
