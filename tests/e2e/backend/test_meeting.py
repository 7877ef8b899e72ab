"""A rank meets the others between two doors: its files are closed by then, its sockets right after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PROBE = """
import json, os, socket, sys, threading
from pathlib import Path
from backend.workers.sandbox import Meeting, SandboxLimits, SandboxMode, close_process

secret, own, shared = (Path(each) for each in sys.argv[1:])
found, lines = {}, []

def attempt(name, action):
    try:
        action()
    except OSError as error:
        found[name] = type(error).__name__
    else:
        found[name] = "done"

def serve(end):
    attempt("a thread of the meeting reads a secret", secret.read_bytes)
    end.sendall(end.recv(4))
    attempt("a thread of the meeting opens a socket, later", socket.socket)

def meet():
    attempt("read a secret while it meets", secret.read_bytes)
    attempt("write where it meets", lambda: (shared / "store").write_text("here"))
    listener = socket.create_server(("127.0.0.1", 0))
    lines.append(socket.create_connection(listener.getsockname()))
    lines.append(listener.accept()[0])

close_process(SandboxMode.LANDLOCK, own, SandboxLimits(None, 1 << 20), meeting=Meeting(shared, meet))
thread = threading.Thread(target=serve, args=(lines[1],))
thread.start()
lines[0].sendall(b"ping")
attempt("talk on", lambda: lines[0].recv(4))
thread.join()
attempt("open a socket", socket.socket)
attempt("read a secret", secret.read_bytes)
attempt("run a program", lambda: os.execv("/bin/true", ["true"]))
print(json.dumps(found))
"""


def test_connections_stay_and_nothing_else_is_open(tmp_path: Path) -> None:
    secret, own, shared = (tmp_path / name for name in ("secret", "own", "shared"))
    secret.write_text("secret")
    own.mkdir()
    shared.mkdir()
    paths = [str(path) for path in (secret, own, shared)]
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", PROBE, *paths], cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    denied = "PermissionError"
    assert json.loads(done.stdout) == {
        "read a secret while it meets": denied,
        "write where it meets": "done",
        "a thread of the meeting reads a secret": denied,
        "a thread of the meeting opens a socket, later": denied,
        "talk on": "done",
        "open a socket": denied,
        "read a secret": denied,
        "run a program": denied,
    }
