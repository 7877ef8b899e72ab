"""Our Yamux in the clothes of py-libp2p's interfaces, so that its host runs on it.

Only streams of py-libp2p's own protocols (ping, identify, ...) are read and written through
these classes; ours take the ``YamuxStream`` inside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux

from p2p.errors import StreamResetError
from p2p.noise import NoiseSession
from p2p.yamux import YamuxLimits, YamuxSession, YamuxStream

if TYPE_CHECKING:
    from libp2p.peer.id import ID

_UNACCEPTED_STREAMS = 256


class MuxedConnection(IMuxedConn):
    """One connection. ``on_started`` and ``on_ended`` tell the host of its life."""

    def __init__(
        self, conn: NoiseSession, peer_id: ID, limits: YamuxLimits, observer: ConnectionObserver
    ) -> None:
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_ended = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.secured_conn = conn
        self._observer = observer
        self._accepted, self._to_accept = trio.open_memory_channel[YamuxStream](_UNACCEPTED_STREAMS)
        self.session = YamuxSession(
            conn, is_initiator=conn.is_initiator, on_stream=self._on_stream, limits=limits
        )

    def _on_stream(self, stream: YamuxStream) -> None:
        try:
            self._accepted.send_nowait(stream)
        except (trio.WouldBlock, trio.ClosedResourceError):
            stream.refuse()

    async def start(self) -> None:
        """Runs the connection; raises nothing, since that would end the whole host."""
        self._observer.connection_started(self)
        self.event_started.set()
        try:
            await self.session.run()
        finally:
            self._accepted.close()
            self.event_ended.set()
            self._observer.connection_ended(self)

    async def close(self) -> None:
        await self.session.close()

    async def open_stream(self) -> MuxedStream:
        await trio.lowlevel.checkpoint()
        try:
            return MuxedStream(self, self.session.open_stream())
        except StreamResetError as error:
            raise MuxedConnUnavailable(str(error)) from error

    async def accept_stream(self) -> MuxedStream:
        try:
            return MuxedStream(self, await self._to_accept.receive())
        except trio.EndOfChannel:
            raise MuxedConnUnavailable(f"connection lost: {self.session.lost}") from None

    @property
    def is_initiator(self) -> bool:
        return bool(self.secured_conn.is_initiator)

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self.session.lost is not None

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured_conn.get_remote_address()

    def get_transport_addresses(self) -> Any:
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> Any:
        return self.secured_conn.get_connection_type()


class ConnectionObserver:
    """Who is told of connections; both calls return at once."""

    def connection_started(self, connection: MuxedConnection) -> None: ...

    def connection_ended(self, connection: MuxedConnection) -> None: ...


class MuxedStream(IMuxedStream):
    """A stream as py-libp2p reads and writes it."""

    def __init__(self, connection: MuxedConnection, stream: YamuxStream) -> None:
        self.muxed_conn = self._connection = connection
        self.stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        try:
            data = await self.stream.receive_some(n if n is not None and n > 0 else 65536)
        except StreamResetError as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF("the other side ended the stream")
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except StreamResetError as error:
            raise MuxedStreamReset(str(error)) from error

    async def close(self) -> None:
        await self.stream.aclose()

    async def close_write(self) -> None:
        await self.stream.send_eof()

    async def close_read(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        await self.stream.reset()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: callers use trio's cancel scopes."""

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._connection.get_remote_address()

    async def __aenter__(self) -> MuxedStream:
        return self


class OwnYamux(MuxerMultistream):
    """Chooses the muxer of a new connection: ours, whatever is offered beside it."""

    def __init__(self, limits: YamuxLimits, observer: ConnectionObserver) -> None:
        super().__init__({TProtocol(PROTOCOL_ID): Yamux})
        self._limits = limits
        self._observer = observer

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        assert isinstance(conn, NoiseSession)  # the only security that the host offers
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        connection = MuxedConnection(conn, peer_id, self._limits, self._observer)
        return self._annotate_connection(connection, conn, protocol)
