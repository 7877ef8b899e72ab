"""One way to an Engine for every command: the one that runs on the data directory, or a new one.

Both are asked the same questions and give the same answers; see ``p2p.session.control``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import trio

from engine_app.config import Config
from p2p.control import call_control, stream_control
from p2p.errors import ControlUnavailableError, DataDirLockedError, RemoteFailureError, StreamResetError
from p2p.session.errors import SessionError
from p2p.session.places import Places

if TYPE_CHECKING:
    from p2p.api import AsyncEngine

PROBE_TIMEOUT_S = 5.0
TURN_S = 30.0
LOOK_EVERY_S = 0.1
"""How long a command waits for its turn on a data directory, and how often it looks."""

Tell = Callable[[Any], None]


class EngineEndedError(SessionError):
    """Of another command, whose program is over."""


class Session(Protocol):
    @property
    def engine(self) -> AsyncEngine | None:
        """None where it is another process's: such a one streams no requests to models."""

    async def ask(self, method: str, tell: Tell | None = None, /, **parameters: Any) -> Any:
        """The last answer; ``tell`` gets those before it as they come."""


class _Running:
    """An Engine in another process."""

    engine: AsyncEngine | None = None

    def __init__(self, places: Places) -> None:
        self._path = places.control

    async def ask(self, method: str, tell: Tell | None = None, /, **parameters: Any) -> Any:
        try:
            async with aclosing(stream_control(self._path, method, parameters)) as answers:
                return await _last(answers, tell)
        except (StreamResetError, ControlUnavailableError) as error:
            raise EngineEndedError("the command whose Engine this one asks has ended") from error


class _Own:
    """An Engine in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine: AsyncEngine | None = engine
        self._control = engine.control

    async def ask(self, method: str, tell: Tell | None = None, /, **parameters: Any) -> Any:
        async with aclosing(await self._control(method, parameters)) as answers:
            return await _last(answers, tell)


async def _last(answers: AsyncIterator[Any], tell: Tell | None) -> Any:
    """The answer that is not news. Raises SessionError with the plain text of what the Engine refused."""
    last: Any = None
    try:
        async for answer in answers:
            if tell is not None and isinstance(answer, dict) and "kind" in answer:
                tell(answer)
            else:
                last = answer
    except RemoteFailureError as error:
        raise SessionError(error.message) from error
    return last


@asynccontextmanager
async def open_session(config: Config, lan: bool = False) -> AsyncIterator[Session]:
    """With ``lan`` no coordinator is waited for. Raises what ``p2p.api.open_engine`` raises."""
    async with AsyncExitStack() as stack:
        yield await _reach(stack, config, lan)


async def _reach(stack: AsyncExitStack, config: Config, lan: bool) -> Session:
    """Another command's Engine that only begins, or ends right now, is waited for."""
    places = Places(config.data_dir)
    until = trio.current_time() + TURN_S
    while True:
        if await _is_running(places):
            return _Running(places)
        try:
            return _Own(await stack.enter_async_context(own_engine(config, lan)))
        except DataDirLockedError:
            if trio.current_time() >= until:
                raise
        await trio.sleep(LOOK_EVERY_S)


def own_engine(config: Config, lan: bool = False) -> AbstractAsyncContextManager[AsyncEngine]:
    """In this process, which other commands then ask. Raises what ``p2p.api.open_engine`` raises."""
    from p2p.api import STORE_QUOTA_BYTES, open_engine
    from p2p.chain.trust import parse_trusted

    return open_engine(
        config.data_dir,
        coordinator=config.coordinator,
        passphrase=config.passphrase,
        trusted=parse_trusted(config.escrow) if config.escrow else None,
        lan=lan,
        upload_limit=config.upload_limit,
        download_limit=config.download_limit,
        storage_bytes=config.storage or STORE_QUOTA_BYTES,
    )


async def _is_running(places: Places) -> bool:
    if not places.control.exists():
        return False
    try:
        await call_control(places.control, "jobs", timeout_s=PROBE_TIMEOUT_S)
    except (ControlUnavailableError, StreamResetError):  # it has ended, or ends right now
        return False
    return True
