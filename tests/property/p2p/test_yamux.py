"""Any play of two ends, cut anywhere, against a second implementation and a model of what must be seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2p.errors import StreamResetError
from p2p.yamux_core import HEADER, ConnectionEnded, StreamChanged, StreamOpened, YamuxCore
from p2p.yamux_stream import StreamState, YamuxLimits
from tests.property.effort import examples
from tests.property.p2p.plain_yamux import PlainYamux

LIMITS = YamuxLimits(incoming_streams=1000, outgoing_bytes=400_000, max_window_bytes=600_000)
SIZES = st.sampled_from([1, 11, 12, 13, 500, 4095, 4096, 65_519, 262_076, 300_000])
NOISE = bytes((n * n * 31 + n * 7 + (n >> 8) * 13) & 255 for n in range(1 << 16))


def content(number: int, start: int, size: int) -> bytes:
    """What is written on a stream from ``start`` on: of no short period."""
    at = (start + number * 4099) % len(NOISE)
    return (NOISE[at:] + NOISE * (size // len(NOISE) + 1))[:size]


class End(Protocol):
    """One end of a connection as the play drives it."""

    def open(self) -> int: ...
    def numbers(self) -> list[int]: ...
    def write(self, number: int, data: bytes) -> int: ...
    def read(self, number: int, size: int) -> bytes | str: ...
    def finish(self, number: int) -> None: ...
    def reset(self, number: int) -> None: ...
    def take_output(self, size: int) -> bytes: ...
    def feed(self, data: bytes) -> None: ...


class CoreEnd:
    def __init__(self, *, dials: bool) -> None:
        self.core = YamuxCore(is_initiator=dials, limits=LIMITS)
        self.states: dict[int, StreamState] = {}
        self.now_s = 0.0

    def open(self) -> int:
        state = self.core.open_stream()
        self.states[state.id] = state
        return state.id

    def numbers(self) -> list[int]:
        return list(self.states)

    def write(self, number: int, data: bytes) -> int:
        try:
            return self.core.send(self.states[number], memoryview(data))
        except StreamResetError:
            return 0

    def read(self, number: int, size: int) -> bytes | str:
        state = self.states[number]
        if data := self.core.read(state, size, self.now_s):
            return data
        if state.received_end:
            return "end"
        return "nothing" if state.reset_reason is None else "reset"

    def finish(self, number: int) -> None:
        self.core.end(self.states[number])

    def reset(self, number: int) -> None:
        self.core.reset(self.states[number])

    def take_output(self, size: int) -> bytes:
        return b"".join(self.core.outgoing(size))

    def feed(self, data: bytes) -> None:
        self.now_s += 0.01
        for event in self.core.receive(data, self.now_s):
            assert not isinstance(event, ConnectionEnded), event.reason
            if isinstance(event, StreamOpened):
                self.states[event.stream.id] = event.stream


class PlainEnd:
    def __init__(self, *, dials: bool) -> None:
        self.plain = PlainYamux(dials=dials)
        self.open, self.finish, self.reset = self.plain.open, self.plain.finish, self.plain.reset
        self.feed = self.plain.feed

    def numbers(self) -> list[int]:
        return list(self.plain.streams)

    def write(self, number: int, data: bytes) -> int:
        return self.plain.write(number, data)

    def read(self, number: int, size: int) -> bytes | str:
        stream = self.plain.streams[number]
        if data := bytes(stream.got[stream.read : stream.read + size]):
            stream.read += len(data)
            self.plain.grant(number, len(data))
            return data
        if stream.finished_there:
            return "end"
        return "reset" if stream.over else "nothing"

    def take_output(self, size: int) -> bytes:
        data, self.plain.out = bytes(self.plain.out[:size]), self.plain.out[size:]
        return data


@dataclass
class Direction:
    """What one end was told on a stream, and what the other must see of it."""

    written: int = 0
    read: int = 0
    finished: bool = False


@dataclass
class Stream:
    directions: tuple[Direction, Direction] = field(default_factory=lambda: (Direction(), Direction()))
    cut: bool = False
    """Whether an end has reset it: only then may the other see that."""


class Play(RuleBasedStateMachine):
    """Ends 0 and 1, and the bytes on the way from each."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = self.make_ends()
        self.wires = [bytearray(), bytearray()]
        self.streams: dict[int, Stream] = {}

    def make_ends(self) -> tuple[End, End]:
        return CoreEnd(dials=True), PlainEnd(dials=False)

    def pick(self, side: int, choice: int) -> int:
        numbers = self.ends[side].numbers()
        return numbers[choice % len(numbers)]

    sides = st.integers(0, 1)
    choices = st.integers(0, 99)

    @rule(side=sides)
    @precondition(lambda self: len(self.streams) < 8)
    def open(self, side: int) -> None:
        self.streams[self.ends[side].open()] = Stream()

    @rule(side=sides, choice=choices, size=SIZES)
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def write(self, side: int, choice: int, size: int) -> None:
        number = self.pick(side, choice)
        direction = self.streams[number].directions[side]
        accepted = self.ends[side].write(number, content(number, direction.written, size))
        assert not accepted or not direction.finished
        direction.written += accepted

    @rule(side=sides, choice=choices, size=SIZES)
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def write_the_last(self, side: int, choice: int, size: int) -> None:
        number, end = self.pick(side, choice), self.ends[side]
        direction = self.streams[number].directions[side]
        if isinstance(end, PlainEnd) and not self.streams[number].cut:
            data = content(number, direction.written, size)
            direction.written += end.plain.write(number, data, last=True)
            direction.finished = end.plain.streams[number].finished_here

    @rule(side=sides, choice=choices, rounds=st.integers(1, 12))
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def keep_up(self, side: int, choice: int, rounds: int) -> None:
        """More than a window goes over, since the other side reads all the time."""
        number = self.pick(side, choice)
        for _ in range(rounds):
            self.write(side, choice, 262_076)
            self.deliver(side, 1 << 20, 1 << 20)
            if number in self.ends[1 - side].numbers():
                while isinstance(self.see(1 - side, number, 100_000), bytes):
                    pass
            self.deliver(1 - side, 1 << 20, 1 << 20)

    @rule(side=sides, choice=choices, size=SIZES)
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def read(self, side: int, choice: int, size: int) -> None:
        self.see(side, self.pick(side, choice), size)

    def see(self, side: int, number: int, size: int) -> bytes | str:
        stream = self.streams[number]
        direction = stream.directions[1 - side]
        seen = self.ends[side].read(number, size)
        if isinstance(seen, bytes):
            assert len(seen) <= size
            assert seen == content(number, direction.read, len(seen))
            direction.read += len(seen)
            assert direction.read <= direction.written
        elif seen == "end":
            assert direction.finished, "an end that nobody made"
            assert direction.read == direction.written, "an end before all was read"
        elif seen == "reset":
            assert stream.cut
        return seen

    @rule(side=sides, choice=choices)
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def finish(self, side: int, choice: int) -> None:
        number = self.pick(side, choice)
        if not self.streams[number].cut:
            self.ends[side].finish(number)
            self.streams[number].directions[side].finished = True

    @rule(side=sides, choice=choices)
    @precondition(lambda self: all(end.numbers() for end in self.ends))
    def reset(self, side: int, choice: int) -> None:
        number = self.pick(side, choice)
        self.ends[side].reset(number)
        self.streams[number].cut = True

    @rule(side=sides, queued=st.integers(1, 500_000), arriving=st.integers(0, 400_000))
    def deliver(self, side: int, queued: int, arriving: int) -> None:
        """Some of what an end has to say gets on the way, and some of that arrives."""
        wire = self.wires[side]
        wire += self.ends[side].take_output(queued)
        self.ends[1 - side].feed(bytes(wire[:arriving]))
        del wire[:arriving]

    @rule(side=sides, size=st.integers(1, 13), times=st.integers(1, 20))
    def deliver_crumbs(self, side: int, size: int, times: int) -> None:
        for _ in range(times):
            self.deliver(side, 1, size)

    @invariant()
    def the_books_balance(self) -> None:
        for end in self.ends:
            if isinstance(end, CoreEnd):
                assert end.core.use.unread_bytes == sum(s.unread_bytes for s in end.states.values())
                assert end.core.outgoing_bytes == sum(
                    len(header) + (len(body) if body is not None else 0) for header, body in end.core._queue
                )
                assert end.core.use.incoming_streams == sum(s.incoming for s in end.core.streams.values())
                assert all(s.unread_bytes <= s.window_bytes for s in end.states.values())

    def teardown(self) -> None:
        """All that was sent arrives: whoever was not cut off sees all of it, and its end."""
        while any(self.wires) or any(self.settle(side) for side in (0, 1)):
            for side in (0, 1):
                self.deliver(side, 1 << 20, 1 << 20)
        for number, stream in self.streams.items():
            for side in (0, 1):
                if number not in self.ends[side].numbers():
                    continue  # it was never said a word on
                while isinstance(seen := self.see(side, number, 1 << 20), bytes):
                    pass
                direction = stream.directions[1 - side]
                if not stream.cut:
                    assert direction.read == direction.written
                    assert seen == ("end" if direction.finished else "nothing")

    def settle(self, side: int) -> int:
        self.wires[side] += self.ends[side].take_output(1 << 20)
        return len(self.wires[side])


class PlayAnswering(Play):
    """The other way round."""

    def make_ends(self) -> tuple[End, End]:
        return PlainEnd(dials=True), CoreEnd(dials=False)


class PlayBoth(Play):
    """Two of ours."""

    def make_ends(self) -> tuple[End, End]:
        return CoreEnd(dials=True), CoreEnd(dials=False)


_SETTINGS = settings(max_examples=examples(30), stateful_step_count=30, deadline=None)
TestDialing = Play.TestCase
TestDialing.settings = _SETTINGS
TestAnswering = PlayAnswering.TestCase
TestAnswering.settings = _SETTINGS
TestBoth = PlayBoth.TestCase
TestBoth.settings = _SETTINGS


HEADERS = st.builds(
    HEADER.pack,
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    st.integers(0, 4),
    st.sampled_from([0, 0, 1, 1, 2, 4, 5, 8, 9, 16]),
    st.integers(0, 8),
    st.sampled_from([0, 0, 1, 5, 40, 70_000, 262_144, 2**31, 2**32 - 1]),
)


@settings(max_examples=examples(150), deadline=None)
@given(
    pieces=st.lists(HEADERS | st.binary(max_size=60) | st.just(bytes(50_000)), max_size=40),
    acts=st.lists(st.sampled_from(["read", "close", "reset", "end", "write", "send"]), max_size=40),
)
def test_any_bytes_are_taken_within_the_limits_and_without_a_crash(
    pieces: list[bytes], acts: list[str]
) -> None:
    limits = YamuxLimits(incoming_streams=3, unread_bytes=300_000, idle_frames=50, control_frames=20)
    core = YamuxCore(is_initiator=False, limits=limits)
    known: list[StreamState] = []
    ended = False
    for turn, piece in enumerate(pieces):
        events = core.receive(piece, 0.0)
        assert not ended or not events
        for event in events:
            assert not ended
            if isinstance(event, StreamOpened):
                known.append(event.stream)
            elif isinstance(event, StreamChanged):
                assert event.stream in known
            else:
                ended = True
        act = acts[turn % len(acts)] if acts else "read"
        if known:
            _do(core, known[turn % len(known)], act)
        assert core.use.unread_bytes == sum(state.unread_bytes for state in known) <= limits.unread_bytes
        assert len(core.streams) <= limits.incoming_streams
        assert len(core._control) <= limits.control_frames + 8


def _do(core: YamuxCore, state: StreamState, act: str) -> None:
    if act == "read":
        core.read(state, 1000, 0.0)
    elif act == "write":
        core.outgoing(1000)
    elif act == "send":
        try:
            core.send(state, memoryview(b"answer"))
        except StreamResetError:
            assert state.reset_reason is not None or state.sent_end
    else:
        {"close": core.close, "reset": core.reset, "end": core.end}[act](state)
