"""Clients that do not send what they announced, or do not take what they asked for, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from backend.formats.tensors import Array
from backend.runtime.base import Runtime
from backend.serving import body_budget, connection, seats, server
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


def over_a_socket(
    work: Callable[[Client, Endless], Awaitable[None]], runtime: Runtime | None = None, connections: int = 16
) -> None:
    async def main() -> None:
        tested, endless = Server({"m": runtime or Single()}, ServerLimits()), Endless()
        tested.app.route((Route("GET", "/endless", endless.answer, "Never ends", None),))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            running = server._Server(server.server_config(tested.app, connections), lambda: None)
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
    monkeypatch.setattr(connection, "WRITE_TIMEOUT_S", 0.05)

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


def test_an_answer_to_head_is_that_to_get_without_its_body() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        ask = b"%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        writer.write(ask % b"HEAD /health" + ask % b"GET /health" + ask % b"HEAD /v1/predict")
        head = await reader.readuntil(b"\r\n\r\n")
        got, body = await _answer(reader)
        assert head.startswith(b"HTTP/1.1 200 ") and sorted(head.split()) == sorted(got.split())
        assert b'"status":"ok"' in body
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")

    over_a_socket(work)


@pytest.mark.parametrize("split", [0, 40, 1])
def test_who_offers_another_protocol_is_answered_in_this_one_and_loses_no_body(split: int) -> None:
    """As ``curl --http2`` and Java's client do with each first request. Where the word itself comes in parts,
    the connection ends after an answer."""

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
        data = _request(1, offer)
        at = data.index(b"rade: h2c") if split == 1 else split
        writer.write(data[:at])
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(data[at:] + _request(2))
        head, body = await _answer(reader)
        if split == 1:
            assert b"connection: close" in head
            assert await reader.read() == b""
        else:
            assert head.startswith(b"HTTP/1.1 200 ") and b"[[2.0,0.0,0.0]]" in body
            assert b"[[4.0,0.0,0.0]]" in (await _answer(reader))[1]

    over_a_socket(work)


def test_no_http_is_refused_in_json() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(b"BREW /pot HTCPCP/1.0\r\n\r\n")
        head, body = await _answer(reader)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "no_http"
        assert await reader.read() == b""

    over_a_socket(work)


def test_more_requests_at_once_than_may_wait_end_their_connection() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 5000)
        await endless.ended.wait()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass

    over_a_socket(work)


def test_more_requests_than_may_wait_are_answered_where_they_come_one_after_the_other() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        for _ in range(3):
            writer.write(_request(1) * 200)
            for _ in range(200):
                assert b"[[2.0,0.0,0.0]]" in (await _answer(reader))[1]

    over_a_socket(work)


def test_a_request_that_waits_behind_no_http_is_not_answered_with_its_refusal() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + _request(1) + b"no http\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b" 400 " not in await reader.read(1 << 16)
        await endless.ended.wait()

    over_a_socket(work)


def test_a_client_that_leaves_with_a_request_in_waiting_takes_the_first_back() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + _request(1))
        await reader.readline()
        writer.transport.abort()
        await endless.ended.wait()

    over_a_socket(work)


def test_whoever_only_sits_there_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "PATIENCE_S", 0.0)

    async def work(client: Client, endless: Endless) -> None:
        where = client[1].get_extra_info("peername")
        sitting = [await asyncio.open_connection(*where) for _ in range(9)]
        for _, writer in sitting:
            writer.write(_HEAD + b"content-length: 10\r\n\r\n12345")
        reader, writer = await asyncio.open_connection(*where)
        writer.write(_request(1))
        assert (await _answer(reader))[0].startswith(b"HTTP/1.1 200 ")
        for _, each in (*sitting, (reader, writer)):
            each.close()

    over_a_socket(work, connections=4)


def test_a_full_server_says_so() -> None:
    async def work(client: Client, endless: Endless) -> None:
        where = client[1].get_extra_info("peername")
        client[1].write(b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await client[0].readline()
        reader, writer = await asyncio.open_connection(*where)
        writer.write(_request(1))
        head, body = await _answer(reader)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections" in body
        writer.close()

    over_a_socket(work, connections=1)


def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0.05)

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        writer.write(_request(1))
        await _answer(reader)
        assert await reader.read() == b""

    over_a_socket(work)


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        head, _, body = _request(1, b"expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await _answer(reader))[0].startswith(b"HTTP/1.1 200 ")

    over_a_socket(work)


def test_a_request_in_pieces_is_answered_as_one_in_one_piece_and_refusals_the_same() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        wrong = _request(1).replace(b"[[", b'["')
        for data in (_request(1), wrong):
            answers = []
            for cut in (len(data), 20, len(data) - 3):
                writer.write(data[:cut])
                for _ in range(5):
                    await asyncio.sleep(0)  # the server reads
                writer.write(data[cut:])
                answers.append(await _answer(reader))
            assert answers == [answers[0]] * 3
            assert (b" 400 " in answers[0][0]) == (data is wrong)

    over_a_socket(work)


async def _warm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Loads the model: what it is asked then needs no task."""
    writer.write(_request(1))
    await _answer(reader)


class Touchy(Single):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Array]] = []

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        self.seen.append(weakref.ref(inputs["x"]))
        if inputs["x"].max() > 5:
            raise KeyError("secret")
        return super().run(inputs)


def test_a_model_that_fails_without_a_task_fails_for_this_request_only() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        writer.write(_request(9) + _request(2))
        head, body = await _answer(reader)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in body
        assert (await _answer(reader))[0].startswith(b"HTTP/1.1 200 ")

    over_a_socket(work, Touchy())


def test_what_failed_holds_no_memory_until_cycles_are_collected() -> None:
    model = Touchy()

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        bad = _request(9)
        for cut in (len(bad), 40):  # without a task, and with one
            writer.write(bad[:cut])
            await asyncio.sleep(0)
            writer.write(bad[cut:])
            await _answer(reader)
        assert not any(seen() is not None for seen in model.seen)

    gc.disable()
    try:
        over_a_socket(work, model)
    finally:
        gc.enable()
    assert len(model.seen) > 2


def test_what_is_answered_holds_no_memory_until_cycles_are_collected() -> None:
    def requests_held() -> int:
        # isinstance would ask weak references to what is gone.
        return sum(type(each) is RequestResponseCycle for each in gc.get_objects())

    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        gc.collect()
        before = requests_held()
        for _ in range(3):
            writer.write(_request(1))
            await _answer(reader)
        assert requests_held() <= before  # the newest, which its connection holds

    gc.disable()
    try:
        over_a_socket(work)
    finally:
        gc.enable()


def test_what_fails_without_a_task_is_told_and_counted() -> None:
    async def work(client: Client, endless: Endless) -> None:
        reader, writer = client
        await _warm(reader, writer)
        writer.write(_request(1).replace(b"/v1/predict", b"/v2/models/m/infer"))
        head, _ = await _answer(reader)
        assert head.startswith(b"HTTP/1.1 400 ")
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        told = (await _answer(reader))[1]
        assert b'cyxwiz_requests_total{model="m",outcome="ok"} 1' in told
        assert b'cyxwiz_in_flight{model="m"} 0' in told
        assert b'cyxwiz_refused_total{reason="invalid"} 1' in told

    over_a_socket(work)
