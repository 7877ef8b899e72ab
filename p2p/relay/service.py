"""The relay: holds reservations, joins circuits, and cuts them at their limits.

Circuit relay v2 (``HOP`` towards whoever asks, ``STOP`` towards whom a circuit leads to). What passes
is sealed between the two ends. Holds no decision: ``p2p.relay.book`` has them all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog
import trio
from multiaddr import Multiaddr

from p2p.errors import MessageInvalidError, P2PError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.limits import Rate, RateLimiter, place_in
from p2p.network import Network, Stream
from p2p.relay.book import Meter, RelayBook, RelayLimits, RelayRefusalError
from p2p.relay.messages import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    HopMessage,
    HopType,
    Reservation,
    Status,
    StopMessage,
    StopType,
    status_text,
)
from p2p.relay.wire import read_message, write_message

log = structlog.get_logger(__name__)

MESSAGE_TIMEOUT_S = 10.0
_CHUNK_BYTES = 32 * 1024
_REQUESTS = Rate(per_s=1.0, burst=30.0)
"""Of one peer."""


class RelayService:
    """Answers on ``network`` for as long as that runs."""

    def __init__(
        self,
        network: Network,
        limits: RelayLimits,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.book = RelayBook(limits)
        self.bytes_relayed = 0
        self._whole = Meter(math.inf, limits.bytes_per_s_of_all, 0.0)
        self._rates = RateLimiter(_REQUESTS)
        self._network = network
        self._now = now
        network.set_handler(HOP_PROTOCOL, self._hop)

    def status(self) -> dict[str, int]:
        return {
            "reserved": len(self.book.reserved),
            "circuits": len(self.book.circuits),
            "bytes_relayed": self.bytes_relayed,
        }

    async def _hop(self, stream: Stream) -> None:
        try:
            message = await read_message(stream, HopMessage.decode, MESSAGE_TIMEOUT_S)
            if not self._rates.allow(stream.remote_peer_id, trio.current_time()):
                text = f"more than {_REQUESTS.burst:g} requests in a row"
                raise RelayRefusalError(Status.RESOURCE_LIMIT_EXCEEDED, text)
            if message.type is HopType.RESERVE:
                await self._reserve(stream)
            elif message.type is HopType.CONNECT and message.peer is not None:
                await self._connect(stream, message.peer)
            else:
                raise RelayRefusalError(Status.UNEXPECTED_MESSAGE, f"{message.type.name} without a peer")
        except RelayRefusalError as refusal:
            log.info("relay refuses", peer_id=stream.remote_peer_id, reason=str(refusal))
            await _answer(stream, HopMessage(HopType.STATUS, status=refusal.status))
        except MessageInvalidError as error:
            log.info("bad relay message", peer_id=stream.remote_peer_id, reason=str(error))
            await _answer(stream, HopMessage(HopType.STATUS, status=Status.MALFORMED_MESSAGE))

    # -- reservations ------------------------------------------------------------------------

    async def _reserve(self, stream: Stream) -> None:
        peer_id = stream.remote_peer_id
        for held in self.book.reserved:  # one that left comes back with a new request
            if not self._network.is_connected(held):
                self.book.drop(held)
        now = trio.current_time()
        address = self._direct_address(peer_id)
        granted = self.book.reserve(peer_id, place_in(address), now)
        reservation = Reservation(round(self._now() + granted.expires_at - now), self._own_addresses())
        limit = self.book.limits.of_circuit
        log.info("relay reserved", peer_id=peer_id, address=address)
        await _answer(
            stream, HopMessage(HopType.STATUS, reservation=reservation, limit=limit, status=Status.OK)
        )

    def _direct_address(self, peer_id: PeerId) -> str:
        """Raises RelayRefusalError for who is here through a relay itself."""
        address = self._network.remote_address(peer_id)
        if address is None or "/p2p-circuit" in address:
            raise RelayRefusalError(Status.PERMISSION_DENIED, f"{peer_id} is not connected directly")
        return address

    def _own_addresses(self) -> tuple[bytes, ...]:
        addresses = self._network.addresses()[:8]
        return tuple(Multiaddr(text).to_bytes() for text in addresses if not text.startswith("/memory/"))

    # -- circuits ----------------------------------------------------------------------------

    async def _connect(self, stream: Stream, target: PeerId) -> None:
        source = stream.remote_peer_id
        address = self._direct_address(source)
        if not self._network.is_connected(target):
            self.book.drop(target)
        circuit = self.book.open(source, place_in(address), target, trio.current_time())
        try:
            onward = await self._stop(source, target)
            try:
                limit = self.book.limits.of_circuit
                await _answer(stream, HopMessage(HopType.STATUS, limit=limit, status=Status.OK))
                log.info("circuit opened", source=source, target=target, open=len(self.book.circuits))
                reason = await self._splice(stream, onward)
                log.info("circuit closed", source=source, target=target, reason=reason)
            finally:
                with trio.CancelScope(shield=True):
                    await onward.reset()  # no effect on one that has ended both ways
        finally:
            self.book.close(circuit)

    async def _stop(self, source: PeerId, target: PeerId) -> Stream:
        """A stream to the target, which has agreed. Raises RelayRefusalError."""
        try:
            stream = await self._network.open_stream(target, STOP_PROTOCOL, MESSAGE_TIMEOUT_S)
            try:
                call = StopMessage(StopType.CONNECT, source, self.book.limits.of_circuit)
                await write_message(stream, call.encode(), MESSAGE_TIMEOUT_S)
                answer = await read_message(stream, StopMessage.decode, MESSAGE_TIMEOUT_S)
                if answer.type is not StopType.STATUS or answer.status != Status.OK:
                    raise RemoteProtocolError(f"{target} answers {status_text(answer.status)}")
            except BaseException:
                with trio.CancelScope(shield=True):
                    await stream.reset()
                raise
        except P2PError as error:
            raise RelayRefusalError(Status.CONNECTION_FAILED, str(error)) from error
        return stream

    async def _splice(self, one: Stream, other: Stream) -> str:
        """Carries bytes both ways until both have ended, one is cut, or a limit is reached; then says why."""
        limits = self.book.limits
        ending = _Ending()
        with trio.move_on_after(limits.circuit_s) as scope:
            async with trio.open_nursery() as nursery:
                for source, target in ((one, other), (other, one)):
                    meter = Meter(limits.circuit_bytes, limits.bytes_per_s, trio.current_time())
                    nursery.start_soon(self._carry, source, target, meter, ending, nursery.cancel_scope)
        if scope.cancelled_caught:
            ending.reason = f"open for {limits.circuit_s:g} s, the limit"
        if ending.reason is not None:
            await one.reset()
            await other.reset()
        return ending.reason or "ended by its ends"

    async def _carry(
        self, source: Stream, target: Stream, meter: Meter, ending: _Ending, scope: trio.CancelScope
    ) -> None:
        """Nothing is read that cannot be passed on: the source waits for the target."""
        try:
            while data := await source.receive_some(_CHUNK_BYTES):
                wait_s = meter.take(len(data), trio.current_time())
                if wait_s is None:
                    ending.reason = f"{self.book.limits.circuit_bytes} bytes one way, the limit"
                    scope.cancel()
                    return
                whole_wait_s = self._whole.take(len(data), trio.current_time()) or 0.0
                await trio.sleep(max(wait_s, whole_wait_s))
                await target.send_all(data)
                self.bytes_relayed += len(data)
            await target.send_eof()
        except P2PError as error:
            ending.reason = str(error)
            scope.cancel()


class _Ending:
    reason: str | None = None
    """Why a circuit was cut; None while nothing was amiss."""


async def _answer(stream: Stream, message: HopMessage) -> None:
    await write_message(stream, message.encode(), MESSAGE_TIMEOUT_S)
