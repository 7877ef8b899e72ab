"""Clients that do not send what they announced, or do not take what they asked for, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from backend.serving import body_budget, server
from backend.serving.app import Route
from backend.serving.http import Call, Stream
from backend.serving.messages import ServerLimits
from tests.unit.backend.serving.server import Server, Single

_HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Endless:
    """Streams without end; ``ended`` once nobody wants more."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def answer(self, call: Call) -> Stream:
        return Stream(b"first", self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)  # as what makes tokens lets others run
                yield bytes(1 << 16)
        finally:
            self.ended.set()


def over_a_socket(work: Callable[[Client, Endless], Awaitable[None]]) -> None:
    async def main() -> None:
        tested, endless = Server({"m": Single()}, ServerLimits()), Endless()
        tested.app.route((Route("GET", "/endless", endless.answer, "Never ends", None),))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            running = server._Server(server.server_config(tested.app, 16), lambda: None)
            serving = asyncio.ensure_future(running.serve(sockets=[listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                async with asyncio.timeout(30):
                    await work((reader, writer), endless)
            finally:
                writer.close()
                running.should_exit = True
                await serving

    asyncio.run(main())


def test_a_body_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "TIMEOUT_S", 0.05)

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(_HEAD + b"content-length: 10\r\n\r\n")
        assert b" 408 " in await reader.readline()

    over_a_socket(work)


def test_whoever_takes_nothing_of_a_stream_frees_what_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WRITE_TIMEOUT_S", 0.05)

    async def work(client: Client, endless: Endless) -> None:
        _, writer = client
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await endless.ended.wait()

    over_a_socket(work)


def test_a_trailer_without_end_is_cut_off() -> None:
    async def work(client: Client, endless: Endless) -> None:
        _, writer = client
        writer.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: ")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(bytes(b"a" * (1 << 16)))
                await writer.drain()

    over_a_socket(work)


def test_a_body_in_small_chunks_is_read() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        body = b'{"inputs": [' + b", ".join([b"[1, 2, 3]"] * 5000) + b"]}"
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        writer.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert b" 200 " in await reader.readline()

    over_a_socket(work)


def _request(value: int, *more: bytes) -> bytes:
    body = b'{"inputs": [[%d, 0, 0]]}' % value
    return b"\r\n".join((_HEAD + b"content-length: %d" % len(body), *more, b"", body))


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(size)


def test_requests_sent_at_once_are_answered_in_turn_until_one_asks_to_close() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(_request(1) + _request(2) + _request(3, b"connection: close") + _request(4))
        for value in (2, 4, 6):
            head, body = await _answer(reader)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"[[%d.0,0.0,0.0]]" % value in body
            assert (b"connection: close" in head) == (value == 6)
        assert await reader.read() == b""

    over_a_socket(work)


def test_an_answer_to_head_has_no_body() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(b"HEAD /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + _request(1))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        assert (await _answer(reader))[0].startswith(b"HTTP/1.1 200 ")

    over_a_socket(work)


def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.05)

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(_request(1))
        await _answer(reader)
        assert await reader.read() == b""

    over_a_socket(work)
