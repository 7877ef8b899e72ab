"""Renders chat templates, a stranger's programs, in a process that may be killed without loss.

Made before a worker closes, which may start no process afterwards: a keeper that sees nothing of a
template but its bytes, and the renderer that it starts anew when one took too long or broke. The
renderer is closed like the worker, to all files too, with little memory and little processor time.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backend.errors import BackendError, InputError
from backend.runtime.chat_template import (
    MAX_PROMPT_CHARACTERS,
    MAX_TEMPLATE_CHARACTERS,
    Conversation,
    render,
)
from backend.workers.sandbox import (
    SandboxLimits,
    SandboxMode,
    close_process,
    die_with_parent,
)

PROCESSOR_S = 2
"""Whole seconds of processor time for one conversation."""
LONGEST_S = 20.0
"""On the clock, whatever else the machine does."""
MEMORY_BYTES = 256 << 20
_MAX_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct(">I")
_PROMPT, _REFUSED, _ENDED, _LATE = b"p", b"r", b"e", b"l"
_FIRST_DESCRIPTOR, _DESCRIPTORS = 3, 1 << 16


class TemplateRenderer:
    """The worker's end. For any thread; one conversation at a time.

    A conversation that ended the process may be what a template cannot bear, or the template no good: from
    then on it gets only half as much to read. So no client can end a template for the others, and a hostile
    one, which ends with every conversation, costs them a few times.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(2 * LONGEST_S)
        self._turn = threading.Lock()
        self._most: dict[str, int] = {}
        """What a template that ended its process may still be given."""

    def __call__(self, conversation: Conversation) -> str:
        """Raises InputError."""
        template = conversation.template
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            raise InputError(f"the model's chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        said = sum(len(text) for message in conversation.messages for text in message.values())
        with self._turn:
            most = self._most.get(template, MAX_PROMPT_CHARACTERS)
            if said > most:
                why = ": the model's chat template took too long for more" if template in self._most else ""
                raise InputError(f"conversation of {said} characters, limit {max(0, most)}{why}")
            kind, text = self._ask(conversation)
            if kind == _ENDED:
                self._most[template] = (said - 1) // 2  # nothing at all is left after one of nothing
                raise InputError("the model's chat template takes too long or too much memory for this")
        if kind == _LATE:
            raise InputError(f"the model's chat template was not done after {LONGEST_S:g} s")
        if kind != _PROMPT:
            raise InputError(text)
        return text

    def close(self) -> None:
        """Its processes end."""
        self._end.close()

    def _ask(self, conversation: Conversation) -> tuple[bytes, str]:
        try:
            _send(self._end, msgspec.msgpack.encode(conversation))
            answer = _receive(self._end)
        except OSError:
            answer = None
        if answer is None:
            self.close()  # what comes late must not be taken for the next answer
            return _REFUSED, "chat templates can no longer be rendered here"
        return answer[:1], answer[1:].decode(errors="replace")


def start_renderer(mode: SandboxMode, directory: Path) -> TemplateRenderer:
    """Forks: call it while the process has one thread. ``directory``: the worker's own."""
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401 - so that each renderer has it

    nowhere = directory / "templates"
    nowhere.mkdir()
    ours, theirs = socket.socketpair()
    worker = os.getpid()
    if os.fork() == 0:
        _be(lambda: _keep(theirs, worker, _Closed(mode, nowhere)))
    theirs.close()
    return TemplateRenderer(ours)


@dataclass(frozen=True, slots=True)
class _Closed:
    mode: SandboxMode
    directory: Path


def _be(work: Callable[[], None]) -> None:
    """The whole life of a forked process, which must never run what its parent had still to do."""
    try:
        work()
    finally:
        os._exit(0)


def _keep(end: socket.socket, worker: int, closed: _Closed) -> None:
    """The keeper: until its worker's end is closed."""
    die_with_parent(worker)
    _close_all_but(end)
    renderer: _Renderer | None = None
    while (order := _receive(end)) is not None:
        renderer = renderer or _Renderer(closed)
        answer = renderer.ask(order)
        if answer in (_ENDED, _LATE):
            renderer.kill()
            renderer = None
        _send(end, answer)


class _Renderer:
    """As its keeper sees it."""

    def __init__(self, closed: _Closed) -> None:
        self._end, theirs = socket.socketpair()
        self._end.settimeout(LONGEST_S)
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _be(lambda: _render_all(theirs, keeper, closed))
        theirs.close()

    def ask(self, order: bytes) -> bytes:
        try:
            _send(self._end, order)
            return _receive(self._end) or _ENDED
        except TimeoutError:
            return _LATE
        except OSError:
            return _ENDED

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._end.close()


def _render_all(end: socket.socket, keeper: int, closed: _Closed) -> None:
    die_with_parent(keeper)
    _close_all_but(end)
    close_process(closed.mode, closed.directory, SandboxLimits(MEMORY_BYTES, 0))
    while (order := _receive(end)) is not None:
        # The kernel ends it at the soft limit, which holds for what it has used since it began.
        soonest = math.ceil(time.process_time()) + PROCESSOR_S
        resource.setrlimit(resource.RLIMIT_CPU, (soonest, resource.RLIM_INFINITY))
        _send(end, _rendered(order))


def _close_all_but(end: socket.socket) -> None:
    """What a forked process inherited."""
    os.closerange(_FIRST_DESCRIPTOR, end.fileno())
    os.closerange(end.fileno() + 1, _DESCRIPTORS)


def _rendered(order: bytes) -> bytes:
    try:
        return _PROMPT + render(msgspec.msgpack.decode(order, type=Conversation)).encode(errors="replace")
    except BackendError as error:
        return _REFUSED + str(error).encode(errors="replace")


def _send(end: socket.socket, data: bytes) -> None:
    end.sendall(_LENGTH.pack(len(data)))
    end.sendall(data)


def _receive(end: socket.socket) -> bytes | None:
    """None at the end of the stream, or for what is longer than any answer. Raises OSError."""
    head = _exactly(end, _LENGTH.size)
    if head is None or (size := _LENGTH.unpack(head)[0]) > _MAX_FRAME_BYTES:
        return None
    return _exactly(end, size)


def _exactly(end: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = end.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)
