"""Work in another thread, awaited on the loop: as ``loop.run_in_executor``, whose futures refer to each other
and so keep a result, of whatever size, until cycles are collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from backend.serving.failures import without_frames

T = TypeVar("T")


async def in_thread(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What ``work`` gives or raises. Whoever is cancelled before it begins has it left out."""
    answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    thread.submit(_run, work, answered, asyncio.get_running_loop())
    try:
        return await answered
    finally:
        del answered  # what was raised holds this frame


def _run(work: Callable[[], T], answered: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    if answered.done():
        return
    try:
        result = work()
    except Exception as error:
        told = _failing(answered, without_frames(error))
    else:
        told = _settling(answered, result)
    with suppress(RuntimeError):  # the loop has ended, and with it all that waited
        loop.call_soon_threadsafe(told)


def _settling(answered: asyncio.Future[T], result: T) -> Callable[[], None]:
    return lambda: None if answered.done() else answered.set_result(result)


def _failing(answered: asyncio.Future[T], error: Exception) -> Callable[[], None]:
    return lambda: None if answered.done() else answered.set_exception(error)
