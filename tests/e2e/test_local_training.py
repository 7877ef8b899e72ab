"""Trainings on this machine, as commands: killed, stopped, queued, paused, cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_network import command, loopback_environment

pytestmark = pytest.mark.e2e

MOST_S = 90


class Desk:
    """A data directory, and the commands that are run on it."""

    def __init__(self, home: Path, graph: Path, data: Path) -> None:
        loopback_environment()
        self.home, self.graph, self.data = home, graph, data
        self._running: list[subprocess.Popen[str]] = []

    def start(self, output: Path, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        arguments = [str(self.graph), "--data", str(self.data), "-o", str(output), "--json"]
        started = subprocess.Popen(
            [command("cyxwiz"), "--data-dir", str(self.home), "train", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(started)
        return started

    def ask(self, *words: str) -> Any:
        done = subprocess.run(
            [command("cyxwiz"), "--data-dir", str(self.home), *words, "--json"],
            capture_output=True,
            text=True,
            timeout=MOST_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def close(self) -> None:
        for started in self._running:
            if started.poll() is None:
                started.kill()
            started.communicate()


@pytest.fixture
def desk(tmp_path: Path, graph: Path, stripes: Path) -> Iterator[Desk]:
    lengthen(graph, 150)
    made = Desk(tmp_path / "home", graph, stripes)
    yield made
    made.close()


def lengthen(graph: Path, epochs: int) -> None:
    document = json.loads(graph.read_text())
    document["training"]["epochs"] = epochs
    graph.write_text(json.dumps(document))


def until_step(training: subprocess.Popen[str], step: int) -> None:
    assert training.stdout is not None
    for line in training.stdout:
        if json.loads(line).get("metrics", {}).get("step", 0) >= step:
            return
    raise AssertionError(f"ended before step {step}")


def until(look: Callable[[], Any]) -> Any:
    """Asks commands, each of which takes its time, so that this needs no pause of its own."""
    for _ in range(60):
        if found := look():
            return found
    raise AssertionError("never came")


def weights(model: Path) -> bytes:
    with zipfile.ZipFile(model) as archive:
        return archive.read("weights.safetensors")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_was_cut_short_goes_on_bit_exactly(
    desk: Desk, tmp_path: Path, how: signal.Signals
) -> None:
    whole, resumed = tmp_path / "whole.cyxmodel", tmp_path / "resumed.cyxmodel"
    assert desk.start(whole).wait(MOST_S) == 0
    training = desk.start(resumed, subprocess.PIPE)
    until_step(training, 320)  # of 600, saved at 150, 300 and 450
    training.send_signal(how)
    training.communicate(timeout=MOST_S)
    assert training.returncode != 0 and not resumed.exists()
    [found] = desk.ask("trainings")
    assert found["state"] == "interrupted" and 0 < found["step"] < found["total_steps"]
    answer = desk.ask("train", "--resume", str(desk.graph))
    assert answer["output"] == str(resumed)
    assert weights(resumed) == weights(whole)
    assert desk.ask("trainings") == []


def test_one_waits_for_the_other_and_both_obey_from_elsewhere(desk: Desk, tmp_path: Path) -> None:
    lengthen(desk.graph, 100_000)
    first = desk.start(tmp_path / "first.cyxmodel")
    until(lambda: [each for each in desk.ask("trainings") if each["state"] == "training"])
    assert desk.ask("pause", "local-1")["name"] == "local-1"
    until(lambda: desk.ask("trainings")[0]["state"] == "paused")
    second = desk.start(tmp_path / "second.cyxmodel")
    until(lambda: [each for each in desk.ask("trainings") if each.get("waits_for") == ["local-1"]])
    desk.ask("cancel", "local-2")
    _, said = second.communicate(timeout=MOST_S)
    assert second.returncode == 1 and "local-2 is cancelled" in said
    desk.ask("resume", "local-1")
    until(lambda: desk.ask("trainings")[0]["state"] == "training")
    desk.ask("cancel", "local-1")
    first.communicate(timeout=MOST_S)
    assert first.returncode == 1
    assert desk.ask("trainings") == [] and not list(tmp_path.glob("*.cyxmodel"))
