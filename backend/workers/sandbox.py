"""Closes the process that calls it: files, network, programs and memory. Linux, no privileges needed.

Landlock leaves the process its own directory and, to read only, the libraries it may still have
to load; seccomp takes away sockets, programs and other processes; rlimits bound memory and files.
Nothing reopens it. Landlock covers the calling thread and those it starts later, so the process
must still have a single thread.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from backend.errors import WorkerError
from backend.workers import seccomp

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_ASK_VERSION = 1
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_FILE_RIGHTS = 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_OWN_DIRECTORY_RIGHTS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 14
"""Read, write, create, truncate and remove regular files: no links, devices, sockets, no execution."""
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_RIGHTS = (1 << 16) - 1
_OPEN_FILES = 256
_NOTHING = Path("/dev/null")
"""llama_cpp opens it when it is imported, to keep the runtime quiet."""
_DEVICE_FILES = ("/dev/null", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_HARDWARE = Path("/sys/bus/pci/devices")
_HELD = ("RssAnon:", "RssShmem:", "VmSwap:")
_CAPABILITIES_VERSION = 0x20080522


class SandboxMode(Enum):
    """How a worker is closed; AUTO takes landlock, else bubblewrap, else refuses to run."""

    AUTO = "auto"
    LANDLOCK = "landlock"
    BWRAP = "bwrap"
    NONE = "none"
    """Only a process of its own: for a user's own graphs where the system has no sandbox."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """``memory_bytes`` is what may be held, see ``held_bytes``; None for GPUs, whose drivers map far
    more than they use."""

    memory_bytes: int | None
    file_bytes: int
    open_files: int = _OPEN_FILES


def landlock_abi() -> int:
    """The kernel's landlock version, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when ``parent_pid`` ends, however that ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def hide_io_uring(mode: SandboxMode) -> None:
    """For event loops that are made before the process is closed. Raises WorkerError."""
    if mode is SandboxMode.NONE:
        return
    try:
        _deny_new_privileges()
        seccomp.hide_io_uring()
    except OSError as error:
        raise WorkerError(f"cannot close the sandbox: {error}") from error


@dataclass(frozen=True, slots=True)
class Meeting:
    """What one of several processes of a training does when files are closed to it, and sockets not yet.

    Its connections, and threads that serve them, are then the last that it gets.
    """

    directory: Path
    """Shared by those processes alone."""
    connect: Callable[[], None]


def close_process(
    mode: SandboxMode,
    directory: Path,
    limits: SandboxLimits,
    device_files: Iterable[Path] = (),
    listener: int | None = None,
    meeting: Meeting | None = None,
) -> tuple[str, ...]:
    """Closes this process for good and returns the names of the protections in force.

    ``listener``: a descriptor on which it may still accept connections.

    ``mode`` BWRAP means that bubblewrap already runs around this process. Raises WorkerError
    where a protection that was asked for cannot be had.
    """
    if meeting is not None and mode is SandboxMode.BWRAP:
        raise WorkerError("processes inside bubblewrap have no network to meet in; landlock is needed")
    active = ["own process"]
    if mode is SandboxMode.BWRAP:
        active.append("bubblewrap")
    _limit_resources(limits)
    active.append("rlimits")
    if mode is SandboxMode.NONE:
        if meeting is not None:
            meeting.connect()
        return tuple(active)
    try:
        _deny_new_privileges()
        _drop_capabilities()
        if mode is not SandboxMode.BWRAP:
            active.append(f"landlock {_restrict_files(directory, device_files, meeting)}")
        if meeting is not None:
            meeting.connect()
        seccomp.install(listener)
    except OSError as error:
        raise WorkerError(f"cannot close the sandbox: {error}") from error
    active += ["no capabilities", "seccomp"]
    return tuple(active)


def library_places() -> tuple[Path, ...]:
    """What a worker may still have to load code from."""
    names = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    names.add(str(Path(__file__).resolve().parent.parent))
    names.update(("/usr/lib", "/usr/lib64", "/lib", "/lib64"))
    if unpacked := getattr(sys, "_MEIPASS", None):  # the one-file program: its modules lie in the file itself
        names.update((unpacked, sys.executable))
    return tuple(sorted(Path(name) for name in names if name and Path(name).exists()))


def device_files(device: str) -> tuple[Path, ...]:
    """What must still be opened after the sandbox has closed: nothing, and a GPU's driver."""
    if not device.startswith("cuda"):
        return (_NOTHING,)
    numbered = (str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(Path(name) for name in (*_DEVICE_FILES, *numbered) if Path(name).exists())


def _limit_resources(limits: SandboxLimits) -> None:
    if limits.memory_bytes is not None:
        own = Path("/proc/self")
        ceiling = _mapped_bytes(own) + max(0, limits.memory_bytes - held_bytes(own))
        resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = limits.open_files if most == resource.RLIM_INFINITY else min(limits.open_files, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _mapped_bytes(process: Path) -> int:
    return int((process / "statm").read_text().split()[0]) * resource.getpagesize()


def held_bytes(process: Path) -> int:
    """Memory of a process, by its directory in /proc, that no file stands behind; swapped or not.

    Pages of libraries and of mapped models are not counted: the kernel takes them back at need.
    So a closed process cannot hold more than its limit by mapping: it gets a MemoryError before.
    Raises OSError once the process is gone.
    """
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return sum(int(line[1]) * 1024 for line in lines if line and line[0] in _HELD)


def _deny_new_privileges() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs refused")


def _drop_capabilities() -> None:
    """Of a peer that runs as root, its workers keep the user id only."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("<Ii", _CAPABILITIES_VERSION, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities not dropped")


def _restrict_files(directory: Path, device_files: Iterable[Path], meeting: Meeting | None) -> int:
    """Landlocks this thread; returns the kernel's landlock version.

    With a meeting to come the network is left to seccomp, which takes away every socket after it.
    """
    abi = landlock_abi()
    if abi == 0:
        raise OSError("this kernel has no landlock")
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise OSError(f"{threads} threads already run, landlock would miss all but one")
    rights = _RIGHTS_BY_ABI.get(abi, _ALL_RIGHTS)
    network = 3 if abi >= 4 and meeting is None else 0
    scopes = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _landlock_call(_CREATE_RULESET, struct.pack("<QQQ", rights, network, scopes)[:size], size, 0)
    try:
        for path in library_places():
            _allow(ruleset, path, _READ_FILE | _READ_DIRECTORY)
        for path in device_files:
            _allow(ruleset, path, _FILE_RIGHTS & rights)
        _allow(ruleset, directory, _OWN_DIRECTORY_RIGHTS & rights)
        if meeting is not None:
            _allow(ruleset, meeting.directory, _OWN_DIRECTORY_RIGHTS & rights)
            for path in _hardware():
                _allow(ruleset, path, _READ_FILE | _READ_DIRECTORY)
        _landlock_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _hardware() -> list[Path]:
    """The descriptions of cards in this machine: gloo looks for networks, and gives up where it may not."""
    if not _HARDWARE.is_dir():
        return []
    return [_HARDWARE, *(path.resolve() for path in _HARDWARE.iterdir())]


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if path.is_dir() else rights & _FILE_RIGHTS
        _landlock_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("<Qi", allowed, descriptor), 0)
    finally:
        os.close(descriptor)


def _landlock_call(number: int, *arguments: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
