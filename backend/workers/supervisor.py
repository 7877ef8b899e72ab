"""Keeps worker processes: starts them ahead of need, talks to them, and ends those that misbehave.

A worker that dies, hangs, stalls, outgrows its memory or its time is killed with its whole process
group, and whoever talks to it gets a WorkerDiedError that says why. No runtime is imported here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import trio

from backend.errors import WorkerDiedError, WorkerError
from backend.reports import Command, Event, Ping, Pong, Ready
from backend.workers import ipc
from backend.workers.block_nursery import open_block_nursery
from backend.workers.process import MAX_FILES, Rank, Usage, WorkerConfig, choose_sandbox, start_process, usage
from backend.workers.sandbox import SandboxMode

log = structlog.get_logger(__name__)

_EVENT_QUEUE = 256
_OUTPUT_KEPT_BYTES = 8192
_WATCH_EVERY_S = 0.25
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Limits that each worker of a pool lives under."""

    directory: Path
    """Workers get directories of their own below this one."""
    prewarmed: int = 1
    memory_bytes: int = 4 << 30
    """The runtime's own included, pages of files not. On cpu more is refused; on a GPU it ends the worker."""
    wall_clock_s: float = 24 * 3600
    """From acquire() to the end."""
    sandbox: str = "auto"
    """auto, landlock, bwrap or none."""
    device: str = "cpu"
    threads: int | None = None
    file_bytes: int = 8 << 30
    """Of one file."""
    disk_bytes: int = 32 << 30
    """Of all files together, removed ones that are still open included."""
    max_threads: int = 1024
    max_workers: int = 64
    start_timeout_s: float = 60
    refill_delay_s: float = 3
    """A replacement is started this long after an acquire, so as not to compete with its job."""
    hang_s: float = 30
    """Longest silence of a worker's main thread."""
    stall_s: float = 900
    """Longest single step of a training, or of a model that answers."""
    listener: socket.socket | None = None
    """Of a model server, as are the next two."""
    has_calls: bool = False
    """Whether it also answers requests on a channel: see ``Worker.calls``."""
    runtimes: tuple[str, ...] = ()
    """That it imports."""


class Worker:
    """One process. Made by the pool; one task at a time may receive.

    Files go into its directory as copies, never as links: a worker may write to them.
    """

    def __init__(self, config: PoolConfig, directory: Path, rank: Rank | None = None) -> None:
        self.directory = directory
        self._rank = rank
        self.ready = Ready(sandbox=(), runtime="")
        self._config = config
        self._mode = choose_sandbox(SandboxMode(config.sandbox))
        self._scope = trio.CancelScope()
        self._send_lock = trio.Lock()
        self._events_in, self._events = trio.open_memory_channel[tuple[Event, bytes]](_EVENT_QUEUE)
        self._ended = trio.Event()
        self._reason: str | None = None
        self._output = bytearray()
        self._silent_s = 0.0
        """Counted while this side runs too: if the machine slept, nobody is to blame."""
        self._delivering = False
        self._is_ready = False
        self._acquired_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: trio.SocketStream | None = None
        self.calls: socket.socket | None = None
        """Our end of the channel for requests to a model server; closed with the worker."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise WorkerError("the worker has not been started")
        return self._process.pid

    @property
    def reason(self) -> str:
        """Why it ended."""
        return self._reason or "the worker has ended"

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set() and not self._scope.cancel_called

    async def send(self, command: Command, body: bytes = b"", timeout_s: float = 30) -> None:
        """Raises WorkerDiedError; a send cut short by a cancellation ends the worker."""
        if not self.is_alive or not await self._write(command, body, timeout_s):
            await self._ended.wait()
            raise self._death()

    async def receive(self, timeout_s: float | None = None) -> tuple[Event, bytes]:
        """The next event. Raises WorkerDiedError once all are taken, trio.TooSlowError."""
        with trio.fail_after(timeout_s) if timeout_s is not None else trio.CancelScope():
            try:
                return await self._events.receive()
            except trio.EndOfChannel:
                pass
            await self._ended.wait()
        raise self._death()

    def path(self, name: str) -> Path:
        """A file that the worker made. Raises WorkerError unless it is a regular file of its directory."""
        path = self.directory / name
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise WorkerError(f"worker named {name!r}, which cannot be read: {error.strerror}") from error
        if path.parent != self.directory or not stat.S_ISREG(mode):
            raise WorkerError(f"worker named {name!r}, which is not a regular file in its directory")
        return path

    def kill(self) -> None:
        """Kills the process at once; ``receive`` then says so."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """Kills the process and removes its directory."""
        self._end("closed")
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    # -- the pool's side ---------------------------------------------------------------------

    def mark_acquired(self) -> None:
        self._acquired_at = trio.current_time()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Starts the process, calls ``on_ready`` when it is, and returns when it has been ended."""
        try:
            started = start_process(self._worker_config(), self.directory)
        except OSError as error:
            self._reason = f"could not be started: {error}"
            await self._clean_up()
            return
        self._process, self.calls = started.process, started.calls
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(started.commands))
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_output)
                    nursery.start_soon(self._watch)
                    await self._read(on_ready)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._clean_up()

    def _worker_config(self) -> WorkerConfig:
        config = self._config
        return WorkerConfig(
            sandbox=self._mode,
            memory_bytes=config.memory_bytes,
            file_bytes=config.file_bytes,
            device=config.device,
            threads=config.threads,
            listener=config.listener,
            has_calls=config.has_calls,
            runtimes=config.runtimes,
            rank=self._rank,
        )

    async def _write(self, command: Command, body: bytes, timeout_s: float) -> bool:
        """False, with the worker ended, if the command could not be written as a whole."""
        head, tail = ipc.encode(command, body)
        if self._stream is None:
            return False
        with trio.move_on_after(timeout_s):
            async with self._send_lock:
                try:
                    await self._stream.send_all(head)
                    if tail:
                        await self._stream.send_all(tail)
                    return True
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # The reader sees the end of the stream too, and ends the worker with its cause.
                    return False
                except trio.Cancelled:
                    self._end("a command was cut short")
                    raise
        self._end(f"took no command for {timeout_s:g} s")
        return False

    def _end(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
        self._scope.cancel()

    def _death(self) -> WorkerDiedError:
        return WorkerDiedError(self.reason)

    async def _read(self, on_ready: Callable[[], None]) -> None:
        """Delivers events until the worker closes its end or breaks the protocol."""
        assert self._stream is not None
        try:
            while True:
                message_bytes, body_bytes = ipc.decode_header(await self._exactly(ipc.HEADER.size))
                event = ipc.decode_event(await self._exactly(message_bytes))
                body = bytes(await self._exactly(body_bytes)) if body_bytes else b""
                self._silent_s = 0.0
                await self._deliver(event, body, on_ready)
        except WorkerError as error:
            self._reason = self._reason or f"broke the protocol: {error}"
        except (trio.BrokenResourceError, EOFError):
            pass

    async def _deliver(self, event: Event, body: bytes, on_ready: Callable[[], None]) -> None:
        match event:
            case Ready() if not self._is_ready:
                self.ready, self._is_ready = event, True
                on_ready()
            case Pong(stalled_s=stalled_s):
                if stalled_s > self._config.stall_s:
                    self._end(f"stalls: one step for {stalled_s:.0f} s, limit {self._config.stall_s:.0f}")
            case _:
                self._delivering = True
                await self._events_in.send((event, body))
                self._delivering = False

    async def _exactly(self, count: int) -> bytearray:
        assert self._stream is not None
        data = bytearray()
        while len(data) < count:
            chunk = await self._stream.receive_some(min(count - len(data), _MEGABYTE))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    async def _keep_output(self) -> None:
        """Keeps the tail of what the process prints: it explains a crash."""
        assert self._process is not None and self._process.stdout is not None
        async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as output:
            async for chunk in output:
                self._output += chunk
                del self._output[:-_OUTPUT_KEPT_BYTES]

    async def _watch(self) -> None:
        config = self._config
        started_at = trio.current_time()
        while True:
            await trio.sleep(_WATCH_EVERY_S)
            now = trio.current_time()
            excess = _excess(usage(self.pid, self.directory), config)
            if excess is not None:
                self._end(excess)
            elif not self._is_ready and now - started_at > config.start_timeout_s:
                self._end(f"not ready after {config.start_timeout_s:g} s")
            elif self._acquired_at is not None and now - self._acquired_at > config.wall_clock_s:
                self._end(f"time: over its {config.wall_clock_s:g} s")
            elif self._is_ready and not self._delivering:
                await self._check_answers()

    async def _check_answers(self) -> None:
        self._silent_s += _WATCH_EVERY_S
        if self._silent_s > self._config.hang_s:
            self._end(f"hangs: no answer for {self._silent_s:g} s, limit {self._config.hang_s:g}")
        elif self._silent_s > self._config.hang_s / 4 and not self._send_lock.locked():
            await self._write(Ping(), b"", self._config.hang_s)

    async def _clean_up(self) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = await trio.to_thread.run_sync(process.wait)
            self._drain_output(process)
            if self._reason is None:
                self._reason = self._describe_exit(code)
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)
        if self.calls is not None:
            trio.lowlevel.notify_closing(self.calls.fileno())
            self.calls.close()
        await trio.to_thread.run_sync(shutil.rmtree, self.directory, True)
        self._ended.set()
        self._events_in.close()

    def _drain_output(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        os.set_blocking(process.stdout.fileno(), False)
        with suppress(BlockingIOError):
            self._output += os.read(process.stdout.fileno(), 1 << 16)
        process.stdout.close()

    def _describe_exit(self, code: int) -> str:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = self._output.decode(errors="replace").strip().splitlines()
        if lines and not self._is_ready:
            return lines[-1][:500]  # what it stopped over; that it was then ended says nothing
        return f"{how}: {lines[-1][:500]}" if lines else how


def _excess(held: Usage, config: PoolConfig) -> str | None:
    """What a worker holds too much of."""
    for what, found, limit in (
        ("memory", held.memory_bytes, config.memory_bytes),
        ("disk", held.disk_bytes, config.disk_bytes),
    ):
        if found > limit:
            return f"{what}: {found // _MEGABYTE} MB held, limit {limit // _MEGABYTE} MB"
    if held.files > MAX_FILES:
        return f"files: {held.files} or more, limit {MAX_FILES}"
    if held.threads > config.max_threads:
        return f"threads: {held.threads} run, limit {config.max_threads}"
    return None


class WorkerPool:
    """Hands out workers, some of them started ahead of need."""

    def __init__(self, config: PoolConfig, nursery: trio.Nursery) -> None:
        self._config = config
        self._nursery = nursery
        self._idle: list[Worker] = []
        self._starting = 0
        self._alive = 0
        self._changed = trio.Event()
        self._failure: str | None = None

    @property
    def idle(self) -> int:
        """Workers that acquire() would return at once."""
        return sum(worker.is_alive for worker in self._idle)

    async def wait_warm(self, timeout_s: float = 60) -> None:
        """Returns when at least one worker is idle. Raises WorkerDiedError, trio.TooSlowError."""
        with trio.fail_after(timeout_s):
            while not self.idle:
                await self._wait_for_start()

    async def acquire(self, timeout_s: float = 60) -> Worker:
        """A worker of the caller's own, to be closed by it.

        Returns in milliseconds while one is idle. Raises WorkerError, trio.TooSlowError.
        """
        with trio.fail_after(timeout_s):
            while True:
                self._idle = [worker for worker in self._idle if worker.is_alive]
                if self._idle:
                    worker = self._idle.pop(0)
                    worker.mark_acquired()
                    self._nursery.start_soon(self._refill)
                    return worker
                await self._wait_for_start()

    async def _wait_for_start(self) -> None:
        if not self._starting:
            self.start_worker()
        await self._changed.wait()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise WorkerDiedError(f"no worker: {failure}")

    def start_worker(self) -> None:
        if self._alive >= self._config.max_workers:
            raise WorkerError(f"{self._alive} workers run, limit {self._config.max_workers}")
        self._starting += 1
        self._alive += 1
        self._nursery.start_soon(self._keep)

    async def _refill(self) -> None:
        await trio.sleep(self._config.refill_delay_s)
        wanted = self._config.prewarmed - self.idle - self._starting
        if wanted > 0 and self._alive < self._config.max_workers:
            self.start_worker()

    async def _keep(self) -> None:
        """One worker, from start to end."""
        worker: Worker | None = None
        was_ready = False

        def on_ready() -> None:
            nonlocal was_ready
            assert worker is not None
            was_ready = True
            self._announce(worker)

        reason = ""
        try:
            worker = Worker(
                self._config, Path(tempfile.mkdtemp(prefix="worker-", dir=self._config.directory))
            )
            await worker.run(on_ready)
            reason = worker.reason
        except OSError as error:
            reason = f"no directory for it: {error}"
        finally:
            self._alive -= 1
            self._starting -= not was_ready
        if not was_ready:
            self._failure = reason
            log.warning("worker did not start", reason=reason)
            self._wake()

    def _announce(self, worker: Worker) -> None:
        self._starting -= 1
        self._failure = None
        self._idle.append(worker)
        log.info("worker ready", pid=worker.pid, sandbox=worker.ready.sandbox, runtime=worker.ready.runtime)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_pool(config: PoolConfig) -> AsyncIterator[WorkerPool]:
    """A pool whose workers end with it. Raises WorkerError where the sandbox asked for cannot be had."""
    choose_sandbox(SandboxMode(config.sandbox))
    config = replace(config, directory=_prepare_directory(config.directory))
    async with open_block_nursery() as nursery:
        pool = WorkerPool(config, nursery)
        for _ in range(config.prewarmed):
            pool.start_worker()
        yield pool


def _prepare_directory(directory: Path) -> Path:
    """The pool's own directory, resolved, without what a killed predecessor left in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for leftover in directory.glob("worker-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return directory.resolve()
