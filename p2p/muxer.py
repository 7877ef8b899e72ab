"""Our Yamux in the clothes of py-libp2p's interfaces, so that its host runs on it.

Only streams of py-libp2p's own protocols (ping, identify, ...) are read and written through
these classes; ours take the ``YamuxStream`` inside.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux

from p2p.errors import StreamResetError
from p2p.multistream import answering, asking, negotiate
from p2p.noise import NoiseSession
from p2p.yamux import Heartbeat, YamuxSession, YamuxStream
from p2p.yamux_stream import Total, Use, YamuxLimits

if TYPE_CHECKING:
    from libp2p.peer.id import ID

_UNACCEPTED_STREAMS = 256


class MuxedConnection(IMuxedConn):
    """One connection. ``on_started`` and ``on_ended`` tell the host of its life."""

    def __init__(
        self,
        conn: NoiseSession,
        peer_id: ID,
        limits: YamuxLimits,
        use: Use,
        heartbeat: Heartbeat,
        observer: ConnectionObserver,
    ) -> None:
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_ended = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.secured_conn = conn
        self._observer = observer
        self._accepted, self._to_accept = trio.open_memory_channel[MuxedStream](_UNACCEPTED_STREAMS)
        self.session = YamuxSession(
            conn,
            is_initiator=conn.is_initiator,
            on_stream=partial(observer.stream_opened, self),
            heartbeat=heartbeat,
            limits=limits,
            use=use,
        )

    def hand_over(self, stream: YamuxStream, protocol: str) -> None:
        """Gives an incoming stream whose protocol is agreed on to py-libp2p."""
        try:
            self._accepted.send_nowait(MuxedStream(self, stream, protocol))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
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
            return await self._to_accept.receive()
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
    """Who is told of connections and of the streams that come in; every call returns at once."""

    def connection_started(self, connection: MuxedConnection) -> None: ...

    def connection_ended(self, connection: MuxedConnection) -> None: ...

    def stream_opened(self, connection: MuxedConnection, stream: YamuxStream) -> None: ...


class MuxedStream(IMuxedStream):
    """A stream as py-libp2p reads and writes it."""

    def __init__(self, connection: MuxedConnection, stream: YamuxStream, protocol: str = "") -> None:
        self.muxed_conn = self._connection = connection
        self.stream = stream
        self.protocol = protocol
        """What was agreed on for an incoming stream."""

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
        self.heartbeat = Heartbeat()
        """To be run for as long as there are connections."""
        self._limits = limits
        self._observer = observer
        self._total = Total()
        self._uses: weakref.WeakValueDictionary[ID, Use] = weakref.WeakValueDictionary()

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Raises ConnectionFailedError, RemoteProtocolError, StreamResetError."""
        assert isinstance(conn, NoiseSession)  # the only security that the host offers
        await negotiate(conn, asking(PROTOCOL_ID) if conn.is_initiator else answering((PROTOCOL_ID,)))
        use = self._uses.setdefault(peer_id, Use(total=self._total))
        limits = self._limits
        if conn.get_connection_type() is ConnectionType.RELAYED:
            # What waits at the relay is not seen, so that a slow way looks like a dead one.
            limits = replace(limits, keep_alive_timeout_s=limits.idle_keep_alive_timeout_s)
        connection = MuxedConnection(conn, peer_id, limits, use, self.heartbeat, self._observer)
        return self._annotate_connection(connection, conn, TProtocol(PROTOCOL_ID))
