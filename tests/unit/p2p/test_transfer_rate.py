from __future__ import annotations

import pytest
import trio

from p2p.errors import LocalProtocolError
from p2p.rates import RateLimit
from p2p.transfer_rate import TokenBucket, parse_bytes


def test_a_bucket_gives_its_rate_on_average() -> None:
    bucket = TokenBucket(1000.0)
    now = 50.0
    for _ in range(100):
        now += bucket.take(500, now)
    assert now == pytest.approx(50.0 + 99 * 0.5 - 0.25)


def test_idle_time_saves_up_no_more_than_a_moment() -> None:
    bucket = TokenBucket(1000.0)
    assert bucket.take(250, now=1000.0) == 0.0
    assert bucket.take(250, now=1000.0) == 0.0
    assert bucket.take(1, now=1000.0) == pytest.approx(0.25)


def test_what_did_not_move_is_given_back() -> None:
    bucket = TokenBucket(1000.0)
    bucket.take(5000, 10.0)
    bucket.take(3000, 10.0)
    bucket.give_back(3000)
    assert bucket.take(1, 10.0) == pytest.approx(4.75)


@pytest.mark.parametrize(("text", "rate"), [("1", 1), ("500K", 500_000), ("20M", 20_000_000), ("1g", 10**9)])
def test_bytes_are_read(text: str, rate: int) -> None:
    assert parse_bytes(text) == rate


@pytest.mark.parametrize("text", ["", "M", "0", "0M", "-5", "1.5M", "20MB", "2 M", "٣", "9" * 13])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="allowed are whole numbers such as 500K, 20M or 1G"):
        parse_bytes(text)


@pytest.mark.virtual_clock
async def test_transfers_share_one_limit() -> None:
    limit, began = RateLimit(1000), trio.current_time()

    async def move() -> None:
        for _ in range(5):
            await limit.wait(100)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(move)
    assert trio.current_time() - began == pytest.approx(1.9 - 0.25)


@pytest.mark.virtual_clock
async def test_a_wait_that_is_cancelled_costs_the_others_nothing() -> None:
    limit, began = RateLimit(1000), trio.current_time()
    await limit.wait(1250)
    with trio.move_on_after(0.1):
        await limit.wait(100_000)
    await limit.wait(1)
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_without_a_limit_nothing_waits() -> None:
    await RateLimit().wait(1 << 60)
