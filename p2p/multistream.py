"""multistream-select 1.0: both sides agree on a protocol. The rules do no IO.

A negotiation is a generator: it yields bytes that are to be sent, or the number of bytes that it
needs next, and returns the protocol. Nothing beyond the agreement is read.
"""

from __future__ import annotations

from collections.abc import Container, Generator
from typing import Protocol

from p2p.errors import ConnectionFailedError, RemoteProtocolError, StreamResetError

_HEADER = "/multistream/1.0.0"
_REFUSED = "na"
_MAX_LINE_BYTES = 1024
_MAX_PROPOSALS = 16

Negotiation = Generator[bytes | int, bytes, str]


def asking(protocol: str) -> Negotiation:
    """Header and proposal go out together, so that agreeing takes one round trip.

    Raises ConnectionFailedError when the other side does not speak ``protocol``,
    RemoteProtocolError when it does not speak multistream.
    """
    yield _line(_HEADER) + _line(protocol)
    yield from _expect_header()
    answer = yield from _read_line()
    if answer != protocol:
        raise ConnectionFailedError(f"the other side does not speak {protocol}: {answer!r}")
    return protocol


def answering(spoken: Container[str]) -> Negotiation:
    """Refuses proposals until one is among ``spoken``. Raises RemoteProtocolError."""
    yield from _expect_header()
    yield _line(_HEADER)
    for _ in range(_MAX_PROPOSALS):
        proposal = yield from _read_line()
        if proposal in spoken:
            yield _line(proposal)
            return proposal
        yield _line(_REFUSED)
    raise RemoteProtocolError(f"{_MAX_PROPOSALS} protocols proposed, none of them spoken here")


def _expect_header() -> Generator[bytes | int, bytes, None]:
    header = yield from _read_line()
    if header != _HEADER:
        raise RemoteProtocolError(f"{header!r} instead of {_HEADER}")


def _read_line() -> Negotiation:
    size = shift = 0
    while True:
        byte = (yield 1)[0]
        size |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 14:
            raise RemoteProtocolError(f"multistream line of over {_MAX_LINE_BYTES} bytes")
    if not 0 < size <= _MAX_LINE_BYTES:
        raise RemoteProtocolError(f"multistream line of {size} bytes, allowed 1 to {_MAX_LINE_BYTES}")
    line = yield size
    return line.decode("utf-8", "replace").removesuffix("\n")


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    if len(data) > 127:
        return bytes((len(data) & 127 | 128, len(data) >> 7)) + data
    return bytes((len(data),)) + data


class ByteStream(Protocol):
    @property
    def unread_bytes(self) -> int:
        """What can be read without waiting, as far as is known."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes: ...


async def negotiate(stream: ByteStream, negotiation: Negotiation) -> str:
    """The protocol agreed on; what is to be sent goes out as late, and as much at once, as it may.

    Raises what the negotiation raises, and StreamResetError.
    """
    to_send = b""
    try:
        step = next(negotiation)
        while True:
            if isinstance(step, bytes):
                to_send += step
                step = next(negotiation)
                continue
            if to_send and stream.unread_bytes < step:
                await stream.send_all(to_send)
                to_send = b""
            step = negotiation.send(await _read_exactly(stream, step))
    except StopIteration as agreed:
        if to_send:
            await stream.send_all(to_send)
        return str(agreed.value)


async def select_protocol(stream: ByteStream, protocol: str) -> None:
    """Agrees on the protocol of a new stream, as ``asking``. Raises StreamResetError besides."""
    await negotiate(stream, asking(protocol))


async def _read_exactly(stream: ByteStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise StreamResetError("the stream ended while the protocol was negotiated")
        data += more
    return data
