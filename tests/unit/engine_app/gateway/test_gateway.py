"""A gateway over real sockets: who gets a request, what a client sees of trouble, what strangers may cost."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import pytest
import trio

from backend.serving import seats
from backend.serving.asked import Asked
from backend.serving.http import HttpError
from backend.serving.keys import Gatekeeper, make_key
from engine_app.gateway import connection
from engine_app.gateway.application import AppConfig
from engine_app.gateway.endpoint import Place
from engine_app.gateway.errors import EndpointBusyError, EndpointLostError
from engine_app.gateway.health import WELL
from engine_app.gateway.server import ServerBounds
from tests.unit.engine_app.gateway.gateways import CHAT, Fake, Told, gateway, receive, replicas, talk, until

EVENTS = "text/event-stream"
PROMPT = {"model": "m", "messages": [{"role": "user", "content": "secret"}]}


async def test_a_request_and_its_answer_go_through_as_they_are() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [
        Told(
            (b"\x00\x01",),
            headers=((b"x-shape", b"1,2"), (b"set-cookie", b"a=b")),
            content_type="application/octet-stream",
        )
    ]
    async with gateway((fake, place)) as tested:
        got = await tested.ask(
            "/v1/predict",
            b"\x07" * 100_000,
            content_type="application/octet-stream",
            x_dtype="uint8",
            authorization="Bearer secret",
        )
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"\x00\x01", "2")
    assert got.headers["x-shape"] == "1,2"
    assert "set-cookie" not in got.headers
    (asked,) = fake.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/predict", b"\x07" * 100_000)
    assert dict(asked.headers) == {b"x-dtype": b"uint8", b"x-model": b"m"}, "and no key"


async def test_a_model_is_found_by_path_field_and_body_and_called_as_its_endpoint_calls_it() -> None:
    fake = Fake("a")
    other = Fake("b")
    async with gateway((other, Place("other", "other")), (fake, Place("m", "job-1"))) as tested:
        await tested.ask("/v2/models/m/infer", {"inputs": []})
        await tested.ask(CHAT, PROMPT)
        await tested.ask("/v1/model", x_model="m")
        assert (await tested.ask(CHAT, {"messages": []})).status == 400
        missing = await tested.ask(CHAT, PROMPT | {"model": "n"})
        await tested.ask("/v1/model")
    infer, chat, model = fake.asked
    assert infer.path == "/v2/models/job-1/infer"
    assert chat.body == b'{"model":"job-1","messages":[{"role": "user", "content": "secret"}]}'
    assert dict(model.headers)[b"x-model"] == b"job-1"
    assert (missing.status, "other, m" in missing.json["error"]["message"]) == (404, True)
    assert len(other.asked) == 1, "the first model is meant where none is named"


async def test_replicas_share_the_work_and_the_one_with_a_queue_gets_less() -> None:
    some = replicas(3)
    go = trio.Event()
    for fake, _ in some:
        fake.told = [Told(hold=go)]
    some[2][0].queue_depth = 100
    async with gateway(*some, watch=True) as tested, trio.open_nursery() as nursery:
        await until(lambda: all(fake.looked_at for fake, _ in some))
        for _ in range(10):
            nursery.start_soon(tested.ask, CHAT, PROMPT)
        await until(lambda: sum(len(fake.asked) for fake, _ in some) == 10)
        go.set()
    assert [len(fake.asked) for fake, _ in some] == [5, 5, 0]


async def test_what_one_endpoint_fails_another_one_answers() -> None:
    (dead, place), (full, _), (well, _) = replicas(3)
    dead.told, full.told = [None], [Told(status=503)]
    well.told = [Told((b'{"ok":1}',))]
    async with gateway((dead, place), (full, place), (well, place)) as tested:
        got = await tested.ask(CHAT, PROMPT)
        metrics = (await tested.ask("/metrics")).body.decode()
    assert got.json == {"ok": 1}
    assert [len(fake.asked) for fake in (dead, full, well)] == [1, 1, 1]
    assert 'requests_total{model="m",endpoint="m-0",outcome="lost"} 1' in metrics
    assert 'retried_total{model="m",endpoint="m-1"} 1' in metrics
    assert 'up{model="m",endpoint="m-0"} 0' in metrics
    assert 'up{model="m",endpoint="m-2"} 1' in metrics


async def test_a_request_that_ends_workers_does_not_end_all_of_them() -> None:
    some = replicas(4)
    for fake, _ in some:
        fake.told = [Told((b"half",), breaks=True)]
    async with gateway(*some) as tested:
        got = await tested.ask("/v1/predict", b"x", content_type="application/octet-stream")
    assert got.status == 502
    assert sum(len(fake.asked) for fake, _ in some) == 2


async def test_the_last_one_that_is_full_says_so_itself() -> None:
    some = replicas(2)
    for fake, _ in some:
        fake.told = [Told((b'{"error":"full"}',), 503, headers=((b"retry-after", b"7"),))]
    async with gateway(*some) as tested:
        got = await tested.ask(CHAT, PROMPT)
    assert (got.status, got.headers["retry-after"], got.json) == (503, "7", {"error": "full"})


async def test_who_has_no_room_is_left_and_who_refuses_is_believed() -> None:
    (full, place), (picky, _) = replicas(2)
    full.told = [EndpointBusyError("full")]
    picky.told = [HttpError(413, "too_large", "body of 9 bytes, limit 8")]
    async with gateway((full, place), (picky, place)) as tested:
        got = await tested.ask(CHAT, PROMPT)
        assert (got.status, got.json["error"]["code"]) == (413, "too_large")
        picky.told = [EndpointBusyError("full")]
        got = await tested.ask(CHAT, PROMPT)
        assert (got.status, got.headers["retry-after"]) == (503, "2")
        outcomes = [dict(member.stats.requests) for member in tested.pool.members]
    assert outcomes == [{"busy": 2}, {"refused": 1, "busy": 1}]


async def test_a_stream_that_fails_before_its_first_part_begins_elsewhere_and_later_says_so() -> None:
    (first, place), (second, _) = replicas(2)
    first.told = [Told((), content_type=EVENTS, breaks=True)]
    second.told = [Told((b"data: 1\n\n", b"data: 2\n\n"), content_type=EVENTS, breaks=True)]
    async with gateway((first, place), (second, place)) as tested:
        got = await tested.ask(CHAT, PROMPT)
    assert got.body.startswith(b'data: 1\n\ndata: 2\n\ndata: {"error"')
    assert b"[DONE]" not in got.body
    assert (len(first.asked), len(second.asked)) == (1, 1), "what has begun is not begun again"


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"x" * 200_000,), breaks=True)]
    async with gateway((fake, place)) as tested:
        got = await tested.ask("/v1/model")
    assert not got.whole


async def test_parts_of_a_stream_arrive_as_they_come() -> None:
    (fake, place), *_ = replicas(1)
    go = trio.Event()
    fake.told = [Told((b"data: 1\n\n", b"data: 2\n\n"), content_type=EVENTS, hold=go)]
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        seen = b""
        while b"data: 1" not in seen:
            seen += await stream.receive_some(1 << 16)
        assert b"data: 2" not in seen
        go.set()
        while b"data: 2" not in seen:
            seen += await stream.receive_some(1 << 16)


async def test_a_client_that_leaves_takes_its_request_back() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told(hold=trio.Event())]
    async with gateway((fake, place)) as tested:
        stream = await tested.open()
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(fake.asked))
        await stream.aclose()
        await fake.cancelled.wait()
        await until(lambda: tested.pool.members[0].load.in_flight == 0)
        assert tested.pool.members[0].stats.requests["left"] == 1


async def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_TIMEOUT_S", 0.05)
    (fake, place), *_ = replicas(1)
    fake.told = [Told(tuple([bytes(1 << 20)] * 64))]
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(fake.asked))
        await until(lambda: tested.pool.members[0].load.in_flight == 0)


async def test_an_endpoint_that_is_silent_is_given_up_in_time() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told(hold=trio.Event())]
    async with gateway((fake, place), config=AppConfig("1", timeout_s=0.05)) as tested:
        assert (await tested.ask(CHAT, PROMPT)).status == 504
        await fake.cancelled.wait()


async def test_a_dead_endpoint_is_taken_out_and_comes_back() -> None:
    (fake, place), *_ = replicas(1)
    fake.told, fake.is_there = [None, Told()], False
    async with gateway((fake, place), watch=True) as tested:
        await until(lambda: not tested.pool.members[0].health.is_up)
        got = await tested.ask(CHAT, PROMPT)
        assert (got.status, got.headers["retry-after"]) == (503, "2")
        assert fake.asked == [], "nobody is sent there"
        assert (await tested.ask("/v2/models/m/ready")).status == 503
        assert (await tested.ask("/health")).json["status"] == "degraded"
        fake.told, fake.is_there = [Told()], True
        await until(lambda: tested.pool.members[0].health.is_up)
        assert (await tested.ask(CHAT, PROMPT)).status == 200


async def test_a_request_waits_for_an_endpoint_that_is_being_replaced() -> None:
    (fake, place), *_ = replicas(1)
    async with gateway((fake, place), config=AppConfig("1", wait_s=60)) as tested:
        (member,) = tested.pool.members
        tested.pool.note_loss(member)
        async with await tested.open() as stream:
            await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            await until(lambda: tested.app.load()[0] == 1)
            assert fake.asked == []
            tested.pool.set_health(member, WELL)
            assert b" 200 " in await stream.receive_some(1 << 16)


async def test_what_waits_at_an_endpoint_that_is_gone_goes_to_another_one() -> None:
    (silent, place), (well, _) = replicas(2)
    silent.told = [Told(hold=trio.Event())]
    async with gateway((silent, place), (well, place)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(silent.asked))
        tested.pool.note_loss(tested.pool.members[0])
        assert b" 200 " in await stream.receive_some(1 << 16)
        assert silent.cancelled.is_set()
        assert tested.pool.members[0].stats.requests["lost"] == 1


@pytest.mark.parametrize("comes_later", [False, True])
async def test_what_waits_at_an_endpoint_that_was_removed_goes_to_another_one(comes_later: bool) -> None:
    (silent, place), (well, _) = replicas(2)
    silent.told = [Told(hold=trio.Event())]
    async with gateway((silent, place)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(silent.asked))
        (member,) = tested.pool.members
        if comes_later:
            tested.pool.remove(member)
            assert not silent.cancelled.is_set(), "it may still answer, and nobody else can"
            tested.pool.add(well, place)
        else:
            tested.pool.add(well, place)
            assert not silent.cancelled.is_set()
            tested.pool.remove(member)
        assert b" 200 " in await stream.receive_some(1 << 16)
        await silent.cancelled.wait()


async def test_what_waits_at_a_peer_that_was_forbidden_is_taken_back_even_if_nobody_else_answers() -> None:
    (far, _), *_ = replicas(1)
    far.told = [Told(hold=trio.Event())]
    async with gateway((far, Place("m", "m", "P", "job"))) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(far.asked))
        (member,) = tested.pool.members
        tested.forbidden.add("P")
        tested.pool.remove(member)
        assert b" 502 " in await stream.receive_some(1 << 16)
        await far.cancelled.wait()


async def test_a_peer_that_is_not_allowed_sees_nothing_from_that_moment() -> None:
    (far, _), (here, place) = replicas(2)
    far.told = [None]
    here.told = [Told(status=503)]
    async with gateway((far, Place("m", "m", "P", "job")), (Fake("n"), Place("n", "n", "P"))) as tested:
        tested.forbidden.add("P")
        assert (await tested.ask(CHAT, PROMPT)).status == 404
        assert (await tested.ask("/v1/models")).json["data"] == []
        tested.pool.add(here, place)
        assert (await tested.ask(CHAT, PROMPT)).status == 503, "nor when others have no room"
    assert far.asked == []


async def test_all_models_are_listed_together() -> None:
    some = [*replicas(2, "m"), *replicas(1, "far", "P")]
    async with gateway(*some) as tested:
        assert [each["id"] for each in (await tested.ask("/v1/models")).json["data"]] == ["m", "far"]
        index = (await tested.ask("/v2/repository/index", {})).json
        assert [(each["name"], each["state"]) for each in index] == [("m", "READY"), ("far", "READY")]
        assert (await tested.ask("/v2/health/ready")).status == 200
        document = (await tested.ask("/openapi.json")).json
        assert "/v1/chat/completions" in document["paths"]
        assert (await tested.ask("/")).body.startswith(b"<!doctype html>")


async def test_a_model_that_is_unloaded_gets_nothing_until_it_is_loaded_again() -> None:
    (fake, place), *_ = replicas(1)
    async with gateway((fake, place)) as tested:
        assert (await tested.ask("/v2/repository/models/m/unload", {})).status == 200
        assert "unloaded" in (await tested.ask(CHAT, PROMPT)).json["error"]["message"]
        assert (await tested.ask("/v2/models/m/ready")).status == 503
        assert (await tested.ask("/v2/repository/index", {})).json[0]["state"] == "UNAVAILABLE"
        assert (await tested.ask("/v2/repository/models/n/unload", {})).status == 404
        assert (await tested.ask("/v2/repository/models/m/load", {})).status == 200
        assert (await tested.ask(CHAT, PROMPT)).status == 200
    assert len(fake.asked) == 1


async def test_whoever_only_sits_there_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "PATIENCE_S", 0.0)
    (fake, place), *_ = replicas(1)
    go = trio.Event()
    fake.told = [Told(hold=go), Told()]
    bounds = ServerBounds(connections=4)
    async with gateway((fake, place), bounds=bounds) as tested, trio.open_nursery() as nursery:
        busy = await tested.open()
        await busy.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(fake.asked))
        sitting = [await tested.open() for _ in range(9)]
        for stream in sitting:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n1")
        assert (await tested.ask(CHAT, PROMPT)).status == 200
        go.set()
        assert b" 200 " in await busy.receive_some(1 << 16), "who is being answered stays"
        assert tested.server.unanswered == 0, "who made room has asked for nothing whole"
        for stream in (*sitting, busy):
            nursery.start_soon(trio.aclose_forcefully, stream)


async def test_keys_their_scopes_and_limits_hold() -> None:
    text, key = make_key("phone", ("predict",), 2, ("id", "s" * 43), "now")
    async with gateway(*replicas(1), keys=(key,), needs_key=True) as tested:
        assert (await tested.ask("/v1/models")).status == 401
        assert (await tested.ask("/v1/models", authorization="Bearer cyx_id_wrong")).status == 401
        assert (await tested.ask("/metrics", authorization=f"Bearer {text}")).status == 403
        seen = [(await tested.ask("/v1/models", authorization=f"Bearer {text}")).status for _ in range(3)]
        assert seen == [200, 200, 429]
        assert (await tested.ask("/health")).json["needs_key"] is True


async def test_an_answer_breaks_off_once_its_key_is_taken_back() -> None:
    text, key = make_key("phone", ("predict",), 0, ("id", "s" * 43), "now")
    ((fake, place),) = replicas(1)
    go = trio.Event()
    fake.told = [Told((b"data: a\n\n", b"data: b\n\n"), content_type="text/event-stream", hold=go)]
    body = json.dumps(PROMPT).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {text}\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    async with gateway((fake, place), keys=(key,), needs_key=True) as tested, await tested.open() as stream:
        await stream.send_all(head.encode() + body)
        seen = b""
        while b"data: a" not in seen:
            seen += await stream.receive_some(1 << 16)
        tested.keys.replace(())
        go.set()
        with suppress(trio.BrokenResourceError):
            while part := await stream.receive_some(1 << 16):
                seen += part
        await fake.cancelled.wait()
    assert seen.startswith(b"HTTP/1.1 200")
    assert b"data: b" not in seen
    assert not seen.endswith(b"0\r\n\r\n"), "the client sees that something is missing"


@dataclass
class Revoking(Fake):
    """Has the keys taken back while it is asked."""

    keys: Gatekeeper | None = None

    def ask(self, asked: Asked) -> Any:
        if self.keys is not None:
            self.keys.replace(())
        return super().ask(asked)


@pytest.mark.parametrize(("told", "status"), [(Told(), 401), (EndpointLostError("gone"), 502)])
async def test_whoever_waits_while_its_key_is_taken_back_is_told_so(
    told: Told | Exception, status: int
) -> None:
    text, key = make_key("phone", ("predict",), 0, ("id", "s" * 43), "now")
    ((_, place),) = replicas(1)
    fake = Revoking("a", [told])
    async with gateway((fake, place), keys=(key,), needs_key=True) as tested:
        fake.keys = tested.keys
        got = await tested.ask(CHAT, PROMPT, authorization=f"Bearer {text}")
        assert (got.status, "error" in got.json) == (status, True)


async def test_other_hosts_and_other_sites_are_refused() -> None:
    async with gateway(*replicas(1)) as tested:
        assert (await tested.ask("/v1/models", host="evil.example")).status == 421
        assert (await tested.ask("/v1/models", origin="http://evil.example")).status == 403
        got = await tested.ask("/v1/models", origin="http://127.0.0.1")
        assert got.status == 200
        assert not [name for name in got.headers if name.startswith("access-control")]


async def test_no_body_and_no_key_is_logged_or_told_whatever_goes_wrong(
    capfd: pytest.CaptureFixture[str],
) -> None:
    some = replicas(4)
    troubles = [ValueError("secret"), EndpointLostError("gone"), EndpointBusyError("full"), None]
    for (fake, _), trouble in zip(some, troubles, strict=True):
        fake.told = [trouble]
    text, key = make_key("phone", ("predict", "metrics"), 0, ("id", "secret" * 8), "now")
    async with gateway(*some, keys=(key,), needs_key=True) as tested:
        for _ in range(6):
            got = await tested.ask(CHAT, PROMPT, authorization=f"Bearer {text}")
            assert got.status >= 500
            assert b"secret" not in got.body
        broken = await tested.ask(CHAT, b'{"model": "m", "secret', authorization=f"Bearer {text}")
        assert (broken.status, b"secret" in broken.body) == (400, False)
        metrics = await tested.ask("/metrics", authorization=f"Bearer {text}")
        assert b"secret" not in metrics.body
    assert "secret" not in "".join(capfd.readouterr())


async def test_a_head_without_end_is_refused() -> None:
    async with gateway(*replicas(1)) as tested, await tested.open() as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * (connection.MAX_HEAD_BYTES + 1)
        )
        assert b" 431 " in await stream.receive_some(1 << 16)


async def test_a_request_that_ends_in_two_places_hides_no_other_one() -> None:
    (fake, place), *_ = replicas(1)
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n"
        hidden = b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n"
        await stream.send_all(head + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
        answered = b"".join([part async for part in stream])
    assert answered.startswith(b"HTTP/1.1 400 ") and answered.count(b"HTTP/1.1") == 1
    assert fake.asked == []


async def test_a_head_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.05)
    async with gateway(*replicas(1)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: ")
        assert await stream.receive_some(100) == b""


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", 0.05)
    async with gateway(*replicas(1)) as tested, await tested.open() as stream:
        await stream.send_all(b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n{")
        assert b" 408 " in await stream.receive_some(1 << 16)


async def test_bodies_are_bounded_each_and_together() -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    config, bounds = AppConfig("1", body_bytes=200_000), ServerBounds(bodies_bytes=300_000)
    async with gateway(*replicas(1), config=config, bounds=bounds) as tested:
        assert (await tested.ask("/v1/predict", b"x" * 200_001)).status == 413
        async with await tested.open() as stream:
            await stream.send_all(
                head + b"transfer-encoding: chunked\r\n\r\n" + b"30d41\r\n" + b"x" * 200_001
            )
            assert b" 413 " in await stream.receive_some(1 << 16)
        async with await tested.open() as stream:
            await stream.send_all(head + b"content-length: 200000\r\n\r\n" + b"x" * 190_000)
            await until(lambda: tested.app.load()[1] == 190_000)
            assert (await tested.ask("/v1/predict", b"x" * 150_000)).status == 503
            assert (await tested.ask("/v1/predict", b"{}")).status == 200, "a small one has room"
        await until(lambda: tested.app.load()[1] == 0)


async def test_a_body_of_many_small_chunks_costs_no_more_than_its_size_and_holds_up_nobody() -> None:
    fake = Fake("a")
    async with gateway((fake, Place("m", "m"))) as tested, await tested.open() as stream:
        head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
        tracemalloc.start()
        try:
            await stream.send_all(head + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8_000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"0\r\n\r\n")
                assert (await receive(h11.Connection(h11.CLIENT), stream)).status == 200
            most_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert fake.asked[0].body == b"x" * 8_000
    assert most_bytes < 900_000


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v2/models/m/versions/%0a/infer", "application/json"), ("/v1/predict", "text/" + "x" * 300)],
)
async def test_what_no_endpoint_would_take_is_refused_here(path: str, kind: str) -> None:
    """Asked all the same, it would make a peer drop the connection, and look lost."""
    fake = Fake("a")
    async with gateway((fake, Place("m", "m"))) as tested:
        got = await tested.ask(path, {"model": "m"}, content_type=kind)
    assert (got.status, fake.asked) == (400, [])


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with gateway(*replicas(1), bounds=ServerBounds(connections=2)) as tested:
        one, two = await tested.open(), await tested.open()
        await until(lambda: tested.app.load()[0] == 2)
        async with await tested.open() as three:
            got = await receive(h11.Connection(h11.CLIENT), three)
            assert got.status == 503
        await one.aclose()
        await until(lambda: tested.app.load()[0] == 1)
        assert (await tested.ask("/health")).status == 200
        await two.aclose()


async def test_one_connection_serves_many_requests_also_after_a_refusal() -> None:
    async with gateway(*replicas(1)) as tested, await tested.open() as stream:
        assert (await talk(stream, "/v1/models")).status == 200
        assert (await talk(stream, CHAT, PROMPT | {"model": "n"})).status == 404
        assert (await talk(stream, CHAT, PROMPT)).status == 200
        assert (await talk(stream, "/nowhere")).status == 404
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await talk(stream, "/v1/models")
            raise trio.BrokenResourceError  # it was closed, since nobody read that body


async def test_requests_that_come_at_once_are_answered_in_turn_and_old_clients_too() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"one",)), Told((b"x" * 100_000,)), Told((b"three",))]
    ask = b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    chunked = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    old = b"GET /v1/model HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n"
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        await stream.send_all(ask + chunked + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n" + old)
        seen = b""
        while part := await stream.receive_some(1 << 16):
            seen += part
    first, second, third = seen.split(b"HTTP/1.1 200 ")[1:]
    assert first.endswith(b"\r\n\r\none")
    assert b"transfer-encoding: chunked" in second.lower() and second.count(b"x" * 60_000) >= 1
    assert third.endswith(b"\r\n\r\nthree") and b"connection: close" in third.lower()
    assert [asked.body for asked in fake.asked] == [b"", b"{}", b""]


async def test_curls_question_whether_to_go_on_is_answered() -> None:
    async with gateway(*replicas(1)) as tested, await tested.open() as stream:
        await stream.send_all(
            b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"{}")
        assert b" 200 " in await stream.receive_some(1 << 16)


async def test_head_is_answered_as_get_without_a_body_here_and_at_endpoints() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b'{"name":"m"}',))]
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        for path, length in ((b"/health", b""), (b"/v1/model", b"content-length: 12\r\n")):
            await stream.send_all(b"HEAD %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % path)
            seen = await stream.receive_some(1 << 16)
            assert seen.startswith(b"HTTP/1.1 200 ") and seen.endswith(b"\r\n\r\n") and length in seen.lower()
        assert (await talk(stream, "/v1/models")).status == 200
    assert [asked.method for asked in fake.asked] == ["GET"]


async def test_refusals_without_a_route_are_worded_as_their_clients_understand() -> None:
    async with gateway(*replicas(1)) as tested:
        assert "no such path" in (await tested.ask("/v2/models/m/config")).json["error"]
        assert "no such path" in (await tested.ask("/v1/audio")).json["error"]["message"]
        squeezed = await tested.ask("/v2/models/m/infer", b"\x1f\x8b", content_encoding="gzip")
        assert (squeezed.status, "'gzip', allowed is none" in squeezed.json["error"]) == (415, True)


async def test_to_stop_waits_for_what_is_in_flight_and_takes_no_more() -> None:
    (fake, place), *_ = replicas(1)
    go = trio.Event()
    fake.told = [Told(hold=go)]
    async with gateway((fake, place)) as tested:
        idle = await tested.open()
        async with await tested.open() as stream:
            await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            await until(lambda: bool(fake.asked))
            tested.server.stop(grace_s=60)
            assert await idle.receive_some(1) == b""
            with pytest.raises(OSError):
                await tested.open()
            go.set()
            assert b" 200 " in await stream.receive_some(1 << 16)
        await until(lambda: tested.app.load()[0] == 0)
        assert tested.server.unanswered == 0


async def test_what_is_not_answered_when_its_time_is_over_is_counted() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told(hold=trio.Event())]
    async with gateway((fake, place)) as tested, await tested.open() as stream:
        await stream.send_all(b"GET /v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await until(lambda: bool(fake.asked))
        tested.server.stop(grace_s=0.01)
        assert await stream.receive_some(1) == b""
        await until(lambda: tested.server.unanswered == 1)


@pytest.mark.parametrize(
    ("status", "content_type", "seen"),
    [
        (302, "text/html", 502),
        (200, "text/html", 200),
        (101, "application/json", 502),
        (200, "x\r\ny: z", 200),
    ],
)
async def test_a_peers_answer_makes_no_page_and_no_head_of_ours(
    status: int, content_type: str, seen: int
) -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"<script>",), status, content_type, ((b"x-shape", b"1\r\nx: y"),))]
    async with gateway((fake, place)) as tested:
        got = await tested.ask("/v1/model")
    assert got.status == seen
    assert "x-shape" not in got.headers
    assert got.headers["content-type"] in ("application/octet-stream", "application/json")
    assert got.headers["x-content-type-options"] == "nosniff"
