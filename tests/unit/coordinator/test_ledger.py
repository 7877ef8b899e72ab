from __future__ import annotations

import trio
import trio.testing

from coordinator.ledger import Bell


async def test_a_ring_wakes_every_listener_and_is_forgotten() -> None:
    bell = Bell()
    woken = []

    async def listen(name: str) -> None:
        with bell.listening("key"):
            await bell.waiter("key").wait()
            woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, "a")
        nursery.start_soon(listen, "b")
        await trio.testing.wait_all_tasks_blocked()
        bell.ring("key")
    assert sorted(woken) == ["a", "b"]
    assert vars(Bell()) == vars(bell)


async def test_keys_of_strangers_that_leave_are_not_kept() -> None:
    bell = Bell()
    for number in range(100):
        with bell.listening(f"orders/{number}"):
            bell.waiter(f"orders/{number}")
    assert vars(Bell()) == vars(bell)


async def test_one_that_leaves_takes_no_ring_from_another() -> None:
    bell = Bell()
    with bell.listening("key"):
        stays = bell.waiter("key")
        with bell.listening("key"):
            bell.waiter("key")
        bell.ring("key")
        assert stays.is_set()
