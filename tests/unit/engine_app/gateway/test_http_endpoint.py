"""An endpoint that is another HTTP server, here a gateway in front of a fake."""

from __future__ import annotations

import pytest
import trio

from backend.serving.asked import Asked
from engine_app.gateway.errors import EndpointLostError
from engine_app.gateway.http_endpoint import HttpEndpoint, Server
from tests.unit.engine_app.gateway.gateways import Tested, Told, gateway, replicas, until

ASKED = Asked("POST", "/v1/predict", "application/octet-stream", b"x" * 300_000, ((b"x-shape", b"1,2"),))


def endpoint_of(tested: Tested) -> HttpEndpoint:
    return HttpEndpoint("far", Server("127.0.0.1", tested.port))


async def test_requests_go_out_and_answers_come_back_over_one_connection() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"abc" * 100_000, b"d"), headers=((b"x-shape", b"3"),))]
    async with gateway((fake, place)) as tested:
        endpoint = endpoint_of(tested)
        for _ in range(3):
            async with endpoint.ask(ASKED) as answer:
                body = b"".join([part async for part in answer])
            assert (answer.status, body, answer.headers) == (
                200,
                b"abc" * 100_000 + b"d",
                ((b"x-shape", b"3"),),
            )
        assert (await endpoint.status()).is_ready
        assert tested.app.load()[0] == 1
        await endpoint.aclose()
    assert fake.asked[0].body == ASKED.body
    assert dict(fake.asked[0].headers)[b"x-shape"] == b"1,2"


async def test_whoever_leaves_an_answer_takes_the_request_back() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"x" * 200_000, b"never"), hold=trio.Event())]
    async with gateway((fake, place)) as tested:
        async with endpoint_of(tested).ask(ASKED) as answer:
            assert answer.status == 200
        await fake.cancelled.wait()


async def test_what_breaks_off_or_is_not_there_is_lost() -> None:
    (fake, place), *_ = replicas(1)
    fake.told = [Told((b"x" * 200_000,), breaks=True)]
    async with gateway((fake, place)) as tested:
        endpoint = endpoint_of(tested)
        with pytest.raises(EndpointLostError):
            async with endpoint.ask(ASKED) as answer:
                async for _ in answer:
                    pass
        tested.server.stop(0)
        await until(lambda: tested.app.load()[0] == 0)
        with pytest.raises(EndpointLostError):
            await endpoint.status()
