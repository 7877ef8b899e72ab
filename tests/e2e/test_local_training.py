"""Trainings on this machine, as commands: killed, stopped, queued, paused, cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import command, loopback_environment
from safetensors.numpy import load

pytestmark = pytest.mark.e2e

MOST_S = 240


class Desk:
    """A data directory, and the commands that are run on it."""

    def __init__(self, home: Path, graph: Path, data: Path) -> None:
        loopback_environment()
        self.home, self.graph, self.data = home, graph, data
        self._running: list[subprocess.Popen[str]] = []

    def start(self, output: Path, *words: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        options = ("--data", str(self.data), "-o", str(output), *words)
        return self.run("train", str(self.graph), *options, stdout=stdout)

    def resume(self, stdout: int) -> subprocess.Popen[str]:
        return self.run("train", str(self.graph), "--resume", stdout=stdout)

    def run(self, *words: str, stdout: int) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [command("cyxwiz"), "--data-dir", str(self.home), *words, "--json"],
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
    lengthen(graph, 60)
    made = Desk(tmp_path / "home", graph, stripes)
    yield made
    made.close()


def lengthen(graph: Path, epochs: int) -> None:
    document = json.loads(graph.read_text())
    # What a trial finds to be fastest may differ from run to run, and rounding with it.
    document["training"] |= {"epochs": epochs, "precision": "float32"}
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


def test_a_training_that_is_killed_and_then_stopped_goes_on_bit_exactly(desk: Desk, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.cyxmodel", tmp_path / "cut.cyxmodel"
    lengthen(desk.graph, 240)
    assert desk.start(whole).wait(MOST_S) == 0
    training = desk.start(cut, stdout=subprocess.PIPE)
    until_step(training, 250)  # of 960, saved at 240, 480 and 720
    training.kill()
    training.communicate(timeout=MOST_S)
    [found] = desk.ask("trainings")
    assert found["state"] == "interrupted" and found["step"] in (240, 480, 720)
    again = desk.resume(stdout=subprocess.PIPE)
    until_step(again, found["step"] + 1)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=MOST_S)
    assert again.returncode == 1 and not cut.exists()
    assert desk.ask("trainings")[0]["step"] > found["step"]
    assert desk.ask("train", "--resume", str(desk.graph))["output"] == str(cut)
    assert weights(cut) == weights(whole)
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
    desk.ask("set-rate", "local-1", "0.0625")
    desk.ask("resume", "local-1")
    until(lambda: desk.ask("trainings")[0]["state"] == "training")
    until(lambda: desk.ask("trainings")[0].get("metrics", {}).get("learning_rate") == 0.0625)
    desk.ask("cancel", "local-1")
    first.communicate(timeout=MOST_S)
    assert first.returncode == 1
    assert desk.ask("trainings") == [] and not list(tmp_path.glob("*.cyxmodel"))


def test_a_model_is_fine_tuned_with_frozen_layers_and_adapters(desk: Desk, tmp_path: Path) -> None:
    lengthen(desk.graph, 2)
    base, tuned = tmp_path / "base.cyxmodel", tmp_path / "tuned.cyxmodel"
    assert desk.start(base).wait(MOST_S) == 0
    document = json.loads(desk.graph.read_text())
    convolutions = [node["id"] for node in document["nodes"] if node["type"] == "Conv2D"]
    for node in document["nodes"]:
        if node["type"] in ("Conv2D", "BatchNorm"):
            node["training"] = "frozen"
        elif node["type"] == "Dense":
            node["training"] = {"lora": {"rank": 2, "alpha": 4}}
    desk.graph.write_text(json.dumps(document))
    size = desk.ask("check", str(desk.graph), "--data", str(desk.data))["estimate"]
    assert 0 < size["trainable_parameters"] < size["parameters"] / 2
    assert desk.start(tuned, "--from", str(base)).wait(MOST_S) == 0
    before, after = load(weights(base)), load(weights(tuned))
    assert before.keys() == after.keys()
    for name in (f"{node}.weight" for node in convolutions):
        assert np.array_equal(before[name], after[name])
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    other = desk.start(tmp_path / "no.cyxmodel", "--from", str(desk.graph))
    _, said = other.communicate(timeout=MOST_S)
    assert other.returncode == 1 and "is no .cyxmodel to begin from" in said


def test_a_sweep_that_was_killed_goes_on_and_keeps_the_best_graph_with_its_model(
    desk: Desk, tmp_path: Path
) -> None:
    lengthen(desk.graph, 20)
    document = json.loads(desk.graph.read_text())
    [optimizer] = [node["id"] for node in document["nodes"] if node["type"] == "AdamW"]
    best = tmp_path / "best.json"
    vary = ("--vary", f"{optimizer}.learning_rate=1e-4..0.3:log", "--trials", "4")
    killed = desk.run(
        "sweep", str(desk.graph), "--data", str(desk.data), "-o", str(best), *vary, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    assert json.loads(killed.stdout.readline())["kind"] == "trial"
    killed.kill()
    killed.communicate(timeout=MOST_S)
    assert desk.ask("trainings")[0]["kind"] == "sweep"
    answer = desk.ask("sweep", "--resume")
    trials = [each for each in answer["trials"] if each["state"] in ("complete", "stopped early")]
    assert len(trials) == 4
    [winner] = [each for each in trials if each["number"] == answer["best"]["number"]]
    assert winner["value"] == min(each["value"] for each in trials if each["state"] == "complete")
    found = {node["id"]: node for node in json.loads(best.read_text())["nodes"]}[optimizer]
    assert found["parameters"]["learning_rate"] == winner["parameters"][f"{optimizer}.learning_rate"]
    with zipfile.ZipFile(best.with_suffix(".cyxmodel")) as archive:
        assert json.loads(archive.read("graph.json")) == json.loads(best.read_text())


def test_several_devices_train_as_one(desk: Desk, tmp_path: Path) -> None:
    output = tmp_path / "two.cyxmodel"
    training = desk.start(output, "--devices", "cpu,cpu", stdout=subprocess.PIPE)
    told, errors = training.communicate(timeout=MOST_S)
    assert training.returncode == 0, errors
    assert json.loads(told.splitlines()[-1])["metrics"]["step"] == 240
    assert load(weights(output))
    assert desk.ask("trainings") == []


def test_a_device_that_is_none_is_named(desk: Desk, tmp_path: Path) -> None:
    training = desk.start(tmp_path / "two.cyxmodel", "--devices", "cpu,")
    assert "'' is no device; allowed are cpu" in training.communicate(timeout=MOST_S)[1]


def test_one_that_fails_at_its_first_step_is_listed_with_its_reason(desk: Desk, tmp_path: Path) -> None:
    document = json.loads(desk.graph.read_text())
    [output] = [node["id"] for node in document["nodes"] if node["type"] == "Output"]
    [into] = [link for link in document["links"] if link["to"][0] == output]
    logarithm = {"id": "odd", "type": "Lambda", "version": 1, "parameters": {"expression": "log(0 - x * x)"}}
    document["nodes"].append(logarithm)
    document["links"].append({"from": ["odd", "output"], "to": into["to"]})
    into["to"] = ["odd", "inputs"]
    desk.graph.write_text(json.dumps(document))
    training = desk.start(tmp_path / "no.cyxmodel")
    _, said = training.communicate(timeout=MOST_S)
    assert training.returncode == 1 and "the output of 'odd' (Lambda)" in said
    [found] = desk.ask("trainings")
    assert found["state"] == "failed" and "at step 0; first no number: the output of 'odd'" in found["reason"]
    assert desk.ask("cancel", "local-1")["state"] == "cancelled"
    assert desk.ask("trainings") == []
