"""The control socket between a running program and its commands."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.control import call_control, call_control_blocking, serve_control, stream_control
from p2p.errors import ControlUnavailableError, DeadlineError, RemoteFailureError, StreamResetError


async def count(limit: int) -> AsyncGenerator[int, None]:
    for number in range(limit):
        yield number


class Program:
    """Answers the calls of these tests."""

    def __init__(self) -> None:
        self.hanging = trio.Event()
        self.cancelled = trio.Event()

    async def handle(self, method: str, parameters: dict[str, Any]) -> Any:
        match method:
            case "echo":
                return parameters
            case "count":
                return count(parameters["limit"])
            case "refuse":
                raise RemoteFailureError("not_found", "no such job")
            case "hang":
                self.hanging.set()
                try:
                    await trio.sleep_forever()
                finally:
                    self.cancelled.set()
        raise ValueError(method)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Program]:
    program = Program()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, program.handle)
        yield program
        nursery.cancel_scope.cancel()


async def test_a_call_is_answered_and_the_socket_is_private(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with running(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert await call_control(path, "echo", {"text": "ü", "n": [1, 2.5, None]}) == {
            "text": "ü",
            "n": [1, 2.5, None],
        }
    assert not path.exists()


async def test_a_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    async with running(directory / "control.sock"):
        assert await call_control(directory / "control.sock", "echo") == {}


async def test_a_generator_gives_several_answers(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with running(path):
        assert [answer async for answer in stream_control(path, "count", {"limit": 3})] == [0, 1, 2]
        assert await call_control(path, "count", {"limit": 3}) == 2


async def test_a_refusal_reaches_the_caller_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with running(path):
        with pytest.raises(RemoteFailureError, match="not_found: no such job"):
            await call_control(path, "refuse")
        with pytest.raises(RemoteFailureError, match="internal: unheard"):
            await call_control(path, "unheard")
        assert await call_control(path, "echo") == {}


async def test_a_caller_that_leaves_cancels_its_call(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with running(path) as program:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_control, path, "hang")
            await program.hanging.wait()
            nursery.cancel_scope.cancel()
        await program.cancelled.wait()
        with pytest.raises(DeadlineError):
            await call_control(path, "hang", timeout_s=0.05)


async def test_a_program_that_ends_before_its_answer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with trio.open_nursery() as nursery:
        program = Program()
        scope = trio.CancelScope()

        async def serve(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await serve_control(path, program.handle, task_status=task_status)

        await nursery.start(serve)
        nursery.start_soon(cancel_when_hanging, program, scope)
        with pytest.raises(StreamResetError, match="ended before"):
            await call_control(path, "hang")


async def cancel_when_hanging(program: Program, scope: trio.CancelScope) -> None:
    await program.hanging.wait()
    scope.cancel()


def test_nobody_listening_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(ControlUnavailableError, match="nothing listens"):
        call_control_blocking(tmp_path / "control.sock", "echo")
    with pytest.raises(ControlUnavailableError):
        call_control_blocking(tmp_path / "absent" / "control.sock", "echo")


async def test_a_socket_left_by_a_dead_program_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.close()
    with pytest.raises(ControlUnavailableError):
        await call_control(path, "echo")
    async with running(path):
        assert await call_control(path, "echo") == {}
