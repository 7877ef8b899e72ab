"""multistream-select 1.0, the asking side: agrees on the protocol of a new stream in one round trip."""

from __future__ import annotations

from typing import Protocol

from p2p.errors import ConnectionFailedError, RemoteProtocolError, StreamResetError

_HEADER = "/multistream/1.0.0"
_MAX_LINE_BYTES = 1024


class ByteStream(Protocol):
    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes: ...


async def select_protocol(stream: ByteStream, protocol: str) -> None:
    """Reads not one byte beyond the agreement.

    Raises ConnectionFailedError when the other side does not speak ``protocol``,
    StreamResetError and RemoteProtocolError.
    """
    await stream.send_all(_line(_HEADER) + _line(protocol))
    header = await _read_line(stream)
    if header != _HEADER:
        raise RemoteProtocolError(f"{header!r} instead of {_HEADER}")
    answer = await _read_line(stream)
    if answer != protocol:
        raise ConnectionFailedError(f"the other side does not speak {protocol}: {answer!r}")


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    if len(data) > 127:
        return bytes((len(data) & 127 | 128, len(data) >> 7)) + data
    return bytes((len(data),)) + data


async def _read_line(stream: ByteStream) -> str:
    size = shift = 0
    while True:
        byte = (await _read_exactly(stream, 1))[0]
        size |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 14:
            raise RemoteProtocolError(f"multistream line of over {_MAX_LINE_BYTES} bytes")
    if not 0 < size <= _MAX_LINE_BYTES:
        raise RemoteProtocolError(f"multistream line of {size} bytes, allowed 1 to {_MAX_LINE_BYTES}")
    line = await _read_exactly(stream, size)
    return line.decode("utf-8", "replace").removesuffix("\n")


async def _read_exactly(stream: ByteStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise StreamResetError("the stream ended while the protocol was negotiated")
        data += more
    return data
