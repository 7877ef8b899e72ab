"""Starts a worker process: its command line, its bare environment, its end of the socket pair.

Linux kills the process when the *thread* that started it ends, so ``start_process`` must be
called from a thread that lives as long as the pool: trio's own, not one of its thread cache.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from backend.errors import WorkerError
from backend.workers.sandbox import SandboxMode, held_bytes, landlock_abi, library_places

MAX_FILES = 1_000
"""In a worker's directory."""
_PASSED_ON = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TZ")
_OF_ONE_FILE = "_PYI_"
"""What the one-file program tells itself, so that a worker finds what is unpacked already."""
_READ_ONLY_FOR_BWRAP = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class Rank:
    """A worker's place among those that train one model together."""

    number: int
    count: int
    meeting: Path
    """A directory of theirs alone."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What one worker process may use. ``threads`` None: all usable cores but one."""

    sandbox: SandboxMode
    memory_bytes: int
    file_bytes: int
    device: str
    threads: int | None
    listener: socket.socket | None = None
    """Where the worker is a model server: what it answers on."""
    has_calls: bool = False
    """Whether it is a model server that answers its supervisor's requests."""
    runtimes: tuple[str, ...] = ()
    """Of a model server: what it imports before it closes."""
    rank: Rank | None = None


def choose_sandbox(wanted: SandboxMode) -> SandboxMode:
    """What ``wanted`` means on this machine. Raises WorkerError where it cannot be had."""
    has_landlock = landlock_abi() > 0
    has_bwrap = shutil.which("bwrap") is not None
    match wanted:
        case SandboxMode.AUTO if has_landlock:
            return SandboxMode.LANDLOCK
        case SandboxMode.AUTO | SandboxMode.BWRAP if has_bwrap:
            return SandboxMode.BWRAP
        case SandboxMode.LANDLOCK if has_landlock:
            return wanted
        case SandboxMode.NONE:
            return wanted
    raise WorkerError(f"sandbox {wanted.value}: this machine has neither landlock nor bubblewrap for it")


@dataclass(frozen=True, slots=True)
class Started:
    """A process, and our ends of its connections."""

    process: subprocess.Popen[bytes]
    commands: socket.socket
    calls: socket.socket | None


def start_process(config: WorkerConfig, directory: Path) -> Started:
    """Starts a worker in ``directory``. Raises OSError."""
    with ExitStack() as ours, ExitStack() as theirs:
        pairs = [socket.socketpair() for _ in range(1 + config.has_calls)]
        for our_end, their_end in pairs:
            ours.enter_context(our_end)
            theirs.enter_context(their_end)
        descriptors = [their_end.fileno() for _, their_end in pairs]
        process = subprocess.Popen(
            _command_line(config, directory, *descriptors),
            cwd=directory,
            env=_environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(*descriptors, *_listener(config)),
            start_new_session=True,
        )
        ours.pop_all()
    return Started(process, pairs[0][0], pairs[1][0] if config.has_calls else None)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker holds, with its children where it runs inside bubblewrap; zeros once it is gone."""

    memory_bytes: int
    disk_bytes: int
    """In its directory, and in files that it removed and keeps open."""
    files: int
    """In its directory; counted up to MAX_FILES + 1."""
    threads: int


def usage(pid: int, directory: Path) -> Usage:
    """As the kernel says, not the worker."""
    memory_bytes = threads = removed_bytes = 0
    for process in _processes(pid):
        with suppress(OSError):
            memory_bytes += held_bytes(process)
            threads += (process / "task").stat().st_nlink - 2
            removed_bytes += _removed_bytes(process / "fd")
    files, kept_bytes = _directory_usage(directory)
    return Usage(memory_bytes, kept_bytes + removed_bytes, files, threads)


def _processes(pid: int) -> Iterator[Path]:
    pids = [pid]
    while pids:
        process = Path("/proc") / str(pids.pop())
        yield process
        with suppress(OSError):
            children = (process / "task" / process.name / "children").read_text().split()
            pids += [int(child) for child in children]


def _removed_bytes(descriptors: Path) -> int:
    total = 0
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            found = descriptor.stat()
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                total += found.st_blocks * 512
    return total


def _directory_usage(directory: Path) -> tuple[int, int]:
    """(files, bytes on disk); stops counting where there are too many anyway."""
    count = total = 0
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                break
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return count, total


def _command_line(config: WorkerConfig, directory: Path, descriptor: int, calls: int = 0) -> list[str]:
    inside_bwrap = config.sandbox is SandboxMode.BWRAP
    # -P and -s: neither the working directory, which holds a stranger's files, nor the user's
    # packages may shadow a module.
    command = [sys.executable, "-P", "-s", "-m", "backend.workers"]
    command += ["--descriptor", str(descriptor), "--directory", str(directory)]
    command += ["--sandbox", config.sandbox.value, "--device", config.device]
    command += ["--memory-bytes", str(config.memory_bytes), "--file-bytes", str(config.file_bytes)]
    command += ["--threads", str(config.threads or 0)]
    for listener in _listener(config):
        command += ["--listener", str(listener)]
    command += ["--calls", str(calls), "--runtimes", ",".join(config.runtimes)]
    if config.rank is not None:
        command += ["--rank", str(config.rank.number), "--ranks", str(config.rank.count)]
        command += ["--meeting", str(config.rank.meeting)]
    command += ["--parent", "0" if inside_bwrap else str(os.getpid())]
    return [*_bwrap(directory), *command] if inside_bwrap else command


def _listener(config: WorkerConfig) -> tuple[int, ...]:
    return () if config.listener is None else (config.listener.fileno(),)


def _bwrap(directory: Path) -> list[str]:
    arguments = ["bwrap", "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for name in _READ_ONLY_FOR_BWRAP:
        arguments += ["--ro-bind-try", name, name]
    for path in (Path(sys.prefix), Path(sys.base_prefix), *library_places()):
        arguments += ["--ro-bind", str(path), str(path)]
    return [*arguments, "--bind", str(directory), str(directory), "--chdir", str(directory), "--"]


def _environment(directory: Path) -> dict[str, str]:
    passed_on = (name for name in os.environ if name in _PASSED_ON or name.startswith(_OF_ONE_FILE))
    environment = {name: os.environ[name] for name in passed_on}
    return environment | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "ORT_DISABLE_TELEMETRY": "1",
        # One thread until the sandbox is closed; main raises it then.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
