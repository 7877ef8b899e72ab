"""The embedded chain as a child process: started, watched, and started again on the same port and data.

The child dies with this process, whatever kills it. Knows nothing of what the chain does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from coordinator.errors import ChainProcessError
from p2p.datadir import write_atomic
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

PORT_FILE = "port"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ChainSettings:
    data_dir: Path
    platform_wallet: str
    slot_ms: int = 400
    port: int = 0
    host: str = "127.0.0.1"


class ChainProcess:
    """``url`` stays the same over restarts; ``pid`` is the present child's."""

    def __init__(self, settings: ChainSettings) -> None:
        self.url = ""
        self.pid = 0
        self.restarts = 0
        self._settings = settings
        self._die_with_parent = _death_signal()

    async def start(self) -> subprocess.Popen[bytes]:
        """Raises ChainProcessError unless the child says where it listens."""
        port = self._port()
        child = self._spawn(port)
        try:
            url = await _first_line(child)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stop(child)
            raise
        if not url:
            code = child.wait()
            raise ChainProcessError(
                f"the embedded chain ended with {code} at its start (port {port or 'any'})"
            )
        self.url, self.pid = url, child.pid
        self._remember(url)
        log.info("chain started", url=url, pid=child.pid)
        return child

    async def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Starts another child whenever one ends. Never returns."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await _ended(child)
                log.warning("chain ended", code=child.wait())
                self.restarts += 1
                child, pause_s = await self._start_again(pause_s)
            finally:
                with trio.CancelScope(shield=True):
                    if sys.exc_info()[0] is not None:
                        await stop(child)

    async def _start_again(self, pause_s: float) -> tuple[subprocess.Popen[bytes], float]:
        while True:
            await trio.sleep(pause_s)
            try:
                return await self.start(), FIRST_PAUSE_S
            except ChainProcessError as error:
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                log.error("chain does not start", reason=str(error), pause_s=pause_s)

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        settings = self._settings
        arguments = [sys.executable, "-P", "-m", "coordinator.chain", "--data-dir", str(settings.data_dir)]
        arguments += ["--host", settings.host, "--port", str(port), "--slot-ms", str(settings.slot_ms)]
        arguments += ["--platform-wallet", settings.platform_wallet]
        # From the main thread: the death signal follows the thread that forks, not the process.
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=self._die_with_parent,
            start_new_session=True,
        )

    def _port(self) -> int:
        path = self._settings.data_dir / PORT_FILE
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return self._settings.port
        except ValueError as error:
            raise ChainProcessError(f"{path} is damaged: {error}") from error

    def _remember(self, url: str) -> None:
        write_atomic(self._settings.data_dir / PORT_FILE, url.rpartition(":")[2].encode())


@asynccontextmanager
async def open_chain_process(settings: ChainSettings) -> AsyncIterator[ChainProcess]:
    """A chain that is up now and comes back when it dies. Raises ChainProcessError."""
    process = ChainProcess(settings)
    child = await process.start()
    async with background_tasks() as nursery:
        nursery.start_soon(process.watch, child)
        yield process


async def stop(child: subprocess.Popen[bytes]) -> None:
    """Asks it to end, then ends it."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_TIMEOUT_S):
        await _ended(child)
    if child.poll() is None:
        child.kill()
    child.wait()


async def _first_line(child: subprocess.Popen[bytes]) -> str:
    assert child.stdout is not None
    line = b""
    async with trio.lowlevel.FdStream(os.dup(child.stdout.fileno())) as stream:
        with trio.move_on_after(START_TIMEOUT_S) as scope:
            while b"\n" not in line:
                data = await stream.receive_some(4096)
                if not data:
                    return ""
                line += data
    if scope.cancelled_caught:
        raise ChainProcessError(f"the embedded chain said nothing within {START_TIMEOUT_S:g} s")
    return line.split(b"\n")[0].decode("ascii", "replace").strip()


async def _ended(child: subprocess.Popen[bytes]) -> None:
    descriptor = os.pidfd_open(child.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)


def _death_signal() -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_parent() -> None:
        with suppress(OSError):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return die_with_parent
