"""Yamux alone: two sessions, or a session and hand-made frames, over memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from p2p.errors import StreamResetError
from p2p.yamux import Heartbeat, YamuxSession, YamuxStream
from p2p.yamux_core import ACK, DATA, FIN, HEADER, PING, RST, SYN, WINDOW
from p2p.yamux_stream import YamuxLimits

pytestmark = pytest.mark.virtual_clock

Answer = Callable[[YamuxStream], Awaitable[None]]


class Wire:
    """A transport over a memory stream; it can be frozen, as a process that is stopped."""

    def __init__(self, stream: trio.abc.Stream, *, sends: bool = True) -> None:
        self._stream = stream
        self._sends = sends
        self._unsent = b""
        self._runs = trio.Event()
        self._runs.set()

    def freeze(self) -> None:
        self._runs = trio.Event()

    def thaw(self) -> None:
        self._runs.set()

    async def receive(self) -> Sequence[bytes] | None:
        try:
            data = await self._stream.receive_some(1 << 16)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamResetError("wire cut") from error
        await self._runs.wait()
        return [bytes(data)] if data else None

    def send(self, pieces: Sequence[bytes | memoryview]) -> bool:
        self._unsent = b"".join(pieces)
        return False

    async def flush(self) -> None:
        if not self._sends:
            await trio.sleep_forever()
        await self._runs.wait()
        try:
            await self._stream.send_all(self._unsent)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamResetError("wire cut") from error

    def delivered_bytes(self) -> int:
        return 0

    async def close(self) -> None:
        await self._stream.aclose()


class Pair:
    """Two connected sessions; ``there`` answers each stream with ``answer``."""

    def __init__(self, nursery: trio.Nursery, answer: Answer, limits: YamuxLimits) -> None:
        one, other = trio.testing.memory_stream_pair()
        self.wire, self.other_wire = Wire(one), Wire(other)
        heartbeat = Heartbeat()
        nursery.start_soon(heartbeat.run)
        self.here = YamuxSession(
            self.wire, is_initiator=True, on_stream=lambda _: None, heartbeat=heartbeat, limits=limits
        )
        self.there = YamuxSession(
            self.other_wire,
            is_initiator=False,
            on_stream=partial(nursery.start_soon, answer),
            heartbeat=heartbeat,
            limits=limits,
        )
        nursery.start_soon(self.here.run)
        nursery.start_soon(self.there.run)


@asynccontextmanager
async def connected(answer: Answer, limits: YamuxLimits | None = None) -> AsyncIterator[Pair]:
    with trio.fail_after(200_000):  # keep-alives keep a stuck test busy for ever
        async with trio.open_nursery() as nursery:
            yield Pair(nursery, answer, limits or YamuxLimits())
            nursery.cancel_scope.cancel()


async def echo(stream: YamuxStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def ignore(_stream: YamuxStream) -> None:
    """Never reads."""


async def read_all(stream: YamuxStream, max_bytes: int = 65536) -> bytes:
    parts = []
    while data := await stream.receive_some(max_bytes):
        assert len(data) <= max_bytes
        parts.append(data)
    return b"".join(parts)


async def read_exactly(stream: YamuxStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


@pytest.mark.parametrize("max_bytes", [1000, 65536, 1 << 20])
async def test_megabytes_go_both_ways_unchanged(max_bytes: int) -> None:
    data = bytes(range(256)) * 12_345
    async with connected(echo) as pair:
        stream = pair.here.open_stream()

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await read_all(stream, max_bytes) == data


async def test_a_writer_waits_for_a_stalled_reader_as_long_as_it_takes() -> None:
    async def read_late(stream: YamuxStream) -> None:
        await trio.sleep(600)
        await stream.send_all(len(await read_all(stream)).to_bytes(4, "big"))
        await stream.aclose()

    async with connected(read_late) as pair:
        stream = pair.here.open_stream()
        await stream.send_all(bytes(3_000_000))
        assert trio.current_time() >= 600
        await stream.send_eof()
        assert int.from_bytes(await read_all(stream), "big") == 3_000_000


async def test_a_stalled_reader_holds_up_no_other_stream() -> None:
    async with connected(lambda stream: ignore(stream) if stream.id == 1 else echo(stream)) as pair:
        stalled, lively = pair.here.open_stream(), pair.here.open_stream()
        with trio.move_on_after(1):
            await stalled.send_all(bytes(10_000_000))
        await lively.send_all(b"hello")
        assert await lively.receive_some() == b"hello"


async def test_a_reset_is_no_end() -> None:
    async def end_or_reset(stream: YamuxStream) -> None:
        wish = await stream.receive_some()
        await stream.send_all(b"data")
        await (stream.reset() if wish == b"reset" else stream.aclose())

    async with connected(end_or_reset) as pair:
        ended, cut = pair.here.open_stream(), pair.here.open_stream()
        await ended.send_all(b"end")
        assert await read_all(ended) == b"data"
        await cut.send_all(b"reset")
        with pytest.raises(StreamResetError, match="reset by the other side"):
            await read_all(cut)
        with pytest.raises(StreamResetError):
            await cut.send_all(b"more")


async def test_a_reset_right_after_opening_leaves_nothing_behind() -> None:
    async with connected(ignore) as pair:
        for _ in range(10):
            await pair.here.open_stream().reset()
        await trio.sleep(1)
        assert pair.there.core.streams == pair.here.core.streams == {}


async def test_the_loss_of_the_connection_resets_its_streams() -> None:
    async with connected(ignore) as pair:
        stream = pair.here.open_stream()
        await pair.other_wire.close()
        with pytest.raises(StreamResetError, match="connection lost"):
            await stream.receive_some()
        with pytest.raises(StreamResetError, match="connection lost"):
            pair.here.open_stream()


async def test_silence_alone_ends_no_connection() -> None:
    async with connected(echo) as pair:
        stream = pair.here.open_stream()
        await trio.sleep(600)
        await stream.send_all(b"still here")
        assert await stream.receive_some() == b"still here"


async def test_a_cancelled_read_loses_nothing() -> None:
    async with connected(echo) as pair:
        stream = pair.here.open_stream()
        for number in range(200):
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some()
            await stream.send_all(number.to_bytes(4, "big"))
            with trio.move_on_after(0):
                await stream.receive_some(0)
            assert await read_exactly(stream, 4) == number.to_bytes(4, "big")


async def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    async with connected(lambda stream: echo(stream) if stream.id % 4 == 3 else ignore(stream)) as pair:
        for _ in range(20):
            blocked = pair.here.open_stream()  # 1, 5, ...: nobody reads
            with trio.move_on_after(0.1):
                await blocked.send_all(bytes(5_000_000))
            await blocked.reset()
            lively = pair.here.open_stream()  # 3, 7, ...
            await lively.send_all(b"alive")
            assert await lively.receive_some() == b"alive"
            await lively.aclose()
        assert pair.here.lost is None


async def test_more_streams_than_256_can_be_open() -> None:
    async with connected(echo) as pair:
        streams = [pair.here.open_stream() for _ in range(600)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"%d" % number)
        assert [await stream.receive_some() for stream in streams] == [b"%d" % n for n in range(600)]


async def test_streams_beyond_the_limit_are_reset_and_freed_ones_count_no_more() -> None:
    async with connected(echo, YamuxLimits(incoming_streams=2)) as pair:
        first, second = pair.here.open_stream(), pair.here.open_stream()
        with pytest.raises(StreamResetError):
            await pair.here.open_stream().receive_some()
        await first.send_eof()
        assert await read_all(first) == b""
        again = pair.here.open_stream()
        for stream in (second, again):
            await stream.send_all(b"fits")
            assert await stream.receive_some() == b"fits"


async def test_ended_streams_are_forgotten_on_both_sides() -> None:
    async with connected(echo) as pair:
        for _ in range(50):
            stream = pair.here.open_stream()
            await stream.send_all(b"x")
            await stream.send_eof()
            assert await read_all(stream) == b"x"
            await stream.aclose()
        await trio.sleep(1)
        assert pair.here.core.streams == pair.there.core.streams == {}
        assert pair.here.core.use.unread_bytes == pair.there.core.use.unread_bytes == 0


async def test_unread_bytes_over_the_limit_of_a_peer_cost_their_stream() -> None:
    async with connected(ignore, YamuxLimits(unread_bytes=300_000)) as pair:
        streams = [pair.here.open_stream() for _ in range(2)]
        await streams[0].send_all(bytes(200_000))
        await streams[1].send_all(bytes(200_000))
        with pytest.raises(StreamResetError, match="reset by the other side"):
            await streams[1].receive_some()
        assert pair.there.core.use.unread_bytes <= 300_000


async def test_who_closes_with_bytes_on_the_way_resets_their_sender_only() -> None:
    async def answer_early(stream: YamuxStream) -> None:
        await stream.send_all(b"enough")
        await stream.aclose()

    async with connected(answer_early) as pair:
        stream = pair.here.open_stream()
        with pytest.raises(StreamResetError):
            await stream.send_all(bytes(10_000_000))
        assert await read_all(stream) == b"enough"


async def test_what_was_sent_before_closing_the_connection_arrives() -> None:
    received: list[bytes] = []

    async def keep(stream: YamuxStream) -> None:
        received.append(await read_all(stream))

    async with connected(keep) as pair:
        stream = pair.here.open_stream()
        await stream.send_all(bytes(200_000))
        await stream.aclose()
        await pair.here.close()
        await trio.sleep(1)
        assert received == [bytes(200_000)]


@asynccontextmanager
async def facing_raw_frames(
    limits: YamuxLimits | None = None, *, sends: bool = True
) -> AsyncIterator[tuple[YamuxSession, list[YamuxStream], trio.abc.Stream]]:
    """A session that has accepted the connection, and the naked other side of it."""
    raw, near = trio.testing.memory_stream_pair()
    streams: list[YamuxStream] = []
    session = YamuxSession(
        Wire(near, sends=sends),
        is_initiator=False,
        on_stream=streams.append,
        heartbeat=Heartbeat(),
        limits=limits or YamuxLimits(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        yield session, streams, raw
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", range(1, 12))
async def test_frames_may_be_cut_anywhere(cut: int) -> None:
    frames = (
        HEADER.pack(0, WINDOW, SYN, 1, 0)
        + HEADER.pack(0, DATA, 0, 1, 5)
        + b"hello"
        + HEADER.pack(0, DATA, FIN, 1, 3)
        + b"end"
    )
    async with facing_raw_frames() as (_, streams, raw):
        for at in range(0, len(frames), cut):
            await raw.send_all(frames[at : at + cut])
            await trio.testing.wait_all_tasks_blocked()
        assert await read_all(streams[0]) == b"helloend"


async def test_golden_frames() -> None:
    async with facing_raw_frames() as (_, streams, raw):
        await raw.send_all(bytes.fromhex("00 01 0001 00000001 00000000"))  # open stream 1
        assert await raw.receive_some() == bytes.fromhex("00 01 0002 00000001 00000000")  # acknowledged
        await streams[0].send_all(b"hi")
        assert await raw.receive_some() == bytes.fromhex("00 00 0000 00000001 00000002") + b"hi"
        await streams[0].send_eof()
        assert await raw.receive_some() == bytes.fromhex("00 01 0004 00000001 00000000")
        await raw.send_all(bytes.fromhex("00 02 0001 00000000 0000002a"))  # ping 42
        assert await raw.receive_some() == bytes.fromhex("00 02 0002 00000000 0000002a")
        await streams[0].reset()
        assert await raw.receive_some() == bytes.fromhex("00 01 0008 00000001 00000000")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (HEADER.pack(1, DATA, 0, 1, 0), "version 1"),
        (HEADER.pack(0, 9, 0, 1, 0), "type 9"),
        (HEADER.pack(0, WINDOW, SYN, 2, 0), "opened twice or with our number"),
        (HEADER.pack(0, WINDOW, SYN, 0, 0), "type 1 for stream 0"),
        (2 * HEADER.pack(0, WINDOW, SYN, 1, 0), "opened twice or with our number"),
        (HEADER.pack(0, DATA, SYN, 1, 262_145), "data of 262145 bytes, window 262144"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(frames: bytes, reason: str) -> None:
    async with facing_raw_frames() as (session, _, raw):
        await raw.send_all(frames)
        while await raw.receive_some():
            pass
        assert session.lost is not None
        assert reason in session.lost


@pytest.mark.parametrize(
    "frame",
    [HEADER.pack(0, PING, SYN, 0, 1), HEADER.pack(0, WINDOW, SYN | RST, 77, 0)],
    ids=["ping", "streams"],
)
async def test_a_flood_that_is_not_read_back_is_bounded(frame: bytes) -> None:
    async with facing_raw_frames(YamuxLimits(idle_frames=1_000_000), sends=False) as (session, _, raw):
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await raw.send_all(frame * 1000)
                await trio.testing.wait_all_tasks_blocked()
        assert session.lost is not None
        assert "does not read" in session.lost


def test_flags_are_those_of_the_specification() -> None:
    assert (SYN, ACK, FIN, RST) == (1, 2, 4, 8)


# -- cancelling at every checkpoint -------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` when its task has been suspended so many times."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, suspensions: int) -> None:
        self.task, self.scope, self.left = task, scope, suspensions

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left < 0:
                self.scope.cancel()


async def cancelled_at(suspensions: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the call was cancelled at that one of its suspensions; False where it has fewer."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, suspensions)
        if not suspensions:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def test_a_write_cancelled_at_any_checkpoint_leaves_the_connection_whole() -> None:
    data = bytes(range(256)) * 12_000
    received: dict[int, bytes] = {}

    async def read_slowly(stream: YamuxStream) -> None:
        received[stream.id] = b""
        try:
            while more := await stream.receive_some(30_000):
                received[stream.id] += more
        except StreamResetError:
            pass
        await stream.aclose()

    limits = YamuxLimits(outgoing_bytes=100_000)
    async with connected(read_slowly, limits) as pair:
        walked = 0
        while True:
            stream = pair.here.open_stream()
            was_cancelled = await cancelled_at(walked, partial(stream.send_all, data))
            await stream.send_eof()
            with trio.fail_after(10):
                while pair.there.core.streams:
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(0.01)
            assert data.startswith(received.get(stream.id, b""))
            assert pair.here.lost is None
            assert pair.here.waiting == 0 or not pair.here.core.streams
            walked += 1
            if not was_cancelled:
                break
        assert received[stream.id] == data
        assert walked > 8


async def test_a_read_cancelled_at_any_checkpoint_loses_nothing() -> None:
    data = bytes(range(256)) * 2_000

    async def send(stream: YamuxStream) -> None:
        for at in range(0, len(data), 10_000):
            await stream.send_all(data[at : at + 10_000])
            await trio.sleep(0.01)
        await stream.aclose()

    async with connected(send) as pair:
        for suspensions in range(3):
            stream, got = pair.here.open_stream(), b""
            while True:
                parts: list[bytes] = []

                async def read(stream: YamuxStream = stream, parts: list[bytes] = parts) -> None:
                    parts.append(await stream.receive_some(7_000))

                await cancelled_at(suspensions, read)
                got += b"".join(parts)
                if parts == [b""]:
                    break
                if not parts:
                    got += (more := await stream.receive_some(7_000))
                    if not more:
                        break
            assert got == data
        assert pair.here.lost is None


async def test_closing_cancelled_at_any_checkpoint_ends_the_connection() -> None:
    for suspensions in range(4):
        async with connected(ignore) as pair:
            stream = pair.here.open_stream()
            await stream.send_all(b"x")
            await cancelled_at(suspensions, pair.here.close)
            assert pair.here.lost is not None
            with pytest.raises(StreamResetError):
                await stream.receive_some()


# -- signs of life ------------------------------------------------------------------------------


async def test_idle_connections_are_asked_rarely_and_in_one_task() -> None:
    """What a thousand idle connections cost is what they send: next to nothing."""
    async with connected(ignore) as pair:
        await trio.sleep(600)
        assert pair.here._pings + pair.there._pings <= 2 * 600 / 20


async def test_a_connection_on_which_somebody_waits_is_asked_about_once_a_second() -> None:
    async with connected(ignore) as pair:
        stream = pair.here.open_stream()
        with trio.move_on_after(60):
            await stream.receive_some()
        assert 30 <= pair.here._pings <= 60
        assert pair.there._pings <= 3
        assert pair.here.lost is None


async def test_a_frozen_side_is_noticed_within_three_seconds() -> None:
    async with connected(ignore) as pair:
        stream = pair.here.open_stream()
        await stream.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        pair.other_wire.freeze()
        frozen_s = trio.current_time()
        with pytest.raises(StreamResetError, match="no sign of life"):
            await stream.receive_some()
        assert trio.current_time() - frozen_s <= 3


async def test_a_side_that_is_busy_for_a_second_at_a_time_is_not_given_up() -> None:
    async with connected(echo) as pair:
        stream = pair.here.open_stream()
        for _ in range(20):
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            pair.other_wire.freeze()
            with trio.move_on_after(1.2):
                await stream.receive_some()
            pair.other_wire.thaw()
        assert pair.here.lost is None
