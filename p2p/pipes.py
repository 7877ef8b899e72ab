"""Bytes under a secured connection: a socket, used with few system calls, or any other raw connection.

A socket is read and written at once where that needs no waiting, which trio's own streams never
do without a trip through the scheduler. Anything else that py-libp2p calls a raw connection
(a relayed one, a memory stream in tests) works the same way, a little slower.
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
from typing import Any, Protocol

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError

from p2p.errors import StreamResetError

READ_BYTES = 512 * 1024
WRITE_BYTES = 288 * 1024
_MORE_BYTES = 32 * 1024


class Scratch:
    """Memory that all connections of one thread use in turn, never across an await."""

    def __init__(self) -> None:
        self.incoming = memoryview(bytearray(READ_BYTES))
        self.outgoing = memoryview(bytearray(WRITE_BYTES))


class Receiver(Protocol):
    """Who makes records of bytes."""

    def receive(self, data: bytes) -> list[bytes]: ...

    def room_in(self, buffer: memoryview) -> memoryview: ...

    def received_in(self, buffer: memoryview, size: int) -> list[bytes]: ...


class Pipe(Protocol):
    async def receive_into(self, receiver: Receiver) -> list[bytes] | None:
        """What ``receiver`` makes of the next bytes; None at the end. Raises StreamResetError."""

    def write(self, data: memoryview) -> bool:
        """Takes all of it, and a copy of what it does not write at once; False when there is any."""

    async def flush(self) -> None:
        """Writes the rest. Raises StreamResetError."""

    def delivered_bytes(self) -> int:
        """How many bytes the other machine has, as far as is known."""


def pipe_of(raw: Any, scratch: Scratch) -> Pipe:
    """The fastest pipe through a raw connection of py-libp2p."""
    stream = getattr(getattr(raw, "stream", None), "stream", None)
    return SocketPipe(stream.socket, scratch) if isinstance(stream, trio.SocketStream) else RawPipe(raw)


class SocketPipe:
    """A connected socket of trio's."""

    def __init__(self, socket: trio.socket.SocketType, scratch: Scratch) -> None:
        self._socket = socket
        self._scratch = scratch
        self._unsent = memoryview(b"")
        self._written_bytes = 0
        self._has_more = False

    async def receive_into(self, receiver: Receiver) -> list[bytes] | None:
        if self._has_more:
            await trio.lowlevel.checkpoint()
        size = self._read(receiver) if self._has_more else None
        while size is None:
            try:
                await trio.lowlevel.wait_readable(self._socket)  # type: ignore[arg-type]
            except trio.ClosedResourceError:
                return None
            size = self._read(receiver)
        # After little there is nothing: to wait at once is a system call and a turn less for a small message.
        self._has_more = size >= _MORE_BYTES
        return receiver.received_in(self._scratch.incoming, size) if size else None

    def _read(self, receiver: Receiver) -> int | None:
        """How many bytes there were: none where it would have to wait, 0 at the end."""
        room = receiver.room_in(self._scratch.incoming)
        try:
            return os.readv(self._socket.fileno(), (room,))
        except BlockingIOError:
            return None
        except OSError as error:
            raise StreamResetError(f"connection cut while reading: {error}") from error

    def write(self, data: memoryview) -> bool:
        sent = self._write(data)
        if sent == len(data):
            return True
        self._unsent = memoryview(bytes(data[sent:]))
        return False

    async def flush(self) -> None:
        while self._unsent:
            try:
                await trio.lowlevel.wait_writable(self._socket)  # type: ignore[arg-type]
            except trio.ClosedResourceError as error:
                raise StreamResetError("connection closed while writing") from error
            self._unsent = self._unsent[self._write(self._unsent) :]

    def _write(self, data: memoryview) -> int:
        try:
            written = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise StreamResetError(f"connection cut while writing: {error}") from error
        self._written_bytes += written
        return written

    def delivered_bytes(self) -> int:
        under_way = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, under_way)
        except (OSError, ValueError):  # closed meanwhile
            return self._written_bytes
        return self._written_bytes - under_way[0]


class RawPipe:
    """Any ``IRawConnection``: ``await read(n)``, ``await write(data)``."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._unsent: list[bytes] = []
        self._written_bytes = 0

    async def receive_into(self, receiver: Receiver) -> list[bytes] | None:
        try:
            data = await self._raw.read(READ_BYTES)
        except (IOException, RawConnError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamResetError(f"connection cut while reading: {error}") from error
        return receiver.receive(data) if data else None

    def write(self, data: memoryview) -> bool:
        self._unsent.append(bytes(data))
        return False

    async def flush(self) -> None:
        while self._unsent:
            try:
                await self._raw.write(self._unsent[0])
            except (IOException, RawConnError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise StreamResetError(f"connection cut while writing: {error}") from error
            self._written_bytes += len(self._unsent.pop(0))

    def delivered_bytes(self) -> int:
        return self._written_bytes
