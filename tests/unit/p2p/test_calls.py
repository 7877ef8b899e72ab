"""Channel, router and client together, over the in-memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from p2p.channel import Channel
from p2p.client import CallClient, open_client
from p2p.codec import Codec, Message
from p2p.errors import (
    DeadlineError,
    FrameTooLargeError,
    LocalProtocolError,
    RemoteFailureError,
    StreamClosedError,
    StreamResetError,
)
from p2p.framing import FrameLimits
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Stream
from p2p.protocols import Done, Failure, Request, Response
from p2p.router import BodyRoom, Told, serve_calls
from p2p.testing import MemoryNet, MemoryNetwork

PROTOCOL = "/test/echo/1"
LIMITS = FrameLimits(message_bytes=1000, body_bytes=100_000)


class Echo(Message, frozen=True):
    text: str
    wait_s: float = 0.0


class Refuse(Message, frozen=True):
    code: str


class Break(Message, frozen=True):
    pass


Call = Echo | Refuse | Break
REQUESTS: Codec[Request[Call]] = Codec(Request[Call])
RESPONSES: Codec[Response[Echo | Done | Failure]] = Codec(Response[Echo | Done | Failure])


async def answer(caller: PeerId, call: Call, body: bytes) -> Any:
    match call:
        case Echo():
            await trio.sleep(call.wait_s)
            return call, body
        case Refuse():
            async with trio.open_nursery():
                raise RemoteFailureError(call.code, "because")
    raise RuntimeError("secret detail")


@asynccontextmanager
async def echo_service(
    **options: Any,
) -> AsyncIterator[tuple[CallClient[Any, Any], MemoryNet, MemoryNetwork]]:
    async with MemoryNet(seed=1) as net:
        server, caller = net.join(Identity.generate()), net.join(Identity.generate())
        serve_calls(server, PROTOCOL, REQUESTS, RESPONSES, LIMITS, answer, **options)
        async with open_client(
            caller, server.peer_id, PROTOCOL, REQUESTS, RESPONSES, LIMITS, addresses=server.addresses()
        ) as client:
            yield client, net, server


@pytest.mark.virtual_clock
async def test_a_call_returns_answer_and_body() -> None:
    async with echo_service() as (client, _, _):
        assert await client.call(Echo("hello"), b"bytes") == (Echo("hello"), b"bytes")


@pytest.mark.virtual_clock
async def test_answers_come_back_in_any_order() -> None:
    async with echo_service() as (client, _, _):
        finished = []

        async def call(text: str, wait_s: float) -> None:
            await client.call(Echo(text, wait_s))
            finished.append(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "slow", 2.0)
            nursery.start_soon(call, "fast", 1.0)
        assert finished == ["fast", "slow"]


@pytest.mark.virtual_clock
async def test_a_stream_runs_no_more_calls_at_once_than_allowed() -> None:
    async with echo_service(max_in_flight=2) as (client, _, _):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.call, Echo("x", 1.0))
        assert trio.current_time() - start == pytest.approx(3.0)


@pytest.mark.virtual_clock
async def test_bodies_of_strangers_and_more_than_there_is_room_for_are_cut_off() -> None:
    known: set[PeerId] = set()
    room = BodyRoom(known.__contains__, of_caller=250, small=10)
    async with echo_service(room=room) as (client, net, server):
        assert await client.call(Echo("x"), b"x" * 10) == (Echo("x"), b"x" * 10)
        with pytest.raises(StreamResetError):
            await client.call(Echo("x"), b"x" * 11)
        stranger = net.join(Identity.generate())
        await stranger.connect(server.peer_id, server.addresses())
        stream = await stranger.open_stream(server.peer_id, PROTOCOL)
        known.add(stranger.peer_id)
        channel: Channel[Any, Any] = Channel(stream, REQUESTS, RESPONSES, LIMITS)
        for number in range(5):  # one after the other there is room for each
            await channel.send(Request(number, Echo("x")), b"x" * 200)
            assert (await channel.receive())[1] == b"x" * 200
        await channel.send(Request(6, Echo("x", 1.0)), b"x" * 200)
        await channel.send(Request(7, Echo("x")), b"x" * 200)
        with pytest.raises(StreamResetError):
            await channel.receive()
        stream = await stranger.open_stream(server.peer_id, PROTOCOL)
        channel = Channel(stream, REQUESTS, RESPONSES, LIMITS)
        await channel.send(Request(8, Echo("x")), b"x" * 200)  # what was cut off takes up nothing
        assert (await channel.receive())[1] == b"x" * 200


@pytest.mark.virtual_clock
async def test_a_refusal_names_its_code_also_from_inside_a_nursery() -> None:
    async with echo_service() as (client, _, _):
        with pytest.raises(RemoteFailureError, match="refused: because") as caught:
            await client.call(Refuse("refused"))
        assert caught.value.code == "refused"


@pytest.mark.virtual_clock
async def test_a_handler_that_breaks_fails_its_call_only_and_tells_no_detail() -> None:
    async with echo_service() as (client, _, _):
        with pytest.raises(RemoteFailureError, match="internal: Break failed: RuntimeError") as caught:
            await client.call(Break())
        assert "secret detail" not in str(caught.value)
        await client.call(Echo("still here"))


@pytest.mark.virtual_clock
async def test_a_late_answer_is_a_deadline_error_and_harms_no_other_call() -> None:
    async with echo_service() as (client, _, _):
        with pytest.raises(DeadlineError, match=r"Echo to .* within 1 s"):
            await client.call(Echo("slow", 5.0), timeout_s=1.0)
        assert (await client.call(Echo("next", 6.0)))[0] == Echo("next", 6.0)


@pytest.mark.virtual_clock
async def test_calls_in_flight_fail_when_the_peer_dies_and_the_next_call_reconnects() -> None:
    async with echo_service() as (client, net, server):

        async def crash() -> None:
            await trio.sleep(1.0)
            net.crash(server)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            with pytest.raises(StreamResetError):
                await client.call(Echo("lost", 5.0))
        again = net.join(server._identity)
        serve_calls(again, PROTOCOL, REQUESTS, RESPONSES, LIMITS, answer)
        client.addresses = again.addresses()
        assert (await client.call(Echo("back")))[0] == Echo("back")


@pytest.mark.virtual_clock
async def test_what_is_over_the_limits_is_refused_on_either_side() -> None:
    async with echo_service() as (client, _, _):
        with pytest.raises(LocalProtocolError, match="body of 100001 bytes, limit 100000"):
            await client.call(Echo("big"), bytes(100_001))
        await client.call(Echo("fits"), bytes(100_000))


@pytest.mark.virtual_clock
async def test_an_unknown_call_is_refused_by_its_number() -> None:
    class Unknown(Message, frozen=True):
        text: str

    async with echo_service() as (client, net, server):
        await client.call(Echo("connected"))
        caller = next(node for node in net._nodes.values() if node is not server)
        stream = await caller.open_stream(server.peer_id, PROTOCOL)
        codec: Codec[Any] = Codec(Any)
        channel: Channel[Any, Any] = Channel(stream, codec, RESPONSES, LIMITS)
        await channel.send(Request(7, Unknown("?")))
        response, _ = await channel.receive(1.0)
        assert response.id == 7
        assert response.answer.code == "invalid"


@asynccontextmanager
async def two_channels() -> AsyncIterator[tuple[Channel[Any, Any], Channel[Any, Any], Stream]]:
    """Both ends of one stream, and the raw stream of the first."""
    codec: Codec[Any] = Codec(Any)
    async with MemoryNet() as net:
        one, other = net.join(Identity.generate()), net.join(Identity.generate())
        ready, arrived = trio.open_memory_channel[Stream](1)

        async def accept(stream: Stream) -> None:
            await ready.send(stream)
            await trio.sleep_forever()

        other.set_handler("/test/1", accept)
        await one.connect(other.peer_id, other.addresses())
        near = await one.open_stream(other.peer_id, "/test/1")
        far = await arrived.receive()
        yield Channel(near, codec, codec, LIMITS), Channel(far, codec, codec, LIMITS), near


@pytest.mark.virtual_clock
async def test_a_clean_end_and_a_reset_are_different_errors() -> None:
    async with two_channels() as (near, far, _):
        await near.send("last")
        await near.aclose()
        assert await far.receive() == ("last", b"")
        with pytest.raises(StreamClosedError):
            await far.receive()
    async with two_channels() as (near, far, _):
        await near.reset()
        with pytest.raises(StreamResetError):
            await far.receive()


@pytest.mark.virtual_clock
async def test_an_end_inside_a_frame_is_a_reset() -> None:
    async with two_channels() as (near, far, raw):
        await raw.send_all(near.encode("cut in two")[:-1])
        await raw.send_eof()
        with pytest.raises(StreamResetError, match="inside a frame"):
            await far.receive()


@pytest.mark.virtual_clock
async def test_a_cancelled_receive_loses_nothing() -> None:
    async with two_channels() as (near, far, raw):
        frame = near.encode("whole", b"body")
        for cut in range(len(frame) - 1):
            await raw.send_all(frame[cut : cut + 1])
            with pytest.raises(DeadlineError):
                await far.receive(0.1)
        await raw.send_all(frame[-1:])
        assert await far.receive(0.1) == ("whole", b"body")


@pytest.mark.virtual_clock
async def test_a_send_that_times_out_halfway_resets_the_stream() -> None:
    limits = FrameLimits(body_bytes=1 << 20)
    async with two_channels() as (_, far, raw):
        codec: Codec[Any] = Codec(Any)
        near: Channel[Any, Any] = Channel(raw, codec, codec, limits)
        with pytest.raises(DeadlineError):
            await near.send("big", bytes(1 << 20), timeout_s=1.0)
        with pytest.raises(StreamResetError):
            await near.send("after")
        with pytest.raises(StreamResetError):
            await far.receive()


@pytest.mark.virtual_clock
async def test_an_oversized_frame_is_refused_by_its_header() -> None:
    async with two_channels() as (_, far, raw):
        await raw.send_all((1001).to_bytes(4, "big") + bytes(4))
        with pytest.raises(FrameTooLargeError, match="message of 1001 bytes, limit 1000"):
            await far.receive(1.0)


def test_a_failure_is_a_message_of_every_protocol() -> None:
    assert (
        msgspec.msgpack.decode(RESPONSES.encode(Response(1, Failure("busy", "later"))))["answer"]["code"]
        == "busy"
    )


class Beginner:
    """Answers Echo without a task once the test says so, and leaves the rest to the handler."""

    def __init__(self) -> None:
        self.tolds: list[tuple[Echo, bytes, Told]] = []
        self.taken_back: list[Echo] = []

    def begin(self, caller: PeerId, call: Call, body: bytes, told: Told) -> Callable[[], None] | None:
        if not isinstance(call, Echo):
            return None
        self.tolds.append((call, body, told))
        return lambda: self.taken_back.append(call)

    def answer(self, index: int) -> None:
        call, body, told = self.tolds[index]
        told(call, body)


async def _stream_to(net: MemoryNet, server: MemoryNetwork) -> Channel[Any, Any]:
    caller = net.join(Identity.generate())
    await caller.connect(server.peer_id, server.addresses())
    stream = await caller.open_stream(server.peer_id, PROTOCOL)
    return Channel(stream, REQUESTS, RESPONSES, LIMITS)


@pytest.mark.virtual_clock
async def test_a_call_that_is_begun_without_a_task_is_answered_whenever_it_is_told() -> None:
    beginner = Beginner()
    async with echo_service(begin=beginner.begin) as (_, net, server):
        channel = await _stream_to(net, server)
        for number, call in enumerate((Echo("a"), Echo("b"), Refuse("no"))):
            await channel.send(Request(number, call), b"x" * number)
        assert (await channel.receive())[0] == Response(2, Failure("no", "because"))
        beginner.answer(1)
        assert await channel.receive() == (Response(1, Echo("b")), b"x")
        beginner.tolds[0][2](RuntimeError("secret detail"), b"")
        answer, _ = await channel.receive()
        assert answer == Response(0, Failure("internal", "Echo failed: RuntimeError"))
        await channel.send(Request(3, Echo("c")))
        await trio.testing.wait_all_tasks_blocked()
        beginner.tolds[2][2](Echo("c" * 2000), b"")
        answer, _ = await channel.receive()
        assert answer.answer.code == "internal", "an answer over the limits is a failure of its call only"
        await channel.send(Request(4, Echo("d")))
        await trio.testing.wait_all_tasks_blocked()
        await channel._stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        beginner.answer(3)
        assert (await channel.receive())[0] == Response(4, Echo("d")), "also after the end of the calls"
        with pytest.raises(StreamClosedError):
            await channel.receive()
        assert not beginner.taken_back


@pytest.mark.virtual_clock
async def test_calls_that_were_begun_are_taken_back_when_their_caller_is_lost() -> None:
    beginner = Beginner()
    room = BodyRoom(lambda caller: True, of_caller=250, small=10)
    async with echo_service(begin=beginner.begin, room=room) as (_, net, server):
        channel = await _stream_to(net, server)
        for number in range(2):
            await channel.send(Request(number, Echo("x")), b"x" * 100)
        await trio.testing.wait_all_tasks_blocked()
        beginner.answer(0)
        assert (await channel.receive())[0].id == 0
        await channel.send(Request(2, Echo("y")), b"x" * 100)  # there is room again
        await trio.testing.wait_all_tasks_blocked()
        await channel.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert beginner.taken_back == [Echo("x"), Echo("y")] or beginner.taken_back == [Echo("y"), Echo("x")]
        assert not room._used


@pytest.mark.virtual_clock
async def test_calls_that_are_begun_count_among_those_in_flight() -> None:
    beginner = Beginner()
    async with echo_service(begin=beginner.begin, max_in_flight=2) as (_, net, server):
        channel = await _stream_to(net, server)
        for number in range(4):
            await channel.send(Request(number, Echo(str(number))))
        await trio.testing.wait_all_tasks_blocked()
        assert len(beginner.tolds) == 2
        for index in range(4):
            beginner.answer(index)
            assert (await channel.receive())[0].id == index
            await trio.testing.wait_all_tasks_blocked()
