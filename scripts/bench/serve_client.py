"""One fast client for every server under test: raw sockets on asyncio, HTTP/1.1 and gRPC's HTTP/2 alike.

``python serve_client.py`` reads a Load as JSON on stdin and writes what it measured on stdout.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import struct
import sys
import time
from dataclasses import asdict, dataclass
from typing import Protocol

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FIRST_WINDOW = 65535


@dataclass(frozen=True)
class Load:
    """``clients`` ask one after the other, ``requests`` in all."""

    port: int
    clients: int
    requests: int
    path: str
    content_type: str
    body: str
    """latin-1."""
    grpc: bool = False
    library: bool = False
    """grpc.aio's own client instead of ours."""


@dataclass(frozen=True)
class Measured:
    per_s: float
    p50_ms: float
    p99_ms: float


class Client(Protocol):
    async def open(self, port: int) -> None: ...

    async def ask(self) -> None: ...

    def close(self) -> None: ...


class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def open(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.writer.close()


class HttpClient(_Connection):
    def __init__(self, load: Load) -> None:
        body = load.body.encode("latin-1")
        head = (
            f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {load.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    async def ask(self) -> None:
        self.writer.write(self._request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b" 200" not in head[:16]:
            raise RuntimeError(head.decode("latin-1"))
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        await self.reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))


class GrpcClient(_Connection):
    """Unary calls on one connection, one at a time."""

    def __init__(self, load: Load) -> None:
        body = load.body.encode("latin-1")
        self._message = b"\0" + struct.pack(">I", len(body)) + body
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": load.path,
            ":authority": "127.0.0.1",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._head = b"".join(
            _literal(name.encode()) + _text(value.encode()) for name, value in fields.items()
        )
        self._stream = 1
        self._window = _FIRST_WINDOW

    async def open(self, port: int) -> None:
        await super().open(port)
        self.writer.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_WINDOW, 0, 0, struct.pack(">I", 1 << 30))
        )

    async def ask(self) -> None:
        while self._window < len(self._message):
            await self._next_frame()
        self._window -= len(self._message)
        stream, self._stream = self._stream, self._stream + 2
        self.writer.write(
            _frame(_HEADERS, _END_HEADERS, stream, self._head)
            + _frame(_DATA, _END_STREAM, stream, self._message)
        )
        got = 0
        while True:
            kind, flags, size = await self._next_frame()
            got += size if kind == _DATA else 0
            if kind == _HEADERS and flags & _END_STREAM:
                if got < 6:
                    raise RuntimeError("gRPC answered without a message")
                return

    async def _next_frame(self) -> tuple[int, int, int]:
        head = await self.reader.readexactly(9)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = await self.reader.readexactly(size)
        if kind == _SETTINGS and not flags & _ACK:
            self.writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW and head[5:] == bytes(4):
            self._window += int.from_bytes(payload, "big") & 0x7FFFFFFF
        elif kind == _GOAWAY:
            raise RuntimeError(f"gRPC closed the connection: {payload!r}")
        return kind, flags, size


class GrpcLibraryClient:
    """What users of grpc.aio have on their side too."""

    def __init__(self, load: Load) -> None:
        self._path = load.path
        self._body = load.body.encode("latin-1")

    async def open(self, port: int) -> None:
        import grpc

        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._infer = self._channel.unary_unary(self._path)
        await self._channel.channel_ready()

    async def ask(self) -> None:
        await self._infer(self._body)

    def close(self) -> None:
        """The process ends next."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes) -> bytes:
    """HPACK: without indexing, new name."""
    return b"\0" + _text(name)


def _text(value: bytes) -> bytes:
    if len(value) > 126:
        raise ValueError("longer than one byte of HPACK length can say")
    return bytes((len(value),)) + value


async def measure(load: Load) -> Measured:
    kind = GrpcLibraryClient if load.library else GrpcClient if load.grpc else HttpClient
    clients: list[Client] = [kind(load) for _ in range(load.clients)]
    took_s: list[float] = []

    async def work(client: Client, count: int, *, timed: bool) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await client.ask()
            if timed:
                took_s.append(time.perf_counter() - began)

    for client in clients:
        await client.open(load.port)
    await asyncio.gather(*(work(client, 20, timed=False) for client in clients))
    began = time.perf_counter()
    each = max(1, load.requests // load.clients)
    await asyncio.gather(*(work(client, each, timed=True) for client in clients))
    duration_s = time.perf_counter() - began
    for client in clients:
        client.close()
    took_s.sort()
    p99 = took_s[min(len(took_s) - 1, int(0.99 * len(took_s)))]
    return Measured(len(took_s) / duration_s, 1000 * statistics.median(took_s), 1000 * p99)


def main() -> None:
    import uvloop

    load = Load(**json.loads(sys.stdin.read()))
    # grpc.aio brings a poller of its own, which is made for asyncio's loop.
    run = asyncio.run if load.library else uvloop.run
    print(json.dumps(asdict(run(measure(load)))))


if __name__ == "__main__":
    main()
