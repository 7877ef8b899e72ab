"""A whole CyxWiz network as real processes on loopback, for the demo, the benchmarks and the e2e tests.

Starts the installed commands and nothing else: what works here works by hand.
"""

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
from typing import Any, TypeVar

T = TypeVar("T")

START_DEADLINE_S = 180.0
STOP_DEADLINE_S = 30.0
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class NetworkError(Exception):
    """A program did not start, failed, or did not do in time what it should."""


def command(name: str) -> str:
    """The installed command beside this Python."""
    return str(Path(sys.executable).parent / name)


def wait_until(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """The first true value of ``condition``. Raises NetworkError."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        pause.wait(0.02)
    raise NetworkError(f"waited {timeout_s:g} s for {what}")


class Program:
    """One daemon with its data directory and its log."""

    def __init__(self, name: str, home: Path, arguments: list[str]) -> None:
        self.name = name
        self.home = home
        self.arguments = arguments
        self.log = home.parent / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """Starts it, also again after a kill; returns what it says once it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            return wait_until(self._look, START_DEADLINE_S, f"{self.name} to listen")
        except NetworkError as error:
            raise NetworkError(f"{error}; its log:\n{self.tail()}") from error

    def _look(self) -> dict[str, Any] | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise NetworkError(f"{self.name} ended with {self.process.returncode}")
        try:
            ready: dict[str, Any] = json.loads((self.home / "ready.json").read_text())
        except FileNotFoundError:
            return None
        return ready if ready["pid"] == self.process.pid else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        """As Ctrl-C would; kills what does not listen to that."""
        if self.process is None or not self.is_running:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else "(empty)"


class LocalNetwork:
    """A coordinator with its chain, peers, and the Engine's data directory, below one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine_home = directory / "engine"
        self.programs: dict[str, Program] = {}
        self.address = ""
        """The coordinator's."""

    def start_coordinator(self, *options: str) -> dict[str, Any]:
        home = self.directory / "coordinator"
        listen = self.listen("coordinator")
        arguments = [command("cyxcoordinator"), "start", "--data-dir", str(home), "--listen", listen]
        words = self.on("coordinator", [*arguments, *options])
        program = self.programs["coordinator"] = Program("coordinator", home, words)
        ready = program.start()
        self.address = ready["addresses"][0]
        program.arguments[program.arguments.index(listen)] = self.address.partition("/p2p/")[0]
        return ready

    def start_peer(self, name: str, price: str, *options: str) -> dict[str, Any]:
        home = self.directory / name
        arguments = [command("cyxpeer"), "start", "--data-dir", str(home), "--listen", self.listen(name)]
        # Tests give short claim windows; a peer of its own accord takes none in which it could lose.
        arguments += ["--coordinator", self.address, "--price", price, "--min-claim-window", "1", *options]
        program = self.programs[name] = Program(name, home, self.on(name, arguments))
        return program.start()

    def listen(self, name: str) -> str:
        """Where the program listens; overridden where the machines are not one."""
        return LOOPBACK

    def on(self, name: str, words: list[str]) -> list[str]:
        """What runs ``words`` on the machine of that program."""
        return words

    def start_lan_peer(self, name: str, *options: str) -> dict[str, Any]:
        """One that no coordinator knows. Like every peer it is stopped with the network."""
        home = self.directory / name
        arguments = [command("cyxpeer"), "start", "--data-dir", str(home), "--listen", LOOPBACK, "--lan"]
        program = self.programs[name] = Program(name, home, [*arguments, *options])
        return program.start()

    def chain_pid(self) -> int:
        """Of the coordinator's embedded chain."""
        coordinator = self.programs["coordinator"].process
        assert coordinator is not None
        for pid in children_of(coordinator.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(b"chain" in word for word in words):
                return pid
        raise NetworkError("the coordinator has no chain process")

    def engine(self, *arguments: str, timeout_s: float = 120) -> str:
        """Standard output of one ``cyxwiz`` command. Raises NetworkError when it fails."""
        done = self.try_engine(*arguments, timeout_s=timeout_s)
        if done.returncode != 0:
            raise NetworkError(f"cyxwiz {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def try_engine(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        words = self.engine_arguments(*arguments)
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)

    def engine_arguments(self, *arguments: str) -> list[str]:
        return self.on("engine", [command("cyxwiz"), "--data-dir", str(self.engine_home), *arguments])

    def ask_engine(self, *arguments: str) -> Any:
        """The ``--json`` answer of one ``cyxwiz`` command. Raises NetworkError when it fails."""
        return json.loads(self.engine(*arguments, "--json"))

    def ask(self, program: str, *arguments: str) -> Any:
        """The ``--json`` listing of a running coordinator or peer."""
        name = "cyxcoordinator" if program == "coordinator" else "cyxpeer"
        words = [command(name), *arguments, "--data-dir", str(self.programs[program].home), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise NetworkError(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def follow(self, *arguments: str) -> EngineRun:
        """Starts a ``cyxwiz`` command that tells a job's story as JSON lines."""
        return EngineRun(self.engine_arguments(*arguments, "--json"), self.directory / "engine.log")

    def stop(self) -> None:
        for program in reversed(self.programs.values()):
            program.stop()

    def logs(self) -> str:
        return "\n".join(f"---- {program.name}\n{program.tail()}" for program in self.programs.values())


class EngineRun:
    """A running ``cyxwiz submit --follow --json`` or ``cyxwiz follow --json``."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log
        self.told: list[dict[str, Any]] = []
        """The news so far."""
        self.summary: dict[str, Any] | None = None
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=errors, text=True, stdin=subprocess.DEVNULL
            )

    def news(self) -> Iterator[dict[str, Any]]:
        """What happens to the job, as it happens; ``summary`` is there after the last."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if "kind" in answer:
                self.told.append(answer)
                yield answer
            else:
                self.summary = answer

    def finish(self, timeout_s: float = 120) -> dict[str, Any]:
        """Reads to the end. Raises NetworkError unless the job ended well."""
        timer = threading.Timer(timeout_s, self.process.kill)
        timer.start()
        try:
            for _ in self.news():
                pass
            code = self.process.wait(timeout_s)
        finally:
            timer.cancel()
        if code != 0 or self.summary is None:
            raise NetworkError(f"the engine ended with {code}:\n{self._log.read_text()[-4000:]}")
        return self.summary

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()


def children_of(pid: int) -> list[int]:
    """Direct children, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def loopback_environment() -> None:
    """One thread a runtime: several processes share this machine."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
