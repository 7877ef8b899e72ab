"""The in-memory network has the manners of the real one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from p2p.errors import ConnectionFailedError, DeadlineError, StreamResetError
from p2p.identity import Identity
from p2p.network import Network, Stream
from p2p.testing import MemoryNet

pytestmark = pytest.mark.virtual_clock


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def open_to(
    net: MemoryNet, handler: Callable[[Stream], Awaitable[None]]
) -> tuple[Network, Network, Stream]:
    server, caller = net.join(Identity.generate()), net.join(Identity.generate())
    server.set_handler("/test/1", handler)
    await caller.connect(server.peer_id, server.addresses())
    return server, caller, await caller.open_stream(server.peer_id, "/test/1")


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive_some():
        parts.append(data)
    return b"".join(parts)


async def test_bytes_arrive_whole_and_the_end_is_clean() -> None:
    async with MemoryNet() as net:
        _, _, stream = await open_to(net, echo)
        data = bytes(range(256)) * 4000
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            nursery.start_soon(send)
            assert await read_all(stream) == data


async def test_a_sender_waits_for_its_reader() -> None:
    async def read_late(stream: Stream) -> None:
        await trio.sleep(10)
        await read_all(stream)

    async with MemoryNet() as net:
        _, _, stream = await open_to(net, read_late)
        await stream.send_all(bytes(1 << 20))
        assert trio.current_time() == pytest.approx(10)


async def test_a_handler_that_raises_resets_its_stream_only() -> None:
    async def fail(stream: Stream) -> None:
        if await stream.receive_some() == b"fail":
            raise ValueError("broken")
        await stream.send_all(b"fine")

    async with MemoryNet() as net:
        server, caller, stream = await open_to(net, fail)
        await stream.send_all(b"fail")
        with pytest.raises(StreamResetError):
            await read_all(stream)
        again = await caller.open_stream(server.peer_id, "/test/1")
        await again.send_all(b"work")
        assert await read_all(again) == b"fine"


async def test_a_crash_resets_streams_and_a_new_node_has_a_new_address() -> None:
    async with MemoryNet() as net:
        identity = Identity.generate()
        server = net.join(identity)
        server.set_handler("/test/1", echo)
        caller = net.join(Identity.generate())
        old = server.addresses()
        await caller.connect(server.peer_id, old)
        stream = await caller.open_stream(server.peer_id, "/test/1")
        net.crash(server)
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        assert not caller.is_connected(server.peer_id)
        again = net.join(identity)
        with pytest.raises(ConnectionFailedError, match="nobody answers"):
            await caller.connect(again.peer_id, old)
        await caller.connect(again.peer_id, again.addresses())


async def test_a_partition_cuts_and_a_heal_lets_through_again() -> None:
    async with MemoryNet() as net:
        server, caller, stream = await open_to(net, echo)
        net.partition(server.peer_id, caller.peer_id)
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        with pytest.raises(ConnectionFailedError):
            await caller.connect(server.peer_id, server.addresses())
        net.heal(server.peer_id, caller.peer_id)
        await caller.connect(server.peer_id, server.addresses())


async def story(seed: int) -> list[float]:
    times = []
    async with MemoryNet(seed, latency_s=(0.01, 0.5), loss=0.05) as net:
        _, _, stream = await open_to(net, echo)
        try:
            for _ in range(100):
                await stream.send_all(b"ping")
                await stream.receive_some()
                times.append(trio.current_time())
        except StreamResetError:
            times.append(-1.0)
    return times


def test_one_seed_tells_one_story() -> None:
    def run(seed: int) -> list[float]:
        return trio.run(story, seed, clock=trio.testing.MockClock(autojump_threshold=0))

    assert run(1) == run(1)
    assert run(1) != run(2)


async def test_the_side_that_accepted_can_open_streams_back() -> None:
    async with MemoryNet() as net:
        server, caller, _ = await open_to(net, echo)
        caller.set_handler("/back/1", echo)
        back = await server.open_stream(caller.peer_id, "/back/1")
        await back.send_all(b"hello")
        assert await back.receive_some() == b"hello"


async def test_a_protocol_nobody_speaks_is_refused() -> None:
    async with MemoryNet() as net:
        server, caller, _ = await open_to(net, echo)
        with pytest.raises(ConnectionFailedError, match="does not speak /other/1"):
            await caller.open_stream(server.peer_id, "/other/1")


async def joined(net: MemoryNet) -> tuple[Network, Network, Stream, Stream]:
    """Two nodes and the two ends of a stream between them."""
    ends, arrived = trio.open_memory_channel[Stream](1)

    async def keep(stream: Stream) -> None:
        await ends.send(stream)
        await trio.sleep_forever()

    other, one, near = await open_to(net, keep)
    return one, other, near, await arrived.receive()


async def test_a_cut_that_heals_in_time_only_delays() -> None:
    async with MemoryNet() as net:
        one, other, near, far = await joined(net)
        net.cut(one.peer_id, other.peer_id, notice_s=10.0)
        await near.send_all(b"late")
        with trio.move_on_after(9) as scope:
            await far.receive_some()
        assert scope.cancelled_caught
        net.heal(one.peer_id, other.peer_id)
        assert await far.receive_some() == b"late"
        assert one.is_connected(other.peer_id)


async def test_a_cut_is_noticed_late_and_dialing_waits_in_vain_until_it_heals() -> None:
    async with MemoryNet() as net:
        one, other, near, far = await joined(net)
        net.cut(one.peer_id, other.peer_id, notice_s=2.0)
        began = trio.current_time()
        for stream in (near, far):
            with pytest.raises(StreamResetError):
                await stream.receive_some()
        assert trio.current_time() - began == 2.0
        with pytest.raises(DeadlineError):
            await one.connect(other.peer_id, other.addresses(), timeout_s=5.0)
        assert trio.current_time() - began == 7.0
        net.heal(one.peer_id, other.peer_id)
        await one.connect(other.peer_id, other.addresses())
