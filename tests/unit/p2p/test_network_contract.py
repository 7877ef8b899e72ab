"""What ``p2p.network`` promises, asked of the real host and of the in-memory network alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.errors import ConnectionFailedError, StreamResetError
from p2p.host import open_host
from p2p.identity import Identity, verify
from p2p.network import Network, Stream, StreamHandler
from p2p.testing import MemoryNet

pytestmark = pytest.mark.parametrize("kind", ["host", "memory"])

PROTOCOL = "/test/1"


@asynccontextmanager
async def two_networks(kind: str) -> AsyncIterator[tuple[Network, Network]]:
    if kind == "memory":
        async with MemoryNet() as net:
            yield net.join(Identity.generate()), net.join(Identity.generate())
        return
    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with open_host(Identity.generate(), listen) as one, open_host(Identity.generate(), listen) as other:
        yield one, other


@asynccontextmanager
async def stream_to(kind: str, handler: StreamHandler) -> AsyncIterator[Stream]:
    async with two_networks(kind) as (server, caller):
        server.set_handler(PROTOCOL, handler)
        await caller.connect(server.peer_id, server.addresses())
        yield await caller.open_stream(server.peer_id, PROTOCOL)


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive_some():
        parts.append(data)
    return b"".join(parts)


async def test_a_stream_knows_who_is_at_its_other_end(kind: str) -> None:
    async with two_networks(kind) as (server, caller):
        seen, who = trio.open_memory_channel[str](1)

        async def tell(stream: Stream) -> None:
            await seen.send(stream.remote_peer_id)

        server.set_handler(PROTOCOL, tell)
        await caller.connect(server.peer_id, server.addresses())
        stream = await caller.open_stream(server.peer_id, PROTOCOL)
        assert stream.remote_peer_id == server.peer_id
        assert await who.receive() == caller.peer_id


async def test_one_direction_may_end_before_the_other(kind: str) -> None:
    async def answer_at_the_end(stream: Stream) -> None:
        await stream.send_all((await read_all(stream))[::-1])

    async with stream_to(kind, answer_at_the_end) as stream:
        await stream.send_all(b"question")
        await stream.send_eof()
        with pytest.raises(StreamResetError):
            await stream.send_all(b"more")
        assert await read_all(stream) == b"noitseuq"
        assert await stream.receive_some() == b""


async def test_a_handler_that_raises_is_a_reset_and_one_that_returns_an_end(kind: str) -> None:
    async def raise_if_told(stream: Stream) -> None:
        if await stream.receive_some() == b"raise":
            raise ValueError("told to")

    async with stream_to(kind, raise_if_told) as stream:
        await stream.send_all(b"return")
        assert await stream.receive_some() == b""
    async with stream_to(kind, raise_if_told) as stream:
        await stream.send_all(b"raise")
        with pytest.raises(StreamResetError):
            await stream.receive_some()


async def test_a_reset_is_seen_by_a_reader_and_by_a_writer(kind: str) -> None:
    async def reset(stream: Stream) -> None:
        await stream.receive_some()
        await stream.reset()

    async with stream_to(kind, reset) as stream:
        await stream.send_all(b"x")
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        with pytest.raises(StreamResetError):
            await stream.send_all(b"x")
        await stream.aclose()
        await stream.reset()


async def test_closing_early_resets_the_sender_and_keeps_the_answer(kind: str) -> None:
    async def enough(stream: Stream) -> None:
        await stream.send_all(b"enough")

    async with stream_to(kind, enough) as stream:
        with pytest.raises(StreamResetError):
            await stream.send_all(bytes(50_000_000))
        assert await read_all(stream) == b"enough"


async def test_a_sender_is_held_back_by_its_reader(kind: str) -> None:
    let_go = trio.Event()

    async def wait_first(stream: Stream) -> None:
        await let_go.wait()
        await stream.send_all(str(len(await read_all(stream))).encode())

    async with stream_to(kind, wait_first) as stream:
        with trio.move_on_after(0.2) as scope:
            await stream.send_all(bytes(50_000_000))
        assert scope.cancelled_caught
        let_go.set()
        await stream.send_eof()
        assert 0 < int(await read_all(stream)) < 50_000_000


async def test_connecting_again_changes_nothing_and_disconnecting_cuts_streams(kind: str) -> None:
    async def wait(stream: Stream) -> None:
        await stream.receive_some()

    async with two_networks(kind) as (server, caller):
        server.set_handler(PROTOCOL, wait)
        assert not caller.is_connected(server.peer_id)
        for _ in range(2):
            await caller.connect(server.peer_id, server.addresses())
        stream = await caller.open_stream(server.peer_id, PROTOCOL)
        assert server.is_connected(caller.peer_id)
        await caller.disconnect(server.peer_id)
        assert not caller.is_connected(server.peer_id)
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        await caller.disconnect(server.peer_id)


async def test_what_cannot_be_reached_is_an_error_that_says_so(kind: str) -> None:
    async with two_networks(kind) as (server, caller):
        with pytest.raises(ConnectionFailedError, match="not connected"):
            await caller.open_stream(server.peer_id, PROTOCOL)
        with pytest.raises(ConnectionFailedError):
            await caller.connect(server.peer_id, [])
        await caller.connect(server.peer_id, server.addresses())
        with pytest.raises(ConnectionFailedError, match=PROTOCOL):
            await caller.open_stream(server.peer_id, PROTOCOL)


async def test_signatures_are_those_of_the_identity(kind: str) -> None:
    async with two_networks(kind) as (server, _):
        assert verify(server.peer_id, b"data", server.sign(b"data"))


async def test_many_streams_work_at_once_in_both_directions(kind: str) -> None:
    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    async with two_networks(kind) as (server, caller):
        server.set_handler(PROTOCOL, echo)
        caller.set_handler(PROTOCOL, echo)
        await caller.connect(server.peer_id, server.addresses())

        async def exchange(network: Network, peer: Network, number: int) -> None:
            stream = await network.open_stream(peer.peer_id, PROTOCOL)
            data = number.to_bytes(2, "big") * 50_000

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await read_all(stream) == data

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(exchange, caller, server, number)
                    nursery.start_soon(exchange, server, caller, number)
