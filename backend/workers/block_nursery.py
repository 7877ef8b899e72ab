"""A nursery that ends with the block around it, and lets the block's error leave as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_block_nursery() -> AsyncIterator[trio.Nursery]:
    """Its tasks are cancelled at the end. A bare nursery would wrap the block's error in a group,
    which no caller that catches it by its class would see.

    Nor is that error lost where a task fails as it ends, or a deadline passes until all have ended.
    """
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except Exception as error:
                failure = error
            finally:
                nursery.cancel_scope.cancel()
    except BaseException as others:
        if failure is None or _ends_the_program(others):
            raise
        raise failure from others
    if failure is not None:
        raise failure


def _ends_the_program(error: BaseException) -> bool:
    ends = (KeyboardInterrupt, SystemExit)
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(ends) is not None
    return isinstance(error, ends)
