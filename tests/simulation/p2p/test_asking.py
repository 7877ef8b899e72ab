"""Calls to a model at a peer that may answer anything: what a caller takes, and what it makes of the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2p.channel import Channel
from p2p.errors import RemoteFailureError, RemoteProtocolError, StreamResetError
from p2p.identity import Identity
from p2p.network import Stream
from p2p.protocols import Done, Failure, Request, Response
from p2p.protocols.inference import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    AnswerBegun,
    AnswerEnded,
    AnswerPart,
    Ask,
    StatusOf,
)
from p2p.session.asking import CallStreams
from p2p.testing import MemoryNet

JOB = "ab" * 32
ASK = Ask(JOB, "GET", "/health", "")
BEGUN = AnswerBegun(200, "text/plain")
Said = tuple[tuple[Any, bytes], ...]


class Peer:
    """Says ``said`` to each call, and counts its streams."""

    def __init__(self, said: Said, number: int = 1) -> None:
        self.streams = 0
        self.was_called, self.was_reset = trio.Event(), trio.Event()
        self._said = said
        self._number = number

    async def handle(self, stream: Stream) -> None:
        self.streams += 1
        channel: Channel[Response[Any], Request[Any]] = Channel(stream, RESPONSES, REQUESTS, LIMITS)
        try:
            while True:
                await channel.receive()
                self.was_called.set()
                for answer, body in self._said:
                    await channel.send(Response(self._number, answer), body)
        except StreamResetError:
            self.was_reset.set()
            raise


@asynccontextmanager
async def calling(peer: Peer) -> AsyncIterator[CallStreams]:
    with trio.fail_after(10):
        async with MemoryNet() as net:
            ours, theirs = net.join(Identity.generate()), net.join(Identity.generate())
            theirs.set_handler(PROTOCOL_ID, peer.handle)
            await ours.connect(theirs.peer_id, theirs.addresses())
            yield CallStreams(ours, theirs.peer_id)


async def read(streams: CallStreams) -> bytes:
    answer = await streams.begin(ASK, b"")
    try:
        return await answer.read(limit=100)
    finally:
        await streams.end(answer)


async def test_one_stream_serves_one_call_after_the_other() -> None:
    peer = Peer(((BEGUN, b"ab"), (AnswerPart(), b"c"), (AnswerEnded(3), b"")))
    async with calling(peer) as streams:
        for _ in range(3):
            assert await read(streams) == b"abc"
        assert peer.streams == 1


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (((BEGUN, b"ab"), (AnswerEnded(3), b"")), "answer of 2 bytes, announced 3"),
        (((BEGUN, b""), (Done(), b"")), "Done of 0 bytes within an answer"),
        (((BEGUN, b""), (AnswerPart(), b"")), "AnswerPart of 0 bytes within"),
        (((BEGUN, b"x" * 101), (AnswerEnded(101), b"")), "more than 100 bytes"),
        (((Done(), b""),), "Done to Ask"),
    ],
)
async def test_an_answer_that_contradicts_itself_is_refused(said: Said, says: str) -> None:
    peer = Peer(said)
    async with calling(peer) as streams:
        with pytest.raises(RemoteProtocolError, match=says):
            await read(streams)
        await peer.was_reset.wait()


async def test_the_answer_to_another_call_is_refused() -> None:
    async with calling(Peer(((Done(), b""),), number=2)) as streams:
        with pytest.raises(RemoteProtocolError, match="answer to call 2"):
            await streams.call(StatusOf(JOB))


async def test_a_failure_leaves_the_stream_good() -> None:
    peer = Peer(((BEGUN, b"ab"), (Failure("internal", "died"), b"")))
    async with calling(peer) as streams:
        for _ in range(2):
            with pytest.raises(RemoteFailureError, match="died"):
                await read(streams)
        assert peer.streams == 1


async def left_while_reading(streams: CallStreams, peer: Peer) -> None:
    answer = await streams.begin(ASK, b"")
    await streams.end(answer)


async def cancelled_while_waiting(streams: CallStreams, peer: Peer) -> None:
    peer.was_called = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.call, StatusOf(JOB))
        await peer.was_called.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("said", "leave"), [(((BEGUN, b"ab"),), left_while_reading), ((), cancelled_while_waiting)]
)
async def test_leaving_resets_the_stream_and_the_next_call_gets_another(
    said: Said, leave: Callable[[CallStreams, Peer], Any]
) -> None:
    peer = Peer(said)
    async with calling(peer) as streams:
        await leave(streams, peer)
        await peer.was_reset.wait()
        await leave(streams, peer)
        assert peer.streams == 2
