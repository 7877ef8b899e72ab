"""Real processes on loopback: the harness that the end-to-end tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

START_DEADLINE_S = 60
FAST = ("--heartbeat", "0.5", "--lease", "2.5", "--claim-window", "2", "--retry-patience", "25")


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of ``condition``; fails the test after ``timeout_s``."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        pause.wait(0.03)
    pytest.fail(f"waited {timeout_s} s for {what}")


class Program:
    """One started program with its data directory and log."""

    def __init__(self, name: str, directory: Path, arguments: list[str]) -> None:
        self.name = name
        self.directory = directory
        self.arguments = arguments
        self.log = directory.parent / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        (self.directory / "ready.json").unlink(missing_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log, env=environment)
        return self

    def ready(self) -> dict[str, Any]:
        path = self.directory / "ready.json"

        def look() -> dict[str, Any] | None:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if not path.exists():
                return None
            ready: dict[str, Any] = json.loads(path.read_text())
            return ready if ready["pid"] == self.process.pid else None

        return wait_until(look, START_DEADLINE_S, f"{self.name} to be ready\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> dict[str, Any]:
        return self.start().ready()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""


def command(name: str) -> str:
    return str(Path(sys.executable).parent / name)


class World:
    """A coordinator with its chain, some peers, and one Engine's data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs: list[Program] = []
        self.engine_directory = directory / "engine"
        self.coordinator: Program | None = None
        self.address = ""

    def start_coordinator(self, *options: str) -> dict[str, Any]:
        home = self.directory / "coordinator"
        listen = "/ip4/127.0.0.1/tcp/0"
        ready = home / "ready.json"
        arguments = [command("cyxcoordinator"), "start", "--data-dir", str(home), "--listen", listen]
        self.coordinator = Program("coordinator", home, [*arguments, *(options or FAST)]).start()
        self.programs.append(self.coordinator)
        info = self.coordinator.ready()
        self.address = info["addresses"][0]
        # After a crash it must come back where the others look for it.
        port = self.address.split("/tcp/")[1].split("/")[0]
        self.coordinator.arguments[5] = f"/ip4/127.0.0.1/tcp/{port}"
        assert ready.exists()
        return info

    def start_peer(self, name: str = "peer", *options: str, price: str = "10") -> Program:
        home = self.directory / name
        arguments = [command("cyxpeer"), "start", "--gpus", "none", "--data-dir", str(home)]
        arguments += ["--listen", "/ip4/127.0.0.1/tcp/0", "--coordinator", self.address, "--price", price]
        program = Program(name, home, [*arguments, *options]).start()
        self.programs.append(program)
        program.ready()
        return program

    def engine_arguments(self, *arguments: str) -> list[str]:
        return [command("cyxwiz"), "--data-dir", str(self.engine_directory), *arguments]

    def engine(self, *arguments: str, timeout_s: float = 120, ok: bool = True) -> str:
        """Runs one Engine command to its end; its standard output."""
        done = subprocess.run(
            self.engine_arguments(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if ok and done.returncode != 0:
            pytest.fail(f"cyxwiz {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if ok else done.stdout + done.stderr

    def ask(self, program: str, *arguments: str) -> Any:
        """A ``--json`` listing of a running coordinator or peer."""
        home = self.directory / program
        name = "cyxcoordinator" if program == "coordinator" else "cyxpeer"
        done = subprocess.run(
            [command(name), *arguments, "--data-dir", str(home), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def fund(self, tokens: str = "1000") -> None:
        self.engine("wallet", "new")
        self.engine("wallet", "airdrop", tokens, "--coordinator", self.address)

    def stop(self) -> None:
        for program in reversed(self.programs):
            program.stop()

    def logs(self) -> str:
        return "\n".join(f"---- {program.name}\n{program.tail()}" for program in self.programs)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.stop()
        print(made.logs())


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """600 images of 1 x 8 x 8 in three classes that the test itself makes: bars in three directions."""
    random = np.random.default_rng(7)
    labels = random.integers(0, 3, 600)
    images = random.normal(0, 0.25, (600, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        position = random.integers(0, 8)
        if label == 0:
            image[0, position, :] += 2
        elif label == 1:
            image[0, :, position] += 2
        else:
            np.fill_diagonal(image[0], image[0].diagonal() + 2)
    path = tmp_path / "stripes.safetensors"
    save_file({"x": images, "y": labels.astype(np.int64)}, path)
    return path
