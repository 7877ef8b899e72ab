"""The rules of Yamux without a connection: what a hostile side may send, and what it costs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from p2p.errors import LocalProtocolError, StreamResetError
from p2p.yamux_core import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    MAX_BODY_BYTES,
    PING,
    RST,
    SYN,
    WINDOW,
    ConnectionEnded,
    Event,
    StreamChanged,
    StreamOpened,
    YamuxCore,
)
from p2p.yamux_stream import INITIAL_WINDOW_BYTES, StreamState, Total, Use, YamuxLimits

MIB = 1024 * 1024


def frame(kind: int, flags: int, stream_id: int, value: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, value) + body


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, len(body), body)


def accepting(limits: YamuxLimits | None = None) -> YamuxCore:
    """The side that did not dial, faced with hand-made frames."""
    return YamuxCore(is_initiator=False, limits=limits or YamuxLimits())


def opened(events: Iterable[Event]) -> list[StreamState]:
    return [event.stream for event in events if isinstance(event, StreamOpened)]


def ending(events: list[Event]) -> str | None:
    """Why the connection ended, if it did: always the last event."""
    assert not any(isinstance(event, ConnectionEnded) for event in events[:-1])
    return events[-1].reason if events and isinstance(events[-1], ConnectionEnded) else None


def written(core: YamuxCore) -> bytes:
    return b"".join(core.outgoing(1 << 30))


def flood(core: YamuxCore, piece: bytes, count: int, now_s: float = 0.0) -> str | None:
    """Feeds ``piece`` again and again, answers being read, until the connection ends."""
    for _ in range(count):
        if reason := ending(core.receive(piece, now_s)):
            return reason
        core.outgoing(1 << 30)
    return None


# -- one bad frame ------------------------------------------------------------------------------

OPEN = frame(WINDOW, SYN, 1, 0)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (HEADER.pack(1, DATA, 0, 1, 0), "version 1 and type 0"),
        (HEADER.pack(0, 4, 0, 1, 0), "version 0 and type 4"),
        (frame(WINDOW, 16, 1, 0), "flags 0x10, allowed 0xf"),
        (frame(DATA, 0x8001, 1, 0), "flags 0x8001"),
        (frame(DATA, SYN, 0, 0), "type 0 for stream 0"),
        (frame(WINDOW, 0, 0, 5), "type 1 for stream 0"),
        (frame(PING, SYN, 1, 0), "type 2 for stream 1"),
        (frame(GO_AWAY, 0, 3, 0), "type 3 for stream 3"),
        (frame(WINDOW, SYN, 2, 0), "stream 2 opened twice or with our number"),
        (OPEN + OPEN, "stream 1 opened twice"),
        (OPEN + frame(DATA, SYN, 1, 0), "stream 1 opened twice"),
        (frame(DATA, SYN, 1, INITIAL_WINDOW_BYTES + 1), "data of 262145 bytes, window 262144"),
        (frame(DATA, SYN, 1, 2**32 - 1), "data of 4294967295 bytes, window 262144"),
        (OPEN + data(1, bytes(200_000)) + frame(DATA, 0, 1, 100_000), "data of 100000 bytes, window 62144"),
        (OPEN + frame(WINDOW, 0, 1, 2**32 - 1), "allowed 4294967295"),
        (OPEN + 3 * frame(WINDOW, 0, 1, 2**31), "allowed 4294967295"),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_connection(frames: bytes, reason: str) -> None:
    core = accepting()
    ended = ending(core.receive(frames + data(1, b"more"), 0.0))
    assert ended is not None
    assert reason in ended
    assert written(core).endswith(frame(GO_AWAY, 0, 0, 1))


def test_nothing_after_the_end_of_the_connection_is_looked_at() -> None:
    core = accepting()
    assert ending(core.receive(frame(GO_AWAY, 0, 0, 0) + OPEN, 0.0)) == "the other side closed"
    assert core.receive(OPEN, 0.0) == []
    assert core.streams == {}


@pytest.mark.parametrize(
    ("code", "reason"),
    [(0, "closed"), (1, "found a protocol error"), (2, "failed"), (77, "left with code 77")],
)
def test_a_farewell_says_why(code: int, reason: str) -> None:
    assert ending(accepting().receive(frame(GO_AWAY, 0, 0, code), 0.0)) == f"the other side {reason}"


# -- one bad stream -----------------------------------------------------------------------------


def test_data_after_the_end_resets_the_stream_and_no_other() -> None:
    core = accepting()
    first, second = opened(core.receive(OPEN + frame(WINDOW, SYN, 3, 0) + data(1, b"all", FIN), 0.0))
    written(core)
    events = core.receive(data(1, b"late") + data(3, b"fine"), 0.0)
    assert events == [StreamChanged(first), StreamChanged(second)]
    assert first.reset_reason == "data after the end of the stream"
    assert written(core) == frame(WINDOW, RST, 1, 0)
    assert core.read(first, 100, 0.0) == b"all"  # what came whole, with its end, stays
    assert core.read(second, 100, 0.0) == b"fine"


def test_data_for_a_stream_that_is_over_is_dropped_and_its_sender_told_once() -> None:
    core = accepting()
    (stream,) = opened(core.receive(OPEN + data(1, b"unwanted"), 0.0))
    core.close(stream)
    written(core)
    assert core.receive(3 * data(1, bytes(100_000)), 0.0) == []
    assert written(core) == b""  # closing with something unread has reset it already
    assert core.use.unread_bytes == 0
    assert core.receive(3 * data(9, b"never opened"), 0.0) == []
    assert written(core) == frame(WINDOW, RST, 9, 0)


def test_a_stream_beyond_the_limit_is_refused_and_an_ended_one_makes_room() -> None:
    core = accepting(YamuxLimits(incoming_streams=2))
    first, _ = opened(core.receive(b"".join(frame(WINDOW, SYN, n, 0) for n in (1, 3, 5)), 0.0))
    assert frame(WINDOW, RST, 5, 0) in written(core)
    core.close(first)
    core.receive(frame(WINDOW, FIN, 1, 0), 0.0)
    assert len(opened(core.receive(frame(WINDOW, SYN, 7, 0), 0.0))) == 1


def test_streams_that_are_reset_at_once_count_while_their_handlers_live() -> None:
    """Rapid reset: else each would start a handler, and none would count."""
    core = accepting(YamuxLimits(incoming_streams=10))
    handled: list[StreamState] = []
    for number in range(1, 401, 2):
        handled += opened(core.receive(frame(WINDOW, SYN, number, 0) + frame(WINDOW, RST, number, 0), 0.0))
        core.outgoing(1 << 30)
    assert len(handled) == 20
    assert core.streams == {}
    for stream in handled:
        core.reset(stream)
    assert len(opened(core.receive(frame(WINDOW, SYN, 1001, 0), 0.0))) == 1


@pytest.mark.parametrize("flags", [0, FIN])
@pytest.mark.parametrize("let_go", [YamuxCore.reset, YamuxCore.close])
def test_a_stream_that_is_let_go_unread_costs_nothing_more_and_is_no_end(
    let_go: Callable[[YamuxCore, StreamState], None], flags: int
) -> None:
    core = accepting()
    [stream] = opened(core.receive(data(1, bytes(100_000), SYN | flags), 0.0))
    let_go(core, stream)
    assert (core.use.unread_bytes, core.use.total.unread_bytes) == (0, 0)
    assert not stream.received_end


def test_unread_bytes_of_all_peers_are_bounded_and_every_peer_keeps_one_window() -> None:
    total, limits = Total(), YamuxLimits(unread_bytes_of_all=300_000)
    greedy, modest = (YamuxCore(is_initiator=False, limits=limits, use=Use(total=total)) for _ in range(2))
    [first] = opened(greedy.receive(data(1, bytes(200_000), SYN), 0.0))
    [second] = opened(greedy.receive(data(3, bytes(150_000), SYN), 0.0))
    assert (first.reset_reason, second.reset_reason) == (None, "over 300000 unread bytes of all peers")
    [other] = opened(modest.receive(data(1, bytes(200_000), SYN), 0.0))
    assert (other.reset_reason, other.unread_bytes) == (None, 200_000)
    assert total.unread_bytes == 400_000
    assert modest.read(other, 1 << 20, 0.0) == bytes(200_000)
    greedy.cut_all("lost")
    assert total.unread_bytes == 0


def test_unread_bytes_over_the_limit_cost_their_stream() -> None:
    core = accepting(YamuxLimits(unread_bytes=300_000))
    first, second = opened(core.receive(OPEN + frame(WINDOW, SYN, 3, 0), 0.0))
    core.receive(data(1, bytes(200_000)) + data(3, bytes(200_000)), 0.0)
    assert (first.reset_reason, second.reset_reason) == (None, "over 300000 unread bytes of one peer")
    assert core.use.unread_bytes == 200_000


# -- floods -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (frame(PING, SYN, 0, 7), "too many pings"),
        (frame(PING, ACK, 0, 7), "too many pings"),
        (frame(DATA, 0, 1, 0), "too many empty frames"),
        (frame(DATA, ACK, 1, 0), "too many empty frames"),
        (frame(WINDOW, 0, 1, 0), "too many empty frames"),
        (frame(WINDOW, ACK, 1, 0), "too many empty frames"),
        (frame(WINDOW, FIN, 1, 0), "too many ends of one stream"),
        (frame(WINDOW, 0, 99, 5), "too many frames for no stream"),
        (frame(DATA, 0, 99, 1) + b"x", "too many frames for no stream"),
        (frame(WINDOW, SYN | RST, 3, 0), "too many resets"),
        (frame(DATA, SYN | RST, 3, 0), "too many resets"),
    ],
)
def test_frames_that_move_nothing_are_counted(piece: bytes, reason: str) -> None:
    core = accepting(YamuxLimits(idle_frames=100, incoming_streams=1000))
    core.receive(OPEN, 0.0)
    ended = flood(core, piece, 200)
    assert ended is not None
    assert reason in ended


def test_streams_over_the_limit_are_counted() -> None:
    core = accepting(YamuxLimits(idle_frames=100, incoming_streams=1))
    core.receive(OPEN, 0.0)
    assert (
        flood(core, frame(WINDOW, SYN, 3, 0), 200) == "too many streams over the limit, allowed 1024 a second"
    )


def test_as_many_as_are_allowed_in_a_second_never_end_a_connection() -> None:
    core = accepting(YamuxLimits(idle_frames=100, idle_frames_per_s=100))
    for second in range(100):
        assert flood(core, frame(PING, SYN, 0, 7), 100, float(second)) is None


def test_streams_that_are_opened_and_ended_in_order_are_never_counted() -> None:
    core = accepting(YamuxLimits(idle_frames=100))
    for number in range(1, 20_001, 2):
        (stream,) = opened(core.receive(frame(DATA, SYN, number, 3, b"ask"), 0.0))
        core.receive(frame(WINDOW, FIN, number, 0), 0.0)
        assert core.read(stream, 10, 0.0) == b"ask"
        core.close(stream)
        assert ending(core.receive(frame(WINDOW, 0, number, 3), 0.0)) is None  # crossed on the way
        core.outgoing(1 << 30)


@pytest.mark.parametrize(
    "piece", [frame(PING, SYN, 0, 7), frame(DATA, SYN | RST, 3, 0), frame(WINDOW, SYN | FIN, 5, 0)]
)
def test_a_side_that_asks_and_does_not_read_the_answers_is_cut_off(piece: bytes) -> None:
    core = accepting(YamuxLimits(idle_frames=10**9, incoming_streams=10**9, outgoing_bytes=10_000))
    reason = None
    for number in range(10_000):
        numbered = piece[:4] + (2 * number + 1).to_bytes(4, "big") + piece[8:] if piece[1] != PING else piece
        if reason := ending(core.receive(numbered, 0.0)):
            break
    assert reason == "the other side goes on asking and does not read the answers"
    assert len(written(core)) < 100_000


# -- what it costs, measured --------------------------------------------------------------------


def held_bytes(core: YamuxCore, pieces: Iterable[bytes]) -> int:
    """Memory that ``core`` holds more after ``pieces`` than before; they are not kept here."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for piece in pieces:
            if ending(core.receive(piece, 0.0)):
                break
            core.outgoing(1 << 30)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def many_streams(count: int, body: bytes) -> Iterable[bytes]:
    for number in range(count):
        stream_id = 2 * number + 1
        yield frame(WINDOW, SYN, stream_id, 0)
        yield from (data(stream_id, body) for _ in range(min(INITIAL_WINDOW_BYTES // len(body), 5000)))


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(lambda: many_streams(20, bytes(16384)), id="bulk that nobody reads"),
        pytest.param(lambda: many_streams(4, b"x"), id="bytes that come one by one"),
        pytest.param(
            lambda: (OPEN if n == 0 else data(1, b"x") + data(99, bytes(60_000)) for n in range(60)),
            id="a byte inside much else",
        ),
        pytest.param(
            lambda: (OPEN if n == 0 else data(1, bytes(4096)) + data(99, bytes(60_000)) for n in range(60)),
            id="a little inside what is dropped",
        ),
        pytest.param(
            lambda: (OPEN if n == 0 else data(1, bytes(4096 if n % 2 else 1)) for n in range(120)),
            id="large and small in turn",
        ),
        pytest.param(lambda: (frame(WINDOW, SYN, 2 * n + 1, 0) for n in range(5000)), id="streams"),
        pytest.param(lambda: (data(2 * n + 1, b"x", SYN) for n in range(5000)), id="streams with a byte"),
        pytest.param(lambda: (frame(DATA, 0, 1, 2**18)[: n % 12] for n in range(5000)), id="half headers"),
    ],
)
def test_memory_is_bounded_by_the_limits_whatever_comes(pieces: object) -> None:
    limits = YamuxLimits(
        incoming_streams=64, unread_bytes=MIB, idle_frames=10**9, control_frames=1000, outgoing_bytes=MIB // 4
    )
    core = accepting(limits)
    held = held_bytes(core, pieces())  # type: ignore[operator]
    assert core.use.unread_bytes <= limits.unread_bytes
    assert held < 2 * core.use.unread_bytes + 128 * 1024


def test_windows_grow_for_readers_that_keep_up_and_only_within_what_may_stay_unread() -> None:
    limits = YamuxLimits(max_window_bytes=4 * MIB, unread_bytes=16 * MIB)
    core = accepting(limits)
    streams = []
    for stream_id in (1, 3, 5, 7):
        streams += opened(core.receive(frame(WINDOW, SYN, stream_id, 0), 0.0))
        for _ in range(200):
            core.receive(data(stream_id, bytes(65536)), 0.0)
            while core.read(streams[-1], 65536, 0.0):
                pass
    windows = [stream.window_bytes for stream in streams]
    assert windows[:2] == [4 * MIB, 4 * MIB]
    assert sum(windows) - 4 * INITIAL_WINDOW_BYTES <= limits.unread_bytes // 2
    core.reset(streams[0])
    core.receive(frame(WINDOW, SYN, 9, 0), 0.0)
    assert core.streams[9].window_bytes == INITIAL_WINDOW_BYTES


def test_what_is_granted_is_what_was_read_and_what_the_window_grew() -> None:
    core = accepting()
    (stream,) = opened(core.receive(OPEN, 0.0))
    written(core)
    read = granted = 0
    for _ in range(100):
        core.receive(data(1, bytes(65536)), 0.0)
        read += len(core.read(stream, 65536, 0.0))
        for kind, _flags, _stream_id, more in (header[1:] for header in HEADER.iter_unpack(written(core))):
            assert kind == WINDOW
            granted += more
    assert stream.window_bytes > INITIAL_WINDOW_BYTES
    assert stream.receive_window == INITIAL_WINDOW_BYTES + granted - read
    unannounced = stream.window_bytes - stream.receive_window  # read, and not worth a frame yet
    assert 0 <= unannounced < stream.window_bytes // 2


def test_the_window_of_a_slow_reader_stays_as_it_is() -> None:
    core = accepting()
    (stream,) = opened(core.receive(OPEN, 0.0))
    for minute in range(50):
        core.receive(data(1, bytes(65536)), 60.0 * minute)
        core.read(stream, 65536, 60.0 * minute)
    assert stream.window_bytes == INITIAL_WINDOW_BYTES


# -- sending ------------------------------------------------------------------------------------


def test_no_more_is_sent_than_the_other_side_allows() -> None:
    core = YamuxCore(is_initiator=True, limits=YamuxLimits())
    stream = core.open_stream()
    body = memoryview(bytes(10 * MIB))
    sent = 0
    while size := core.send(stream, body[sent:]):
        assert size <= MAX_BODY_BYTES
        sent += size
    assert sent == INITIAL_WINDOW_BYTES
    assert core.receive(frame(WINDOW, ACK, 1, 1000), 0.0) == [StreamChanged(stream)]
    assert core.send(stream, body) == 1000


def test_writers_wait_when_the_queue_is_full() -> None:
    core = YamuxCore(is_initiator=True, limits=YamuxLimits(outgoing_bytes=100_000))
    streams = [core.open_stream() for _ in range(3)]
    assert core.send(streams[0], memoryview(bytes(200_000))) == 200_000
    assert core.is_full
    assert core.send(streams[1], memoryview(b"wait")) == 0
    written(core)
    assert core.send(streams[1], memoryview(b"wait")) == 4


def test_control_frames_overtake_data_but_never_part_a_header_from_its_body() -> None:
    core = YamuxCore(is_initiator=True, limits=YamuxLimits())
    stream = core.open_stream()
    core.send(stream, memoryview(b"first"))
    core.send(stream, memoryview(b"second"))
    core.receive(frame(PING, SYN, 0, 5), 0.0)
    pieces = [bytes(piece) for piece in core.outgoing(30)]
    assert pieces[0] == frame(PING, ACK, 0, 5)
    assert b"".join(pieces[1:]) == frame(WINDOW, SYN, 1, 0) + data(1, b"first")
    assert b"".join(core.outgoing(1)) == data(1, b"second")


def test_a_stream_that_was_cut_or_ended_is_not_sent_on() -> None:
    core = YamuxCore(is_initiator=True, limits=YamuxLimits())
    ended, cut = core.open_stream(), core.open_stream()
    core.end(ended)
    core.receive(frame(WINDOW, RST, cut.id, 0), 0.0)
    with pytest.raises(StreamResetError, match="this side has ended"):
        core.send(ended, memoryview(b"more"))
    with pytest.raises(StreamResetError, match="reset by the other side"):
        core.send(cut, memoryview(b"more"))


def test_stream_numbers_are_not_used_twice() -> None:
    core = YamuxCore(is_initiator=True, limits=YamuxLimits())
    core._next_id = 2**32 - 1
    assert core.open_stream().id == 2**32 - 1
    with pytest.raises(LocalProtocolError, match="used up"):
        core.open_stream()
