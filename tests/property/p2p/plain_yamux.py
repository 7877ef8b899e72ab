"""Yamux once more, written from its specification for tests: slow, plain, and strict with the other side.

Shares no line with ``p2p.yamux_core``. Whatever the other side does that the specification does
not allow fails the test at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TYPES = {0: "data", 1: "window", 2: "ping", 3: "go away"}
WINDOW_AT_START = 262_144


@dataclass
class PlainStream:
    may_send: int = WINDOW_AT_START
    may_receive: int = WINDOW_AT_START
    got: bytearray = field(default_factory=bytearray)
    read: int = 0
    finished_here: bool = False
    finished_there: bool = False
    reset_here: bool = False
    reset_there: bool = False
    announced: bool = True

    @property
    def over(self) -> bool:
        return self.reset_here or self.reset_there or (self.finished_here and self.finished_there)


class PlainYamux:
    def __init__(self, *, dials: bool) -> None:
        self.dials = dials
        self.streams: dict[int, PlainStream] = {}
        self.out = bytearray()
        self.arrived = bytearray()
        self.left = False
        self.pongs: list[int] = []
        self.acknowledged: set[int] = set()
        self._last = -1 if dials else 0

    # what this side does

    def open(self) -> int:
        """Every other stream is announced only by its first frame, whatever that is."""
        self._last += 2
        self.streams[self._last] = PlainStream(announced=self._last % 4 > 1)
        if self.streams[self._last].announced:
            self._send("window", 1, self._last, 0)
        return self._last

    def write(self, number: int, data: bytes, *, last: bool = False) -> int:
        """How much is sent: all or what the window has; ``last`` ends the stream with it if it is all."""
        stream = self.streams[number]
        if stream.over or stream.finished_here:
            return 0
        fits = min(len(data), stream.may_send)
        if fits:
            stream.may_send -= fits
            stream.finished_here = last and fits == len(data)
            self._send("data", 4 if stream.finished_here else 0, number, fits)
            self.out += data[:fits]
        return fits

    def grant(self, number: int, more: int) -> None:
        if not self.streams[number].over:
            self.streams[number].may_receive += more
            self._send("window", 0, number, more)

    def finish(self, number: int) -> None:
        if not self.streams[number].over and not self.streams[number].finished_here:
            self.streams[number].finished_here = True
            self._send("window", 4, number, 0)

    def reset(self, number: int) -> None:
        if not self.streams[number].over:
            self.streams[number].reset_here = True
            self._send("window", 8, number, 0)

    def ping(self, value: int) -> None:
        self._send("ping", 1, 0, value)

    def _send(self, kind: str, flags: int, number: int, length: int) -> None:
        if number and not self.streams[number].announced:
            self.streams[number].announced = True
            flags += 1
        code = next(code for code, name in TYPES.items() if name == kind)
        self.out += bytes((0, code)) + flags.to_bytes(2, "big")
        self.out += number.to_bytes(4, "big") + length.to_bytes(4, "big")

    # what the other side does

    def feed(self, data: bytes) -> None:
        self.arrived += data
        while len(self.arrived) >= 12 and not self.left:
            version, kind = self.arrived[0], TYPES[self.arrived[1]]
            flags, number, length = (
                int.from_bytes(self.arrived[start:end], "big") for start, end in ((2, 4), (4, 8), (8, 12))
            )
            assert version == 0
            assert flags < 16
            body_bytes = length if kind == "data" else 0
            if len(self.arrived) < 12 + body_bytes:
                break
            body = bytes(self.arrived[12 : 12 + body_bytes])
            del self.arrived[: 12 + body_bytes]
            self._take(kind, flags, number, length, body)

    def _take(self, kind: str, flags: int, number: int, length: int, body: bytes) -> None:
        syn, ack, fin, rst = (bool(flags & bit) for bit in (1, 2, 4, 8))
        if kind in ("ping", "go away"):
            assert number == 0
            if kind == "go away":
                assert flags == 0
                assert length == 0, "nothing here breaks the protocol"
                self.left = True
            elif syn:
                self._send("ping", 2, 0, length)
            else:
                self.pongs.append(length)
            return
        if syn:
            assert number not in self.streams
            assert number % 2 != int(self.dials), "opened with a number of the other side"
            self.streams[number] = PlainStream()
        stream = self.streams[number]
        if ack:
            assert number % 2 == int(self.dials)
            assert number not in self.acknowledged
            self.acknowledged.add(number)
        assert not stream.reset_there, "frames after a reset"
        if kind == "window":
            stream.may_send += length
        else:
            assert not stream.finished_there or not body, "data after the end"
            stream.may_receive -= length
            assert stream.may_receive >= 0, "more than the window"
            stream.got += body
        if fin:
            assert not stream.finished_there, "two ends"
            stream.finished_there = True
        if rst:
            stream.reset_there = True
