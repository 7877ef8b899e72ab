"""The ends of a circuit: asking a relay for one, answering one, and a circuit as a raw connection."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

from p2p.errors import ConnectionFailedError, P2PError, RemoteProtocolError, StreamResetError
from p2p.identifiers import PeerId
from p2p.network import Network, Stream
from p2p.relay.messages import (
    HOP_PROTOCOL,
    HopMessage,
    HopType,
    Reservation,
    Status,
    StopMessage,
    StopType,
    status_text,
)
from p2p.relay.wire import read_message, write_message

_TIMEOUT_S = 10.0
_DIAL_TIMEOUT_S = 20.0
"""The relay itself waits for the other end."""


async def reserve(network: Network, relay: PeerId) -> Reservation:
    """Needs a connection to the relay. Raises ConnectionFailedError where it refuses, P2PError."""
    answer, stream = await _ask(network, relay, HopMessage(HopType.RESERVE), _TIMEOUT_S)
    await stream.aclose()
    if answer.reservation is None:
        raise RemoteProtocolError(f"relay {relay} reserves without saying for how long")
    return answer.reservation


async def open_circuit(
    network: Network, relay: PeerId, relay_addresses: Sequence[str], target: PeerId
) -> Stream:
    """A stream through the relay that ends at ``target``, not yet secured. Raises P2PError."""
    await network.connect(relay, relay_addresses)
    _, stream = await _ask(network, relay, HopMessage(HopType.CONNECT, target), _DIAL_TIMEOUT_S)
    return stream


async def _ask(
    network: Network, relay: PeerId, call: HopMessage, timeout_s: float
) -> tuple[HopMessage, Stream]:
    stream = await network.open_stream(relay, HOP_PROTOCOL, _TIMEOUT_S)
    try:
        await write_message(stream, call.encode(), _TIMEOUT_S)
        answer = await read_message(stream, HopMessage.decode, timeout_s)
        if answer.type is not HopType.STATUS:
            raise RemoteProtocolError(f"relay {relay} answered {answer.type.name} to {call.type.name}")
        if answer.status != Status.OK:
            what = call.type.name.lower()
            raise ConnectionFailedError(f"relay {relay} refuses to {what}: {status_text(answer.status)}")
    except BaseException:
        with trio.CancelScope(shield=True):
            await stream.reset()
        raise
    return answer, stream


async def answer_stop(stream: Stream, is_relay: bool) -> PeerId:
    """The peer at the other end of the circuit that a relay brings. Raises P2PError after a refusal."""
    message = await read_message(stream, StopMessage.decode, _TIMEOUT_S)
    status = Status.OK
    if message.type is not StopType.CONNECT or message.peer is None:
        status = Status.UNEXPECTED_MESSAGE
    elif not is_relay:
        status = Status.PERMISSION_DENIED
    await write_message(stream, StopMessage(StopType.STATUS, status=status).encode(), _TIMEOUT_S)
    if message.peer is None or status is not Status.OK:
        raise RemoteProtocolError(f"circuit by {stream.remote_peer_id}: {status_text(status)}")
    return message.peer


class CircuitIO(ReadWriteCloser):
    """A circuit's stream as what py-libp2p upgrades to a secured connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        try:
            return await self._stream.receive_some(n if n is not None else 65536)
        except StreamResetError as error:
            raise ConnectionClosedError(f"circuit cut: {error}") from error

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except StreamResetError as error:
            raise ConnectionClosedError(f"circuit cut: {error}") from error

    async def close(self) -> None:
        try:
            await self._stream.aclose()
        except P2PError as error:
            raise ConnectionClosedError(f"circuit cut: {error}") from error

    def get_remote_address(self) -> None:
        """A circuit has none of its own."""
