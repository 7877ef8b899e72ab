"""The control socket: how a command speaks to the program that runs on the same data directory.

A Unix socket that only its user may open. One connection carries one call; lines of JSON.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from p2p.errors import (
    ControlUnavailableError,
    MessageInvalidError,
    P2PError,
    RemoteFailureError,
    RemoteProtocolError,
    StreamResetError,
)
from p2p.tasks import deadline

if TYPE_CHECKING:
    from trio_typing import TaskStatus

ControlHandler = Callable[[str, dict[str, Any]], Any]
"""``async (method, parameters) -> answer``, or an async generator of answers."""

MAX_LINE_BYTES = 16 << 20
_REQUEST_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 30.0
_MAX_CALLS = 64

log = structlog.get_logger(__name__)


async def serve_control(
    path: Path,
    handler: ControlHandler,
    *,
    task_status: TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers calls on the socket ``path`` until cancelled.

    A RemoteFailureError of the handler reaches the caller as itself. The data directory's lock
    must be held: a socket left by a dead process is replaced.
    """
    with _short_path(path) as name:
        listener = _listen(name, path)
    try:
        slots = trio.CapacityLimiter(_MAX_CALLS)

        async def serve(stream: trio.SocketStream) -> None:
            async with slots, stream:
                await _serve_call(stream, handler)

        await trio.serve_listeners(serve, [trio.SocketListener(listener)], task_status=task_status)
    finally:
        listener.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, and no await in a finally


async def call_control(
    path: Path, method: str, parameters: dict[str, Any] | None = None, timeout_s: float = 15.0
) -> Any:
    """The answer of the program that listens at ``path``; of a generator the last one.

    Raises ControlUnavailableError, RemoteFailureError, DeadlineError, and StreamResetError when
    the program ends before its answer.
    """
    answer = None
    with deadline(timeout_s, f"{method} at {path}"):
        async with contextlib.aclosing(stream_control(path, method, parameters)) as answers:
            async for item in answers:
                answer = item
    return answer


async def stream_control(
    path: Path, method: str, parameters: dict[str, Any] | None = None
) -> AsyncGenerator[Any, None]:
    """The answers as they come; no deadline, for calls that follow something. Raises as ``call_control``."""
    stream = await _connect(path)
    async with stream:
        lines = _Lines(stream)
        try:
            await stream.send_all(_line({"method": method, "parameters": parameters or {}}))
            while True:
                reply = await lines.next()
                if "end" in reply:
                    return
                if "failure" in reply:
                    raise RemoteFailureError(str(reply["failure"]), str(reply.get("message", "")))
                yield reply.get("answer")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamResetError(f"{path}: the program ended before it answered") from error


def call_control_blocking(
    path: Path, method: str, parameters: dict[str, Any] | None = None, timeout_s: float = 15.0
) -> Any:
    """``call_control`` for code that runs no trio."""
    return trio.run(call_control, path, method, parameters, timeout_s)


# -- the serving side ------------------------------------------------------------------------


def _listen(name: str, path: Path) -> trio.socket.SocketType:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Between bind and chmod the data directory's own mode (0700) keeps others out.
        listener.bind(name)
        path.chmod(0o600)
        listener.listen(_MAX_CALLS)
    except BaseException:
        listener.close()
        raise
    return trio.socket.from_stdlib_socket(listener)


async def _serve_call(stream: trio.SocketStream, handler: ControlHandler) -> None:
    try:
        with deadline(_REQUEST_TIMEOUT_S, "control request"):
            method, parameters = _request(await _Lines(stream).next())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_left, stream, nursery.cancel_scope)
            await _answer(stream, handler, method, parameters)
            nursery.cancel_scope.cancel()
    except* (P2PError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        log.debug("control call cut", reason=str(error.exceptions[0]))


async def _cancel_when_left(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """A caller that goes away (Ctrl-C in a follow) ends its call."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.receive_some(1)
    scope.cancel()


async def _answer(
    stream: trio.SocketStream, handler: ControlHandler, method: str, parameters: dict[str, Any]
) -> None:
    try:
        async with contextlib.aclosing(_answers(handler(method, parameters))) as answers:
            async for answer in answers:
                await _send(stream, {"answer": answer})
        end: dict[str, Any] = {"end": True}
    except RemoteFailureError as error:
        end = {"failure": error.code, "message": error.message}
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception as error:  # the boundary of the call's task
        log.error("control call failed", method=method, exc_info=error)
        end = {"failure": "internal", "message": f"{method}: {type(error).__name__}: {error}"}
    await _send(stream, end)


async def _answers(result: Any) -> AsyncGenerator[Any, None]:
    if inspect.isasyncgen(result):
        async with contextlib.aclosing(result):
            async for answer in result:
                yield answer
        return
    answer = await result
    if isinstance(answer, AsyncGenerator):
        async with contextlib.aclosing(answer):
            async for item in answer:
                yield item
        return
    yield answer


async def _send(stream: trio.SocketStream, reply: dict[str, Any]) -> None:
    with deadline(_ANSWER_TIMEOUT_S, "control answer"):
        await stream.send_all(_line(reply))


def _request(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    method, parameters = message.get("method"), message.get("parameters")
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise MessageInvalidError("control request without method or parameters")
    return method, parameters


# -- both sides ------------------------------------------------------------------------------


async def _connect(path: Path) -> trio.SocketStream:
    try:
        with _short_path(path) as name:
            return await trio.open_unix_socket(name)
    except (OSError, RuntimeError) as error:
        raise ControlUnavailableError(f"no program runs here: nothing listens at {path}") from error


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A name for the socket within the 107 bytes that the system allows, however deep its directory."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class _Lines:
    """The JSON objects of a stream, one a line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> dict[str, Any]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise RemoteProtocolError(f"control line of over {MAX_LINE_BYTES} bytes")
            data = await self._stream.receive_some(1 << 16)
            if not data:
                raise StreamResetError("the other side of the control socket ended before it answered")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MessageInvalidError(f"control line of {len(line)} bytes: {error}") from error
        if not isinstance(message, dict):
            raise MessageInvalidError("control line that is no JSON object")
        return message
