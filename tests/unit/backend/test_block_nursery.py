"""A nursery around a block: whose error leaves it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backend.workers.block_nursery import open_block_nursery


class OfTheBlock(Exception):
    pass


async def ends_slowly() -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(9)


async def fails_as_it_ends() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise OSError("no room to tidy up in")


async def interrupts_as_it_ends() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise KeyboardInterrupt


@pytest.mark.virtual_clock
async def test_the_error_of_a_block_outlives_a_deadline_that_passes_as_its_tasks_end() -> None:
    with trio.move_on_after(5) as scope:
        with pytest.raises(OfTheBlock):
            async with open_block_nursery() as nursery:
                nursery.start_soon(ends_slowly)
                await trio.testing.wait_all_tasks_blocked()
                raise OfTheBlock
        assert scope.cancel_called


async def test_a_task_that_fails_as_it_ends_does_not_take_the_place_of_the_error_of_the_block() -> None:
    with pytest.raises(OfTheBlock) as raised:
        async with open_block_nursery() as nursery:
            nursery.start_soon(fails_as_it_ends)
            await trio.testing.wait_all_tasks_blocked()
            raise OfTheBlock
    assert "tidy up" in repr(raised.value.__cause__)


async def test_an_interruption_is_not_lost_behind_the_error_of_the_block() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with open_block_nursery() as nursery:
            nursery.start_soon(interrupts_as_it_ends)
            await trio.testing.wait_all_tasks_blocked()
            raise OfTheBlock
    assert raised.value.subgroup(KeyboardInterrupt) is not None
