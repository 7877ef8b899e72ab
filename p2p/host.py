"""The real network: a py-libp2p host over TCP, Noise and Yamux, behind ``p2p.network``.

py-libp2p listens, shakes hands, and answers ping and identify. Records and streams are ours
(``p2p.noise``, ``p2p.yamux``), and so are dialing, upgrading and the opening and accepting of
streams, where its own have traps: one address tried of many, a minute's ban after a failed
dial, 250 ms lost per connection, handlers that take the whole host down with them.
"""

from __future__ import annotations

import resource
import weakref
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from p2p.addresses import (
    dialable,
    family_of,
    is_name,
    is_relayed,
    listen_address,
    reachable,
    refuse_used_port,
    resolve,
    split_circuit,
)
from p2p.dialing import Race
from p2p.errors import ConnectionFailedError, P2PError, PortInUseError, StreamResetError
from p2p.framing import FrameLimits
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.limits import Door, HostLimits, Room, Turns, place_of
from p2p.multistream import answering, negotiate, select_protocol
from p2p.muxer import ConnectionObserver, MuxedConnection, MuxedStream, OwnYamux
from p2p.network import StreamHandler
from p2p.noise import NoiseTransport
from p2p.relay.ends import RelayedEnds, address_of
from p2p.relay.messages import PUNCH_PROTOCOL
from p2p.stock import stock_host
from p2p.tasks import background_tasks, deadline
from p2p.upgrade import Upgrader
from p2p.yamux import YamuxStream
from p2p.yamux_stream import YamuxLimits

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection
    from trio_typing import TaskStatus

LIMITS = HostLimits()
STREAMS = YamuxLimits()
_STOP_TIMEOUT_S = 10.0
_OTHER_DESCRIPTORS = 512

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen: Sequence[str],
    limits: HostLimits = LIMITS,
    streams: YamuxLimits = STREAMS,
) -> AsyncIterator[Libp2pNetwork]:
    """A running host that listens at the multiaddresses ``listen`` (none: it only dials).

    What ``limits`` says of streams holds, whatever ``streams`` says.

    Raises PortInUseError when another process listens there, LocalProtocolError for an address
    that is none or not TCP. On leaving, what was sent is flushed and every connection closed.
    """
    addresses = [listen_address(text) for text in listen]
    for address in addresses:
        refuse_used_port(address)
    _allow_descriptors(limits.connections)
    network = Libp2pNetwork(identity, limits, streams)
    # In a task of its own: an error of the caller's block leaves without the host's nurseries
    # around it.
    async with background_tasks() as nursery:
        await nursery.start(network.run, addresses)
        if len(network.addresses()) < len(listen):
            raise PortInUseError(f"cannot listen at all of {', '.join(listen)}")
        try:
            yield network
        finally:
            await network.stop()


class Libp2pNetwork(ConnectionObserver):
    """A ``p2p.network.Network``; made by ``open_host``."""

    def __init__(self, identity: Identity, limits: HostLimits, streams: YamuxLimits) -> None:
        self._identity = identity
        self._limits = limits
        self._door = Door(limits)
        self._turns = Turns(limits)
        self._noise = NoiseTransport(create_new_key_pair(identity.secret_bytes()))
        kept = replace(
            streams,
            incoming_streams=limits.streams_per_peer,
            unread_bytes=limits.unread_per_peer,
            unread_bytes_of_all=limits.unread,
            unfinished_bytes=limits.unfinished_per_peer,
            unfinished_bytes_of_all=limits.unfinished,
        )
        self._muxer = OwnYamux(kept, self)
        self._host = stock_host(self._noise, self._muxer, limits)
        self._swarm: Any = self._host.get_network()
        self._swarm.set_stream_handler(self._serve_stock)
        self._swarm._handle_inbound_connection = self._accept
        self._upgrader = Upgrader(self._noise, self._muxer, self._swarm)
        self._handlers: dict[str, StreamHandler] = {}
        self._spoken = ChainMap[str, Any](self._handlers, self._host.multiselect.handlers)
        self._handshakes = Room("handshakes", limits.handshakes, limits.handshakes_per_address)
        self._connections: dict[PeerId, list[MuxedConnection]] = {}
        self._dialing: weakref.WeakValueDictionary[PeerId, trio.Lock] = weakref.WeakValueDictionary()
        self._addresses: tuple[str, ...] = ()
        self._ports: tuple[int, ...] = ()
        self._ends = RelayedEnds(self)
        self._connection_lost = trio.Event()
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    async def run(self, listen: Sequence[Multiaddr], task_status: TaskStatus[None]) -> None:
        """Started once it listens where it can."""
        try:
            async with background_tasks() as self._nursery:
                self._nursery.start_soon(self._muxer.heartbeat.run)
                async with self._host.run(listen_addrs=list(listen)):
                    listening = self._host.get_transport_addrs()
                    self._addresses = tuple(f"{a}/p2p/{self.peer_id}" for a in reachable(listening))
                    self._ports = tuple(int(a.value_for_protocol("tcp")) for a in listening)
                    self._ends.ports.use(listening)
                    task_status.started()
                    try:
                        await self._stopping.wait()
                    finally:
                        await self._close()
        finally:
            self._ends.ports.close()
            self._stopped.set()

    async def stop(self) -> None:
        self._stopping.set()
        with trio.CancelScope(deadline=trio.current_time() + _STOP_TIMEOUT_S, shield=True):
            await self._stopped.wait()

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    def addresses(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self._addresses, *self._ends.announced)))

    def announce(self, source: PeerId, addresses: Sequence[str]) -> None:
        """Further addresses, on the word of ``source``; it may bring circuits while there are any."""
        self._ends.announce(source, addresses)

    def listening_ports(self) -> Sequence[int]:
        return self._ports

    def sign(self, data: bytes) -> bytes:
        return self._identity.sign(data)

    # -- connections -------------------------------------------------------------------------

    def is_connected(self, peer_id: PeerId) -> bool:
        return self._connection(peer_id) is not None

    async def connect(self, peer_id: PeerId, addresses: Sequence[str], timeout_s: float = 10.0) -> None:
        """Tries exactly these addresses; what was known of the peer before plays no part."""
        await trio.lowlevel.checkpoint()
        lock = self._dialing.setdefault(peer_id, trio.Lock())
        with deadline(timeout_s, f"connecting to {peer_id}"):
            async with lock:
                if not self.is_connected(peer_id):
                    await self._dial(peer_id, dialable(peer_id, addresses))

    def connections(self) -> Mapping[PeerId, str]:
        addresses = {peer_id: self.remote_address(peer_id) for peer_id in self._connections}
        return {peer_id: address for peer_id, address in addresses.items() if address is not None}

    def remote_address(self, peer_id: PeerId) -> str | None:
        connection = self._connection(peer_id)
        return None if connection is None else address_of(connection)

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        while self.is_connected(peer_id):
            await self._connection_lost.wait()

    async def answers_at(self, peer_id: PeerId, address: str, timeout_s: float) -> bool:
        """Whether a new connection to the address reaches that very peer; it is closed at once."""
        with trio.move_on_after(timeout_s):
            try:
                raw = await TCP().dial(listen_address(address))
                try:
                    await self._upgrader.secure(raw, peer_id)
                    return True
                finally:
                    with trio.CancelScope(deadline=trio.current_time() + 1.0, shield=True):
                        await raw.close()
            except Exception as error:  # whatever it is, the answer is no
                log.debug("no answer", peer_id=peer_id, address=address, reason=repr(error))
        return False

    async def disconnect(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        for connection in tuple(self._connections.get(peer_id, ())):
            await connection.close()

    def connection_started(self, connection: MuxedConnection) -> None:
        connections = self._connections.setdefault(_peer_id(connection), [])
        connections.append(connection)
        if len(connections) > self._limits.connections_per_peer:
            connections[0].session.abandon("replaced by newer connections of the same peer")
        self._nursery.start_soon(
            self._ends.connection_started,
            _peer_id(connection),
            connection,
            partial(self._open_on, connection, PUNCH_PROTOCOL),
            tuple(connections),
        )

    def connection_ended(self, connection: MuxedConnection) -> None:
        peer_id = _peer_id(connection)
        remaining = [other for other in self._connections.get(peer_id, ()) if other is not connection]
        if remaining:
            self._connections[peer_id] = remaining
        else:
            self._connections.pop(peer_id, None)
        self._connection_lost.set()
        self._connection_lost = trio.Event()
        if not self._stopping.is_set():
            log.debug("connection ended", peer_id=peer_id, reason=connection.session.lost)

    async def _accept(self, stream: Any, address: Multiaddr) -> None:
        """Serves one incoming connection to its end; returning closes it.

        The swarm's own way holds a task and one of the allowed connections for each that ever
        came, until it is itself stopped.
        """
        await self.serve_incoming(RawConnection(stream, False))

    async def serve_incoming(self, raw: RawConnection) -> None:
        """Secures it as its server, and returns at its end; what comes through a relay counts there."""
        place = _place(raw)
        refusal = self._door.enter(place, trio.current_time())
        if refusal is not None:
            log.debug("incoming connection refused", remote=place, reason=refusal)
            await raw.close()
            return
        try:
            connection = await self._shake_hands(raw)
            await connection.muxed_conn.event_ended.wait()
        except Exception as error:  # the boundary of the connection's task
            log.debug("incoming connection refused", remote=place, reason=repr(error))
        finally:
            self._door.leave(place)

    async def _shake_hands(self, raw: IRawConnection, expected: PeerId | None = None) -> Any:
        place = _place(raw)
        refusal = self._handshakes.enter(place)
        if refusal is not None:
            await raw.close()
            raise ConnectionFailedError(refusal)
        try:
            with deadline(self._limits.handshake_s, "handshake"):
                client_of = self._ends.punched_client(raw.get_remote_address())
                if client_of is not None:
                    return await self._upgrader.outgoing(raw, client_of)
                return await self._upgrader.incoming(raw, expected)
        finally:
            self._handshakes.leave(place)

    def _connection(self, peer_id: PeerId) -> MuxedConnection | None:
        """The newest that lives, since an older one may be dead without knowing it; direct before relayed."""
        alive = [c for c in reversed(self._connections.get(peer_id, ())) if not c.is_closed]
        return alive[0] if len(alive) == 1 else min(alive, key=_comes_through_relay, default=None)

    async def _dial(self, peer_id: PeerId, addresses: Sequence[Multiaddr]) -> None:
        async def connect(address: Multiaddr) -> Any:
            return await self.upgrade_outgoing(await self._ends.dial(peer_id, address), peer_id)

        race: Race[Multiaddr, Any] = Race(connect, resolve, _close_swarm_connection, family_of)
        relayed = [address for address in addresses if is_relayed(str(address))]
        direct = [address for address in addresses if address not in relayed]
        names = [address for address in direct if is_name(address)]
        try:
            await race.run([address for address in direct if address not in names], names, relayed)
        except ConnectionFailedError as error:
            if not self.is_connected(peer_id):
                raise ConnectionFailedError(f"no connection to {peer_id}: {error}") from error
        if not self.is_connected(peer_id):
            raise ConnectionFailedError(f"no connection to {peer_id}: lost at once")

    async def upgrade_outgoing(self, raw: IRawConnection, peer_id: PeerId) -> Any:
        """Secures it as its client. Closes it and raises where that fails."""
        return await self._upgrader.outgoing(raw, peer_id)

    async def upgrade_dialed(self, raw: IRawConnection, peer_id: PeerId) -> Any:
        """Secures what this side dialed as its server. Closes it and raises where that fails."""
        return await self._shake_hands(raw, peer_id)

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):  # every part has its own deadline
            # The host forgets its listeners when it is cancelled: they would go on accepting.
            for listener in tuple(self._swarm.listeners.values()):
                await listener.close()
            alive = [one for connections in self._connections.values() for one in connections]
            for through_relay in (True, False):  # those that are inside others come first
                async with trio.open_nursery() as nursery:
                    for connection in alive:
                        if _comes_through_relay(connection) is through_relay:
                            nursery.start_soon(connection.close)

    # -- streams -----------------------------------------------------------------------------

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler
        self._host.set_stream_handler(TProtocol(protocol), None)  # it tells others of it

    async def open_stream(self, peer_id: PeerId, protocol: str, timeout_s: float = 10.0) -> HostStream:
        await trio.lowlevel.checkpoint()
        connection = self._connection(peer_id)
        if connection is None:
            raise ConnectionFailedError(f"not connected to {peer_id}")
        return await self._open_on(connection, protocol, timeout_s)

    async def _open_on(
        self, connection: MuxedConnection, protocol: str, timeout_s: float = 10.0
    ) -> HostStream:
        peer_id = _peer_id(connection)
        with deadline(timeout_s, f"opening {protocol} at {peer_id}"):
            stream = connection.session.open_stream()
            try:
                await select_protocol(stream, protocol)
            except StreamResetError as error:
                raise ConnectionFailedError(f"opening {protocol} at {peer_id}: {error}") from error
            except BaseException:
                stream.refuse()
                raise
        return self._host_stream(connection, stream)

    def stream_opened(self, connection: MuxedConnection, stream: YamuxStream) -> None:
        self._nursery.start_soon(self._serve, connection, stream)

    async def _serve(self, connection: MuxedConnection, stream: YamuxStream) -> None:
        """Hands an incoming stream to whom it is for."""
        peer_id = _peer_id(connection)
        try:
            await self._turn_of(connection)()  # opening streams is no way around the rate of messages
            with deadline(self._limits.naming_s, "naming a protocol"):
                protocol = await negotiate(stream, answering(self._spoken))
        except P2PError as error:
            log.debug("incoming stream refused", peer_id=peer_id, reason=str(error))
            stream.refuse()
        except BaseException:
            stream.refuse()
            raise
        else:
            if handler := self._handlers.get(protocol):
                await _handle(handler, self._host_stream(connection, stream), protocol)
            else:
                connection.hand_over(stream, protocol)

    def _host_stream(self, connection: MuxedConnection, stream: YamuxStream) -> HostStream:
        largest = FrameLimits(self._limits.message, self._limits.body)
        return HostStream(_peer_id(connection), stream, largest, self._turn_of(connection))

    def _turn_of(self, connection: MuxedConnection) -> Callable[[], Coroutine[Any, Any, None]]:
        return partial(self._wait_turn, _peer_id(connection), place_of(_place(connection)))

    async def _wait_turn(self, peer_id: PeerId, place: str) -> None:
        delay_s = self._turns.delay_s(peer_id, place, trio.current_time())
        if delay_s > 0:
            await trio.sleep(delay_s)

    async def _serve_stock(self, net_stream: Any) -> None:
        """py-libp2p's own protocols."""
        stream: MuxedStream = net_stream.muxed_stream
        try:
            net_stream.set_protocol(stream.protocol)
            await self._host.multiselect.handlers[TProtocol(stream.protocol)](net_stream)
        except Exception as error:  # nothing that one stream does may end the host
            log.debug("stream failed", peer_id=str(net_stream.muxed_conn.peer_id), exc_info=error)
            await stream.reset()


class HostStream:
    """A ``p2p.network.Stream``."""

    def __init__(
        self,
        remote_peer_id: PeerId,
        stream: YamuxStream,
        largest: FrameLimits,
        wait_turn: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._remote_peer_id = remote_peer_id
        self._stream = stream
        self._largest = largest
        self.wait_turn = wait_turn
        self.hold = stream.hold
        self.send_all = stream.send_all
        self.send_now = stream.send_now
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self.reset = stream.reset

    @property
    def remote_peer_id(self) -> PeerId:
        return self._remote_peer_id

    @property
    def largest(self) -> FrameLimits:
        return self._largest


async def _handle(handler: StreamHandler, stream: HostStream, protocol: str) -> None:
    """Runs a handler to its end: a clean one closes the stream, any other resets it."""
    try:
        await handler(stream)
        await stream.aclose()
    except BaseException as error:  # the boundary of the handler's task
        with trio.CancelScope(shield=True):
            await stream.reset()
        if not isinstance(error, Exception):
            raise
        bound = log.bind(protocol=protocol, peer_id=stream.remote_peer_id)
        if isinstance(error, P2PError):
            bound.debug("stream lost", reason=str(error))
        else:
            bound.error("stream handler failed", exc_info=error)


async def _close_swarm_connection(connection: Any) -> None:
    await connection.close()


def _allow_descriptors(connections: int) -> None:
    """Each connection takes a file descriptor; many systems start a program with 1024 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.info("fewer connections than configured", file_descriptors=hard, connections=connections)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _place(connection: IRawConnection | MuxedConnection) -> str:
    """The IP address, or the relay that brings the connection."""
    found = connection.get_remote_address()
    if found:
        return found[0]
    circuit = split_circuit(Multiaddr(address_of(connection)))
    return f"/p2p/{circuit[0]}" if circuit is not None else ""


def _comes_through_relay(connection: MuxedConnection) -> bool:
    return connection.get_connection_type() is ConnectionType.RELAYED


def _peer_id(connection: MuxedConnection) -> PeerId:
    return PeerId(str(connection.peer_id))
