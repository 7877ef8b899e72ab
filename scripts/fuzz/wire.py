"""Feeds hostile bytes to the cores of the wire until the time is up; prints the seed of what breaks.

``scripts/fuzz/wire.py [--seconds 60] [--seed N]``. A round is one connection: valid traffic, cut,
changed, repeated and mixed with noise. Nothing may raise but what the cores say they raise, and
the limits must hold after every piece.
"""

from __future__ import annotations

import argparse
import random
import time

from p2p.errors import P2PError, RemoteProtocolError, StreamResetError
from p2p.multistream import answering, asking
from p2p.noise_records import RecordReader, RecordWriter
from p2p.yamux_core import HEADER, ConnectionEnded, StreamOpened, YamuxCore
from p2p.yamux_stream import StreamState, YamuxLimits

LIMITS = YamuxLimits(
    incoming_streams=8,
    unread_bytes=600_000,
    outgoing_bytes=100_000,
    idle_frames=200,
    control_frames=100,
    max_window_bytes=1 << 20,
)
VALUES = (0, 0, 1, 2, 11, 12, 13, 255, 4096, 65_519, 262_144, 262_145, 2**31, 2**32 - 1)


def frame(random: random.Random) -> bytes:
    """Valid most of the time."""
    if random.random() < 0.03:
        return random.randbytes(random.randrange(40))
    kind = random.choice((0, 0, 0, 0, 1, 1, 1, 2, 3 if random.random() < 0.05 else 1))
    flags = random.choice((0, 0, 0, 1, 1, 2, 4, 8, 5, 9, 12, random.choice((0, 16, 0xFFFF))))
    stream_id = 0 if kind >= 2 else random.choice((1, 3, 5, 7, 9, 11, 13, 15, 17, 19, random.choice((1, 2))))
    size = random.choice((0, 1, 5, 40, 3000, 5000, 20_000)) if kind == 0 else random.choice(VALUES)
    body = random.randbytes(size) if kind == 0 and random.random() < 0.99 else b""
    return HEADER.pack(0, kind, flags, stream_id, size) + body


def act(random: random.Random, core: YamuxCore, state: StreamState) -> None:
    """What an application may do at any time."""
    match random.randrange(7):
        case 0 | 1:
            core.read(state, random.choice((1, 100, 65_536, 1 << 20)), random.random())
        case 2:
            try:
                core.send(state, memoryview(random.randbytes(random.choice((0, 1, 70_000)))))
            except StreamResetError:
                assert state.reset_reason is not None or state.sent_end
        case 3:
            core.outgoing(random.choice((1, 1000, 1 << 20)))
        case 4:
            core.end(state)
        case 5:
            core.close(state)
        case 6:
            core.reset(state)


def check(core: YamuxCore, known: list[StreamState]) -> None:
    assert core.use.unread_bytes == sum(state.unread_bytes for state in known) <= LIMITS.unread_bytes
    assert len(core.streams) <= LIMITS.incoming_streams + 1
    assert 0 <= core.use.incoming_streams <= LIMITS.incoming_streams
    assert 0 <= core.use.held_streams <= 2 * LIMITS.incoming_streams
    assert core.outgoing_bytes >= 0
    assert core.outgoing_bytes <= 2 * LIMITS.outgoing_bytes + 400_000
    assert len(core._control) <= LIMITS.control_frames + len(known) + 1


def yamux_round(random: random.Random) -> None:
    core = YamuxCore(is_initiator=False, limits=LIMITS)
    known = [core.open_stream()]
    pending = b""
    for turn in range(random.randrange(400)):
        pending += frame(random)
        size = random.choice((len(pending), len(pending), random.randrange(len(pending) + 1)))
        piece, pending = pending[:size], pending[size:]
        events = core.receive(piece, turn * 0.01)
        known += [event.stream for event in events if isinstance(event, StreamOpened)]
        act(random, core, random.choice(known))
        check(core, known)
        if events and isinstance(events[-1], ConnectionEnded):
            assert core.receive(pending, turn * 0.01) == []
            break
    core.cut_all("over")
    assert not core.streams
    assert not core.has_outgoing


def noise_round(random: random.Random) -> None:
    key = random.randbytes(32)
    writer, reader = RecordWriter(key), RecordReader(key)
    plain = [random.randbytes(random.choice((0, 1, 100, 70_000))) for _ in range(random.randrange(1, 5))]
    stream = bytearray(b"".join(bytes(writer.seal((p,), memoryview(bytearray(1000)))) for p in plain))
    for _ in range(random.randrange(3)):
        at = random.randrange(len(stream) + 1)
        match random.randrange(3):
            case 0 if stream:
                stream[at % len(stream)] ^= 1 << random.randrange(8)
            case 1:
                stream[at:at] = random.randbytes(random.randrange(100))
            case 2:
                del stream[at : at + random.randrange(1000)]
    opened, at = b"", 0
    try:
        while at < len(stream):
            size = random.choice((1, 2, 17, 1000, 100_000))
            opened += b"".join(reader.receive(bytes(stream[at : at + size])))
            at += size
            assert len(reader._unfinished) <= 65537
    except RemoteProtocolError:
        pass
    assert b"".join(plain).startswith(opened)


def multistream_round(random: random.Random) -> None:
    negotiation = asking("/test/1") if random.random() < 0.5 else answering({"/test/1"})
    lines = (b"\x13/multistream/1.0.0\n", b"\x08/test/1\n", b"\x03na\n", random.randbytes(5), b"\xff\xff\x01")
    stream = b"".join(random.choice(lines) for _ in range(30))
    try:
        step = next(negotiation)
        while True:
            if isinstance(step, bytes):
                step = next(negotiation)
            else:
                assert 0 < step <= 1024
                if len(stream) < step:
                    return
                taken, stream = stream[:step], stream[step:]
                step = negotiation.send(taken)
    except StopIteration as agreed:
        assert agreed.value == "/test/1"
    except P2PError:
        pass


ROUNDS = (yamux_round, yamux_round, yamux_round, noise_round, multistream_round)


def play(seed: int) -> None:
    """One round; the same for the same seed."""
    source = random.Random(seed)
    source.choice(ROUNDS)(source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="play this one round only")
    options = parser.parse_args()
    if options.seed is not None:
        play(options.seed)
        return
    seed = first = time.time_ns()
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        try:
            play(seed)
        except BaseException:
            print(f"broken by --seed {seed}")
            raise
        seed += 1
    print(f"{seed - first} rounds, nothing broken")


if __name__ == "__main__":
    main()
