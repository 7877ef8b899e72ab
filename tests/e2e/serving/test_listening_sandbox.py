"""A closed worker accepts on the socket it inherited, and gets no other one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.workers.sandbox import landlock_abi

pytestmark = pytest.mark.e2e

_SCRIPT = """
import os, socket, sys
from pathlib import Path
from backend.workers.sandbox import SandboxLimits, SandboxMode, close_process, hide_io_uring

listener = socket.socket(fileno=int(sys.argv[1]))
other = socket.socket()
hide_io_uring(SandboxMode.LANDLOCK)
close_process(SandboxMode.LANDLOCK, Path(sys.argv[2]), SandboxLimits(None, 1 << 20), (), listener.fileno())

def attempt(name, work):
    try:
        work()
        print(name, "allowed")
    except OSError as error:
        print(name, error.errno)

print("ready", flush=True)
connection, _ = listener.accept()
attempt("answer", lambda: connection.sendall(b"hello"))
attempt("listen here", lambda: listener.listen(7))
attempt("listen elsewhere", lambda: other.listen(7))
attempt("bind", lambda: other.bind(("127.0.0.1", 0)))
attempt("connect", lambda: other.connect(("127.0.0.1", 9)))
attempt("socket", socket.socket)
attempt("socketpair", socket.socketpair)
listener.shutdown(socket.SHUT_RDWR)
target = ("127.0.0.1", int(sys.argv[3]))
attempt("send to", lambda: listener.sendto(b"out", socket.MSG_FASTOPEN, target))
attempt("send a message to", lambda: listener.sendmsg([b"out"], [], socket.MSG_FASTOPEN, target))
"""


@pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no landlock")
def test_a_closed_worker_accepts_on_its_own_socket_only(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as another,
    ):
        target = str(another.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(listener.fileno()), str(tmp_path), target],
            pass_fds=(listener.fileno(),),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with socket.create_connection(listener.getsockname(), timeout=60) as client:
            assert client.recv(5) == b"hello"
        said, _ = process.communicate(timeout=60)
    denied = "13"
    assert said.splitlines() == [
        "answer allowed",
        "listen here allowed",
        f"listen elsewhere {denied}",
        f"bind {denied}",
        f"connect {denied}",
        f"socket {denied}",
        f"socketpair {denied}",
        f"send to {denied}",
        f"send a message to {denied}",
    ]
