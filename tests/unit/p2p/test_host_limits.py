"""A hostile client on a real host: what it takes too much of it is refused, and others notice nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2p.client import open_client
from p2p.codec import Codec, Message
from p2p.errors import ConnectionFailedError, DeadlineError, P2PError, RemoteProtocolError, StreamResetError
from p2p.framing import HEADER, FrameLimits
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.limits import HostLimits
from p2p.network import Network, Stream
from p2p.protocols import Request, Response
from p2p.router import serve_calls

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
HOSTILE_IP = "127.0.0.2"
PROTOCOL = "/test/calls/1"
FRAMES = FrameLimits(1 << 20, 1 << 20)


class Say(Message, frozen=True):
    text: str


REQUESTS: Codec[Request[Say]] = Codec(Request[Say])
RESPONSES: Codec[Response[Say]] = Codec(Response[Say])


async def repeat(_: PeerId, call: Say, body: bytes) -> tuple[Say, bytes]:
    return call, body


@asynccontextmanager
async def serving(limits: HostLimits) -> AsyncIterator[Network]:
    async with open_host(Identity.generate(), LOOPBACK, limits) as server:
        serve_calls(server, PROTOCOL, REQUESTS, RESPONSES, FRAMES, repeat)
        yield server


@asynccontextmanager
async def calling(server: Network, identity: Identity | None = None):
    async with open_host(identity or Identity.generate(), []) as caller:
        await caller.connect(server.peer_id, server.addresses())
        async with open_client(caller, server.peer_id, PROTOCOL, REQUESTS, RESPONSES, FRAMES) as client:
            yield client


async def is_well(server: Network) -> None:
    """An honest stranger is served."""
    async with calling(server) as client:
        answer, _ = await client.call(Say("hello"), timeout_s=60)
        assert answer == Say("hello")


async def knock(server: Network) -> trio.SocketStream:
    """A bare connection from the hostile address, with nothing said on it."""
    port = int(server.addresses()[0].split("/")[4])
    sock = trio.socket.socket()
    await sock.bind((HOSTILE_IP, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def is_turned_away(stream: trio.SocketStream) -> bool:
    """Whether the server hangs up; one that listens waits for the first word."""
    with trio.move_on_after(5):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True
    return False


async def test_connections_that_say_nothing_fill_only_their_own_address() -> None:
    async with serving(HostLimits(connections_per_address=3)) as server, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(await knock(server))
        fourth = await stack.enter_async_context(await knock(server))
        assert await is_turned_away(fourth)
        await is_well(server)


async def test_handshakes_that_go_nowhere_take_only_the_share_of_their_address() -> None:
    limits = HostLimits(handshakes=4, handshakes_per_address=3)
    async with serving(limits) as server, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(await knock(server))
        fourth = await stack.enter_async_context(await knock(server))
        assert await is_turned_away(fourth)
        await is_well(server)


async def test_a_storm_of_short_connections_is_shut_out() -> None:
    limits = HostLimits(connections_per_address=8, attempts_per_s=0.001)
    async with serving(limits) as server:
        for _ in range(8):
            await (await knock(server)).aclose()
        async with await knock(server) as late:
            assert await is_turned_away(late)
        await is_well(server)


async def test_streams_are_counted_over_all_connections_of_a_peer() -> None:
    identity = Identity.generate()
    opened: list[Stream] = []

    async def hold(stream: Stream) -> None:
        await stream.receive_some()

    async with serving(HostLimits(streams_per_peer=6)) as server, AsyncExitStack() as stack:
        server.set_handler("/test/hold", hold)
        for _ in range(2):
            caller = await stack.enter_async_context(open_host(identity, []))
            await caller.connect(server.peer_id, server.addresses())
            for _ in range(3):
                opened.append(await caller.open_stream(server.peer_id, "/test/hold", timeout_s=60))
        with pytest.raises(ConnectionFailedError):
            await caller.open_stream(server.peer_id, "/test/hold", timeout_s=60)
        await is_well(server)
        await opened[0].reset()
        with trio.fail_after(60):
            while True:
                try:
                    await caller.open_stream(server.peer_id, "/test/hold", timeout_s=60)
                    break
                except ConnectionFailedError:
                    await trio.lowlevel.checkpoint()


async def test_unread_bytes_are_counted_over_all_connections_of_a_peer() -> None:
    identity, reading = Identity.generate(), trio.Event()

    async def ignore(stream: Stream) -> None:
        await reading.wait()

    async with serving(HostLimits(unread_per_peer=400_000)) as server, AsyncExitStack() as stack:
        server.set_handler("/test/ignore", ignore)
        streams = []
        for _ in range(2):
            caller = await stack.enter_async_context(open_host(identity, []))
            await caller.connect(server.peer_id, server.addresses())
            streams.append(await caller.open_stream(server.peer_id, "/test/ignore", timeout_s=60))
        for stream in streams:
            await stream.send_all(bytes(250_000))
        cut = 0
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def wait_for_the_cut(stream: Stream) -> None:
                    nonlocal cut
                    with pytest.raises(StreamResetError):
                        await stream.receive_some()
                    cut += 1
                    nursery.cancel_scope.cancel()

                for stream in streams:
                    nursery.start_soon(wait_for_the_cut, stream)
        assert cut == 1
        await is_well(server)
        reading.set()


async def test_messages_that_never_arrive_whole_are_counted_over_all_streams_of_a_peer() -> None:
    """Read is not the same as done with: each stream may hold back the last byte of a large message."""
    limits = HostLimits(unfinished_per_peer=1_000_000, unread_per_peer=10_000_000)
    begun = HEADER.pack(10, FRAMES.body_bytes) + bytes(400_000)
    async with serving(limits) as server, open_host(Identity.generate(), []) as caller:
        await caller.connect(server.peer_id, server.addresses())
        streams = [await caller.open_stream(server.peer_id, PROTOCOL, timeout_s=60) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            cut: list[Stream] = []

            async def begin(stream: Stream) -> None:
                with pytest.raises(StreamResetError):
                    await stream.send_all(begun)
                    await stream.receive_some()
                cut.append(stream)
                nursery.cancel_scope.cancel()

            for stream in streams:
                nursery.start_soon(begin, stream)
        assert len(cut) == 1
        await is_well(server)
        for stream in streams:
            await stream.reset()
        # What was held is given back with its stream, and what is whole is held no longer.
        async with open_client(caller, server.peer_id, PROTOCOL, REQUESTS, RESPONSES, FRAMES) as client:
            for _ in range(4):
                _, body = await client.call(Say("large"), bytes(900_000), timeout_s=60)
                assert len(body) == 900_000


@pytest.mark.parametrize(("message", "body"), [(20_000, 0), (10, 20_000)])
async def test_a_message_over_the_programs_limit_costs_its_stream(message: int, body: int) -> None:
    async with serving(HostLimits(message=10_000, body=10_000)) as server, calling(server) as client:
        with pytest.raises(StreamResetError):
            await client.call(Say("x" * message), bytes(body), timeout_s=60)
        answer, _ = await client.call(Say("short"), timeout_s=60)
        assert answer == Say("short")
        await is_well(server)


async def test_a_peer_that_calls_without_end_holds_up_nobody_else() -> None:
    rate = 50.0
    limits = HostLimits(messages_per_s=rate, messages_per_s_per_address=10_000.0)
    async with serving(limits) as server, calling(server) as hostile, trio.open_nursery() as nursery:
        answered, began = 0, trio.current_time()

        async def flood() -> None:
            nonlocal answered
            while True:
                await hostile.call(Say("again"), timeout_s=60)
                answered += 1

        for _ in range(20):
            nursery.start_soon(flood)
        async with calling(server) as honest:
            for number in range(90):
                answer, _ = await honest.call(Say(str(number)), timeout_s=60)
                assert answer == Say(str(number))
        assert answered <= 2 * rate + rate * (trio.current_time() - began) + 1
        nursery.cancel_scope.cancel()


async def test_a_caller_that_breaks_the_protocol_again_and_again_harms_nobody() -> None:
    async with serving(HostLimits()) as server, open_host(Identity.generate(), []) as caller:
        await caller.connect(server.peer_id, server.addresses())
        for garbage in (b"\xff" * 64, b"\0\0\0\x04\0\0\0\0\xc1\xc1\xc1\xc1", b"\0\0\0\0\0\0\0\0"):
            stream = await caller.open_stream(server.peer_id, PROTOCOL, timeout_s=60)
            await stream.send_all(garbage)
            with trio.fail_after(60), pytest.raises((StreamResetError, RemoteProtocolError, P2PError)):
                while await stream.receive_some():
                    pass
                raise P2PError("closed")
        await is_well(server)


async def test_streams_opened_too_fast_wait_and_those_of_others_do_not() -> None:
    async with (
        serving(HostLimits(messages_per_s=0.5)) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        await caller.connect(server.peer_id, server.addresses())
        await caller.open_stream(server.peer_id, PROTOCOL)
        with pytest.raises(DeadlineError):
            await caller.open_stream(server.peer_id, PROTOCOL, timeout_s=0.2)
        async with open_host(Identity.generate(), []) as other:
            await other.connect(server.peer_id, server.addresses())
            await other.open_stream(server.peer_id, PROTOCOL)
