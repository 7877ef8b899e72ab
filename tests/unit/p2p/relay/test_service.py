"""The relay on the in-memory network: what it joins, what it refuses, where it cuts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.errors import ConnectionFailedError, P2PError, StreamResetError
from p2p.identity import Identity
from p2p.network import Stream
from p2p.relay.book import RelayLimits
from p2p.relay.circuit import answer_stop, open_circuit, reserve
from p2p.relay.messages import HOP_PROTOCOL, STOP_PROTOCOL, HopMessage, HopType, Status
from p2p.relay.service import RelayService
from p2p.relay.wire import read_message
from p2p.testing import MemoryNet, MemoryNetwork

pytestmark = pytest.mark.virtual_clock


class World:
    def __init__(self, net: MemoryNet, limits: RelayLimits) -> None:
        self.net = net
        self.relay = net.join(Identity.generate())
        self.peer = net.join(Identity.generate())
        self.engine = net.join(Identity.generate())
        self.service = RelayService(self.relay, limits, now=lambda: 1000.0)
        self.arrived, self._arrivals = trio.open_memory_channel[Stream](8)
        self.peer.set_handler(STOP_PROTOCOL, self._stop)

    async def _stop(self, stream: Stream) -> None:
        assert await answer_stop(stream, is_relay=True) == self.engine.peer_id
        await self.arrived.send(stream)
        await trio.sleep_forever()

    async def reserved(self) -> None:
        await self.peer.connect(self.relay.peer_id, self.relay.addresses())
        assert (await reserve(self.peer, self.relay.peer_id)).expires_at == 4600

    async def dial(self) -> Stream:
        return await open_circuit(self.engine, self.relay.peer_id, self.relay.addresses(), self.peer.peer_id)

    async def circuit(self) -> tuple[Stream, Stream]:
        near = await self.dial()
        return near, await self._arrivals.receive()


@asynccontextmanager
async def world(limits: RelayLimits | None = None) -> AsyncIterator[World]:
    async with MemoryNet(seed=3, latency_s=(0.01, 0.02)) as net:
        yield World(net, limits or RelayLimits())


async def read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more
        data += more
    return data


async def ask(network: MemoryNetwork, world: World, encoded: bytes) -> HopMessage:
    await network.connect(world.relay.peer_id, world.relay.addresses())
    stream = await network.open_stream(world.relay.peer_id, HOP_PROTOCOL)
    await stream.send_all(encoded)
    return await read_message(stream, HopMessage.decode, 5.0)


async def test_a_circuit_carries_bytes_and_ends_both_ways() -> None:
    async with world() as net:
        await net.reserved()
        near, far = await net.circuit()
        await near.send_all(b"question")
        assert await read_exactly(far, 8) == b"question"
        await near.send_eof()
        assert await far.receive_some() == b""
        await far.send_all(b"answer")
        assert await read_exactly(near, 6) == b"answer"
        await far.send_eof()
        assert await near.receive_some() == b""
        assert net.service.bytes_relayed == 14


async def test_a_reset_of_one_end_is_a_reset_of_the_other_and_frees_the_circuit() -> None:
    async with world() as net:
        await net.reserved()
        near, far = await net.circuit()
        assert net.service.status()["circuits"] == 1
        await far.reset()
        with pytest.raises(StreamResetError):
            await near.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert net.service.status()["circuits"] == 0


async def test_nobody_is_reached_without_a_reservation_or_after_it_left() -> None:
    async with world() as net:
        with pytest.raises(ConnectionFailedError, match="refuses to connect: no reservation"):
            await net.dial()
        await net.reserved()
        await net.peer.disconnect(net.relay.peer_id)
        with pytest.raises(ConnectionFailedError, match="no reservation"):
            await net.dial()
        assert net.service.status()["reserved"] == 0
        await net.reserved()
        await net.circuit()


async def test_a_target_that_refuses_or_is_silent_is_a_failed_connection() -> None:
    async with world() as net:
        await net.reserved()

        async def refuse(stream: Stream) -> None:
            with pytest.raises(P2PError):
                await answer_stop(stream, is_relay=False)

        async def silence(_: Stream) -> None:
            await trio.sleep_forever()

        for handler in (refuse, silence):
            net.peer.set_handler(STOP_PROTOCOL, handler)
            with pytest.raises(ConnectionFailedError, match="connection failed"):
                await net.dial()
        assert net.service.status()["circuits"] == 0


async def test_a_circuit_is_cut_at_its_bytes() -> None:
    async with world(RelayLimits(circuit_bytes=100_000)) as net:
        await net.reserved()
        near, far = await net.circuit()
        await near.send_all(bytes(60_000))
        await read_exactly(far, 60_000)
        await far.send_all(bytes(60_000))  # each way alone
        await read_exactly(near, 60_000)
        await near.send_all(bytes(60_000))
        with pytest.raises(StreamResetError):
            await read_exactly(far, 60_000)
        with pytest.raises(StreamResetError):
            await near.receive_some()


async def test_a_circuit_is_cut_at_its_seconds() -> None:
    async with world(RelayLimits(circuit_s=30.0)) as net:
        await net.reserved()
        near, _ = await net.circuit()
        began = trio.current_time()
        with pytest.raises(StreamResetError):
            await near.receive_some()
        assert 29 < trio.current_time() - began < 31


@pytest.mark.parametrize("limits", [RelayLimits(bytes_per_s=10_000), RelayLimits(bytes_per_s_of_all=10_000)])
async def test_a_circuit_is_no_faster_than_allowed(limits: RelayLimits) -> None:
    async with world(limits) as net:
        await net.reserved()
        near, far = await net.circuit()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(100_000))
            await read_exactly(far, 100_000)
        assert 6 < trio.current_time() - began < 11


async def test_a_slow_end_holds_back_the_other_within_fixed_memory() -> None:
    async with world() as net:
        await net.reserved()
        near, _ = await net.circuit()
        sent = 0
        with trio.move_on_after(60):
            while True:
                await near.send_all(bytes(32 * 1024))
                sent += 32 * 1024
        assert sent <= 2 * 256 * 1024 + 2 * 65536  # the windows of the two streams


async def test_one_address_and_one_peer_take_no_more_than_their_share() -> None:
    async with world(RelayLimits(circuits_per_peer=2, reservations=1)) as net:
        await net.reserved()
        other = net.net.join(Identity.generate())
        answer = await ask(other, net, HopMessage(HopType.RESERVE).encode())
        assert answer.status == Status.RESERVATION_REFUSED
        for _ in range(2):
            await net.circuit()
        with pytest.raises(ConnectionFailedError, match="resource limit exceeded"):
            await net.dial()


async def test_a_caller_that_asks_too_often_is_told_so() -> None:
    async with world() as net:
        request = HopMessage(HopType.CONNECT, net.peer.peer_id).encode()
        answers = [(await ask(net.engine, net, request)).status for _ in range(60)]
        assert answers[:30] == [Status.NO_RESERVATION] * 30
        assert answers.count(Status.RESOURCE_LIMIT_EXCEEDED) > 20


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        (HopMessage(HopType.STATUS).encode(), Status.UNEXPECTED_MESSAGE),
        (HopMessage(HopType.CONNECT).encode(), Status.UNEXPECTED_MESSAGE),
        (b"\x02\x08\x09", Status.MALFORMED_MESSAGE),
        (b"\xff\xff\x7f", Status.MALFORMED_MESSAGE),
    ],
)
async def test_what_is_no_request_is_told_so(encoded: bytes, status: Status) -> None:
    async with world() as net:
        assert (await ask(net.engine, net, encoded)).status == status


async def test_a_caller_that_says_nothing_is_given_up() -> None:
    async with world() as net:
        await net.engine.connect(net.relay.peer_id, net.relay.addresses())
        stream = await net.engine.open_stream(net.relay.peer_id, HOP_PROTOCOL)
        with pytest.raises(StreamResetError):
            await stream.receive_some()
