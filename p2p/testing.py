"""An in-memory network with the manners of the real one, for tests.

Seeded latency, loss, partitions and crashes; on trio's mock clock a test of hours takes
milliseconds. Everything above ``p2p.network`` runs on it unchanged. Never used by a program.

    async with MemoryNet(seed=1) as net:
        alice, bob = net.join(Identity.generate()), net.join(Identity.generate())
        await alice.connect(bob.peer_id, bob.addresses())
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType

import structlog
import trio

from p2p.errors import ConnectionFailedError, DeadlineError, StreamResetError
from p2p.framing import FrameLimits
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import StreamHandler

_WINDOW_BYTES = 256 * 1024
_CHUNK_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class MemoryNet:
    """A network of ``MemoryNetwork`` nodes; ``latency_s`` and ``loss`` may be changed at any time.

    ``latency_s`` is the least and the greatest delay of one way; ``loss`` the chance that one
    send cuts the connection it is on, which is how a lost network shows above TCP.
    """

    def __init__(
        self, seed: int = 0, *, latency_s: tuple[float, float] = (0.0, 0.0), loss: float = 0.0
    ) -> None:
        self.latency_s = latency_s
        self.loss = loss
        self._seed = seed
        self._count = 0
        self._nodes: dict[PeerId, MemoryNetwork] = {}
        self._partitions: set[frozenset[PeerId]] = set()
        self._silent: set[frozenset[PeerId]] = set()
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> MemoryNet:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        # The tasks handle their own errors: an error of the block leaves as itself.
        await self._manager.__aexit__(None, None, None)
        return False

    def join(self, identity: Identity) -> MemoryNetwork:
        """A node of this identity; after ``crash`` the same identity may join again, elsewhere."""
        if identity.peer_id in self._nodes:
            raise ValueError(f"{identity.peer_id} is on this network already")
        node = MemoryNetwork(self, identity, self._next_number())
        self._nodes[identity.peer_id] = node
        return node

    def crash(self, network: MemoryNetwork | PeerId) -> None:
        """As kill -9: every stream of the node is cut and every handler cancelled."""
        peer_id = network if isinstance(network, str) else network.peer_id
        self._nodes.pop(peer_id)._stop()

    def partition(self, one: PeerId, other: PeerId) -> None:
        """Cuts what is between the two, and refuses connections until ``heal``."""
        self._partitions.add(frozenset((one, other)))
        if one in self._nodes:
            self._nodes[one]._drop(other)

    def cut(self, one: PeerId, other: PeerId, notice_s: float = 2.5) -> None:
        """As a cable that is pulled: nothing arrives, nobody is told, and dialing waits in vain.

        Both ends lose their connection after ``notice_s``, as the real host's keepalive has it,
        unless ``heal`` comes first: then what was sent arrives late.
        """
        pair = frozenset((one, other))
        self._partitions.add(pair)
        self._silent.add(pair)
        link = self._nodes[one]._links.get(other) if one in self._nodes else None
        if link is not None:
            self._tasks().start_soon(link.stall, notice_s)

    def heal(self, one: PeerId, other: PeerId) -> None:
        pair = frozenset((one, other))
        self._partitions.discard(pair)
        self._silent.discard(pair)
        link = self._nodes[one]._links.get(other) if one in self._nodes else None
        if link is not None:
            link.go_on()

    def _is_silent(self, one: PeerId, other: PeerId) -> bool:
        return frozenset((one, other)) in self._silent

    def _find(self, caller: PeerId, peer_id: PeerId) -> MemoryNetwork | None:
        if frozenset((caller, peer_id)) in self._partitions:
            return None
        return self._nodes.get(peer_id)

    def _next_number(self) -> int:
        self._count += 1
        return self._count

    def _random(self, purpose: str) -> random.Random:
        # One generator for each purpose: the order in which tasks run changes no draw.
        return random.Random(f"{self._seed}/{purpose}")

    def _tasks(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("use MemoryNet in `async with`")
        return self._nursery


class MemoryNetwork:
    """One identity on a MemoryNet: a ``p2p.network.Network``."""

    def __init__(self, net: MemoryNet, identity: Identity, number: int) -> None:
        self._net = net
        self._identity = identity
        self._address = f"/memory/{number}/p2p/{identity.peer_id}"
        self._handlers: dict[str, StreamHandler] = {}
        self._links: dict[PeerId, _Link] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._alive = True
        self._draws = net._random(f"node {number}")

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    def addresses(self) -> Sequence[str]:
        return (self._address,)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    async def connect(self, peer_id: PeerId, addresses: Sequence[str], timeout_s: float = 10.0) -> None:
        await self._delay(timeout_s)
        if self.is_connected(peer_id):
            return
        if self._net._is_silent(self.peer_id, peer_id):
            await trio.sleep(timeout_s)
            raise DeadlineError(f"connecting to {peer_id}: no answer within {timeout_s:g} s")
        other = self._net._find(self.peer_id, peer_id)
        if not self._alive or other is None or other._address not in addresses:
            raise ConnectionFailedError(
                f"nobody answers as {peer_id} at {', '.join(addresses) or 'no address'}"
            )
        link = _Link(self, other)
        self._links[peer_id] = other._links[self.peer_id] = link

    async def open_stream(self, peer_id: PeerId, protocol: str, timeout_s: float = 10.0) -> MemoryStream:
        link = self._links.get(peer_id)
        if link is None:
            raise ConnectionFailedError(f"not connected to {peer_id}")
        await self._delay(timeout_s)
        await link.passable.wait()
        if link.cut:
            raise ConnectionFailedError(f"the connection to {peer_id} was lost")
        other = link.other_of(self)
        handler = other._handlers.get(protocol)
        if handler is None:
            raise ConnectionFailedError(f"{peer_id} does not speak {protocol}")
        near, far = link.open_streams(self)
        self._net._tasks().start_soon(other._handle, handler, far, protocol)
        return near

    def is_connected(self, peer_id: PeerId) -> bool:
        return peer_id in self._links

    def connections(self) -> Mapping[PeerId, str]:
        return {peer_id: self.remote_address(peer_id) or "" for peer_id in self._links}

    def remote_address(self, peer_id: PeerId) -> str | None:
        link = self._links.get(peer_id)
        return None if link is None else link.other_of(self)._address.partition("/p2p/")[0]

    async def disconnect(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self._drop(peer_id)

    def sign(self, data: bytes) -> bytes:
        return self._identity.sign(data)

    async def _delay(self, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint()
        delay_s = 2 * self._draws.uniform(*self._net.latency_s)
        await trio.sleep(min(delay_s, timeout_s))
        if delay_s > timeout_s:
            raise DeadlineError(f"no answer within {timeout_s:g} s")

    async def _handle(self, handler: StreamHandler, stream: MemoryStream, protocol: str) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await handler(stream)
                await stream.aclose()
            except BaseException as error:  # the boundary of the handler's task
                stream.cut()
                if not isinstance(error, Exception):
                    raise
                log.warning("stream handler failed", protocol=protocol, exc_info=error)
            finally:
                self._scopes.discard(scope)

    def _drop(self, peer_id: PeerId) -> None:
        link = self._links.get(peer_id)
        if link is not None:
            link.cut_all()

    def _stop(self) -> None:
        self._alive = False
        for peer_id in tuple(self._links):
            self._drop(peer_id)
        for scope in self._scopes:
            scope.cancel()


class _Link:
    """A connection of two nodes and its open streams."""

    def __init__(self, one: MemoryNetwork, other: MemoryNetwork) -> None:
        self.cut = False
        self.passable = trio.Event()
        self.passable.set()
        self._ends = (one, other)
        self._net = one._net
        self._streams: set[MemoryStream] = set()

    def other_of(self, node: MemoryNetwork) -> MemoryNetwork:
        return self._ends[1] if node is self._ends[0] else self._ends[0]

    def open_streams(self, opener: MemoryNetwork) -> tuple[MemoryStream, MemoryStream]:
        number = self._net._next_number()
        there = _Pipe(self._net, f"stream {number} there", self)
        back = _Pipe(self._net, f"stream {number} back", self)
        near = MemoryStream(self.other_of(opener).peer_id, there, back)
        far = MemoryStream(opener.peer_id, back, there)
        self._streams |= {near, far}
        return near, far

    async def stall(self, notice_s: float) -> None:
        self.passable = trio.Event()
        with trio.move_on_after(notice_s):
            await self.passable.wait()
            return
        self.cut_all()

    def go_on(self) -> None:
        self.passable.set()
        for stream in self._streams:
            stream.wake()

    def cut_all(self) -> None:
        self.cut = True
        self.passable.set()
        one, other = self._ends
        for node, peer in ((one, other), (other, one)):
            if node._links.get(peer.peer_id) is self:
                del node._links[peer.peer_id]
        for stream in self._streams:
            stream.cut()
        self._streams.clear()


class MemoryStream:
    """One end of a stream: a ``p2p.network.Stream``."""

    largest = FrameLimits(1 << 30, 1 << 30)

    def __init__(self, remote_peer_id: PeerId, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._remote_peer_id = remote_peer_id
        self._outgoing = outgoing
        self._incoming = incoming

    @property
    def remote_peer_id(self) -> PeerId:
        return self._remote_peer_id

    async def wait_turn(self) -> None:
        """Nobody is held back here."""

    def hold(self, size: int) -> None:
        """Everybody has room here."""

    async def send_all(self, data: bytes) -> None:
        await self._outgoing.send(data)

    def send_now(self, data: bytes) -> bool:
        return False

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._incoming.receive(max_bytes)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._outgoing.end()

    async def aclose(self) -> None:
        """As on the real network: what comes after is unwanted, and cut off."""
        self._outgoing.end()
        self._incoming.close()

    async def reset(self) -> None:
        self.cut()

    def wake(self) -> None:
        self._outgoing.wake()
        self._incoming.wake()

    def cut(self) -> None:
        """Resets what has not ended cleanly."""
        self._outgoing.reset()
        self._incoming.reset()


class _Pipe:
    """One direction of a stream: bytes, each with the moment from which it can be read."""

    def __init__(self, net: MemoryNet, purpose: str, link: _Link) -> None:
        self._net = net
        self._link = link
        self._draws = net._random(purpose)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._last_due = 0.0
        self._ended = self._closed = self._reset = False
        self._changed = trio.lowlevel.ParkingLot()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._draws.random() < self._net.loss:
            self._link.cut_all()
        view = memoryview(data)
        while view:
            while self._size >= _WINDOW_BYTES and self._can_send():
                await self._changed.park()
            if not self._can_send():
                raise StreamResetError("the stream was cut" if self._reset else "the stream is closed")
            chunk, view = bytes(view[:_CHUNK_BYTES]), view[_CHUNK_BYTES:]
            self._put(chunk)

    async def receive(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._reset or self._closed:
                raise StreamResetError("the stream was cut" if self._reset else "the stream is closed")
            if not self._queue or not self._link.passable.is_set():
                await self._changed.park()
                continue
            due, chunk = self._queue[0]
            if due > trio.current_time():
                await self._wait_until(due)
                continue
            return self._take(chunk, max_bytes)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._put(b"")

    def close(self) -> None:
        self._closed = True
        self._changed.unpark_all()

    def reset(self) -> None:
        if not (self._ended and self._closed):
            self._reset = True
        self._changed.unpark_all()

    def wake(self) -> None:
        self._changed.unpark_all()

    def _can_send(self) -> bool:
        return not (self._reset or self._ended or self._closed)

    def _put(self, chunk: bytes) -> None:
        due = trio.current_time() + self._draws.uniform(*self._net.latency_s)
        self._last_due = max(self._last_due, due)
        self._queue.append((self._last_due, chunk))
        self._size += len(chunk)
        self._changed.unpark_all()

    def _take(self, chunk: bytes, max_bytes: int) -> bytes:
        if not chunk:
            return b""  # the end; stays in the queue, so that it is read again
        due, _ = self._queue.popleft()
        if len(chunk) > max_bytes:
            self._queue.appendleft((due, chunk[max_bytes:]))
            chunk = chunk[:max_bytes]
        self._size -= len(chunk)
        self._changed.unpark_all()
        return chunk

    async def _wait_until(self, due: float) -> None:
        with trio.move_on_at(due):
            await self._changed.park()
