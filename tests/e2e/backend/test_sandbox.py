"""A closed process denies what it must deny, tried from inside while it trains."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PROBE = """
import ctypes, fcntl, json, os, socket, struct, subprocess, sys, threading, time
from pathlib import Path

secret, directory = Path(sys.argv[1]), Path(sys.argv[2])
graph, parent = sys.argv[3].encode(), int(sys.argv[4])

from backend.reports import Cancelled, Failed, Progress, Train
from backend.workers.job import TrainingJob
from backend.workers import seccomp
from backend.workers.sandbox import SandboxLimits, SandboxMode, close_process
from backend.workers.warmup import choose_threads, warm_up
import numpy, torch

warm_up(directory)
active = close_process(SandboxMode.LANDLOCK, directory, SandboxLimits(1 << 30, 1 << 20))
choose_threads(2)

steps, ends = [], []
stepped = threading.Condition()

def send(event, body=b""):
    with stepped:
        if isinstance(event, Progress):
            steps.append(event.metrics.step)
        if isinstance(event, (Failed, Cancelled)):
            ends.append(repr(event))
        stepped.notify_all()

def train_on():
    "Returns when training has taken another step since."
    with stepped:
        before = len(steps)
        assert stepped.wait_for(lambda: ends or len(steps) > before, 30) and not ends, ends

job = TrainingJob(Train("data.safetensors", None, 1, 0, 1, "cpu", 0.0), graph, directory, send)
threading.Thread(target=job.run, daemon=True).start()
train_on()

def attempt(action):
    train_on()
    try:
        action()
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        return type(error).__name__
    finally:
        train_on()
    return "ALLOWED"

def from_a_new_thread(action):
    def run():
        outcome = []
        def body():
            try:
                action()
            except OSError as error:
                outcome.append(error)
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if outcome:
            raise outcome[0]
    return run

libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def errors_of_denied_calls():
    "By name: every call of the filter, made with harmless arguments."
    column = seccomp._COLUMN[seccomp.machine()]
    found = {}
    for name, numbers in seccomp._DENIED.items():
        if numbers[column] != seccomp._ABSENT and name not in ("fork", "vfork"):
            ctypes.set_errno(0)
            result = libc.syscall(numbers[column], -1, 0, 0, 0, 0)
            found[name] = ctypes.get_errno() if result == -1 else f"returned {result}"
    return found

own = os.open(os.__file__, os.O_RDONLY)


print(json.dumps({
    "active": active,
    "read a secret": attempt(secret.read_bytes),
    "read a secret in another thread": attempt(from_a_new_thread(secret.read_bytes)),
    "read /etc/passwd": attempt(lambda: open("/etc/passwd").read()),
    "read its parent's environment": attempt(lambda: open(f"/proc/{parent}/environ").read()),
    "list the home": attempt(lambda: os.listdir(secret.parent)),
    "write beside its directory": attempt(lambda: (secret.parent / "new").write_bytes(b"x")),
    "change a secret's mode": attempt(lambda: os.chmod(secret, 0o777)),
    "truncate a secret": attempt(lambda: os.truncate(secret, 0)),
    "remove a secret": attempt(secret.unlink),
    "make a link to a secret": attempt(lambda: os.symlink(secret, directory / "link")),
    "open a socket": attempt(socket.socket),
    "open a local socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "open a socket pair": attempt(socket.socketpair),
    "run a program": attempt(lambda: os.execv("/bin/true", ["true"])),
    "start a program": attempt(lambda: subprocess.run(["/bin/true"])),
    "fork": attempt(os.fork),
    "signal its parent": attempt(lambda: os.kill(parent, 0)),
    "have a pipe signal its parent": attempt(lambda: fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)),
    "have a pipe signal its parent's threads": attempt(
        lambda: fcntl.fcntl(os.pipe()[0], 15, struct.pack("ii", 0, parent))),
    "have a pipe send the signal that kills": attempt(
        lambda: fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)),
    "have a terminal or socket signal its parent": attempt(
        lambda: fcntl.ioctl(own, 0x8901, struct.pack("i", parent))),
    "make others wait for a library": attempt(
        lambda: fcntl.fcntl(own, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
    "limit its parent": attempt(lambda: __import__("resource").prlimit(parent, 7, (8, 8))),
    "set up io_uring": attempt(lambda: checked(libc.syscall(425, 8, None))),
    "trace its parent": attempt(lambda: checked(libc.ptrace(16, parent, 0, 0))),
    "leave its namespace": attempt(lambda: checked(libc.unshare(0x10000000))),
    "change a library's mode": attempt(lambda: os.fchmod(own, 0o777)),
    "make a library immutable": attempt(lambda: fcntl.ioctl(own, 0x40086602, bytes(8))),
    "hold memory as a file": attempt(lambda: os.memfd_create("hidden")),
    "leave shared memory behind": attempt(lambda: checked(libc.shmget(0, 4096, 0o1600))),
    "pin its parent to a core": attempt(lambda: os.sched_setaffinity(parent, {0})),
    "outlive its parent": attempt(lambda: checked(libc.prctl(1, 0, 0, 0, 0))),
    "make a device": attempt(lambda: os.mknod(directory / "null", 0o20666, os.makedev(1, 3))),
    "make a pipe for others": attempt(lambda: os.mkfifo(directory / "pipe")),
    "make a directory": attempt(lambda: os.mkdir(directory / "deep")),
    "raise a limit": attempt(lambda: __import__("resource").setrlimit(1, (1 << 40, 1 << 40))),
    "take a capability back": attempt(lambda: checked(libc.capset(
        struct.pack("<Ii", 0x20080522, 0), struct.pack("<6I", 1 << 21, 1 << 21, 0, 0, 0, 0)))),
    "denied calls": errors_of_denied_calls(),
    "hold 4 GB with numpy": attempt(lambda: numpy.ones(1 << 29)),
    "hold 4 GB with torch": attempt(lambda: torch.ones(1 << 30)),
    "write a huge file": attempt(lambda: (directory / "huge").write_bytes(bytes(2 << 20))),
    "write a small file": attempt(lambda: (directory / "small").write_bytes(b"x")),
    "steps": len(steps),
}))
sys.stdout.flush()
os._exit(0)
"""

ALLOWED = {"write a small file"}


def test_files_sockets_programs_and_huge_allocations_are_denied_while_it_trains(
    tmp_path: Path, data: Path, long_graph: bytes
) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "data.safetensors").write_bytes(data.read_bytes())
    secret = tmp_path / "secret"
    secret.write_text("key")
    mode = secret.stat().st_mode
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "OMP_NUM_THREADS": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    with subprocess.Popen(
        [sys.executable, "-c", PROBE, str(secret), str(directory), long_graph.decode(), "1"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        answers = json.loads(process.stdout.readline())
    assert answers.pop("steps") > 2 * len(answers) - 4
    assert {"seccomp", "no capabilities"} <= set(answers.pop("active"))
    assert set(answers.pop("denied calls").values()) == {errno.EACCES}
    assert {what for what, outcome in answers.items() if outcome == "ALLOWED"} == ALLOWED
    assert secret.read_text() == "key"
    assert secret.stat().st_mode == mode


def test_a_process_with_other_threads_is_not_called_closed(tmp_path: Path) -> None:
    """Landlock would not cover them."""
    source = """
import sys, threading
from pathlib import Path
from backend.errors import WorkerError
from backend.workers.sandbox import SandboxLimits, SandboxMode, close_process
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    close_process(SandboxMode.LANDLOCK, Path(sys.argv[1]), SandboxLimits(None, 1 << 20))
except WorkerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True)
    assert "2 threads already run" in done.stdout, done.stderr
