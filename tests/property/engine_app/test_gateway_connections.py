"""Whatever bytes a client sends, however they are cut: its connection ends, and nothing stays behind."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.serving.admission import Admission
from backend.serving.keys import Gatekeeper
from engine_app.gateway.application import AppConfig, Application
from engine_app.gateway.bodies import BodyBudget
from engine_app.gateway.connection import Connection
from engine_app.gateway.pool import Pool
from tests.unit.engine_app.gateway.gateways import Fake, Told, replicas

LINES = [
    b"GET /v1/models HTTP/1.1",
    b"GET /v1/model HTTP/1.1",
    b"POST /v1/predict HTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.1",
    b"POST /v2/models/m/infer HTTP/1.1",
    b"HEAD /v1/models HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"GET http://127.0.0.1/ HTTP/1.0",
    b"GET /%00%ff%2f/../.. HTTP/1.1",
    b"\x16\x03\x01",
]
HEADERS = [
    b"host: evil",
    b"content-length: 13",
    b"content-length: 99999999999999999999",
    b"transfer-encoding: chunked",
    b"expect: 100-continue",
    b"upgrade: websocket\r\nconnection: upgrade",
    b"connection: close",
    b"x-model: \xff\xfe",
    b"content-type: application/octet-stream",
    b"inference-header-content-length: -1",
]
BODIES = [b"", b'{"model":"m"}', b'd\r\n{"model":"m"}\r\n0\r\n\r\n', b"ffffffffff\r\n", b"[" * 13]


def _request(line: bytes, headers: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join((line, *headers, b"", body))


WITH_HOST = st.lists(st.sampled_from(HEADERS), max_size=2, unique=True).map(
    lambda headers: [b"host: 127.0.0.1", *headers]
)
WHOLE = st.builds(
    _request,
    st.sampled_from(LINES[:6]),
    WITH_HOST.map(lambda given: [*given, b"content-length: 13"]),
    st.just(BODIES[1]),
)
REQUEST = WHOLE | st.builds(
    _request, st.sampled_from(LINES), WITH_HOST | st.lists(st.sampled_from(HEADERS)), st.sampled_from(BODIES)
)
BYTES = st.lists(REQUEST | st.binary(max_size=8), min_size=1, max_size=4).map(b"".join)
ANSWERS = st.sampled_from(
    [Told(), Told((b"x" * 70_000, b"y")), Told((b"half",), breaks=True), Told(status=503), None]
)


@given(BYTES, st.integers(1, 200), ANSWERS, st.booleans())
def test_every_connection_ends_and_leaves_nothing(
    sent: bytes, cut: int, told: Told | None, leaves: bool
) -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [told]
    trio.run(_talk, fake, place, sent, cut, leaves, clock=trio.testing.MockClock(autojump_threshold=0))


async def _talk(fake: Fake, place, sent: bytes, cut: int, leaves: bool) -> None:  # type: ignore[no-untyped-def]
    pool = Pool(lambda place: True, lambda: 0.5, lambda member: None)
    pool.add(fake, place)
    budget = BodyBudget(1 << 20)
    app = Application(pool, Admission((), Gatekeeper(()), False), AppConfig("1", body_bytes=1000))
    ours, theirs = trio.testing.memory_stream_pair()

    async def client() -> None:
        try:
            for at in range(0, len(sent), cut):
                await theirs.send_all(sent[at : at + cut])
            if leaves:
                await theirs.aclose()
                return
            while await theirs.receive_some(1 << 16):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await Connection(ours, budget, app.answer).run()
    assert budget.held_bytes == 0
    assert all(member.load.in_flight == 0 for member in pool.members)
    assert app.refused["internal"] == 0
