"""Paid deployments over real processes: served and paid by the period, stopped, restarted, moved, refused."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import LocalNetwork, wait_until

from backend.runtime.base import load_model
from engine_app.checks import BackendChecks
from p2p.api import Engine, tokens
from p2p.errors import P2PError
from p2p.session.checks import ServedModel
from p2p.session.errors import JobEndedError
from tests.e2e.money import Money
from tests.e2e.peer.test_hosting import worker_pid
from tests.e2e.serving.servers import linear_onnx
from tests.e2e.serving.test_text_models import GGUF, real_model
from tests.unit.backend.model_files import image_model, save

pytestmark = [pytest.mark.e2e]
ROW = np.array([[1, 2, 3]], np.float32)
LOGITS = [[16.0, 22.0]]
PRICE = "36"
"""A hundredth of a token for each second."""
OPTIONS = ("--gpus", "none", "--prewarmed", "0")
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def shared(
    make_network: Callable[..., AbstractContextManager[LocalNetwork]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalNetwork]:
    with make_network(tmp_path_factory.mktemp("network"), "--retry-patience", "3") as network:
        let_in = network.engine("id").strip()
        network.start_peer("peer", PRICE, *OPTIONS, "--lan", "--allow", let_in, "--shares", "2")
        yield network


@pytest.fixture(scope="module")
def money(shared: LocalNetwork) -> Money:
    return Money(shared)


class Trusting(BackendChecks):
    """Sends a file that is no model."""

    def check_served(self, path: Path) -> ServedModel:
        return ServedModel("onnx", 1 << 30) if path.name == "wrong.onnx" else super().check_served(path)


@pytest.fixture(scope="module")
def engine(shared: LocalNetwork, money: Money) -> Iterator[Engine]:
    """``money`` first: the wallet's command and this Engine would lock each other out."""
    with Engine(shared.engine_home, coordinator=shared.address, checks=Trusting()) as engine:
        yield engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    linear_onnx(tmp_path / "linear.onnx")
    return tmp_path / "linear.onnx"


def deploy(engine: Engine, model: Path, periods: int, **options: Any) -> str:
    memory = 1 << 30
    return engine.deploy(model, tokens("2"), periods=periods, period_s=1, memory_bytes=memory, **options)


def view(engine: Engine, deployment: str) -> Any:
    return next(view for view in engine.deployments() if view.id == deployment)


def answers(engine: Engine, deployment: str, peer: str | None = None) -> bool:
    try:
        return bool(engine.predict(deployment, ROW, peer)["logits"].tolist() == LOGITS)
    except P2PError:
        return False


def ended(engine: Engine, deployment: str) -> str:
    def over() -> str | None:
        state = view(engine, deployment).state
        return str(state.value) if state.is_final else None

    return wait_until(over, DEADLINE_S, "the end of the deployment")


def test_a_model_is_served_to_its_end_and_paid_in_full(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    deployment = deploy(engine, model, 5)
    wait_until(lambda: answers(engine, deployment), DEADLINE_S, "an answer")
    assert ended(engine, deployment) == "settled"
    found = view(engine, deployment)
    assert (found.served_s, found.left_s, found.paid) == (5, 0, tokens("0.05"))
    with pytest.raises(P2PError):
        engine.predict(deployment, ROW)
    [payment] = money.check(deployment)
    assert payment["earned"] == payment["amount"] == tokens("0.05")
    assert shared.ask("peer", "status")["deployments"] == []


def test_a_worker_that_is_killed_comes_back_and_a_stop_returns_what_was_not_served(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    deployment = deploy(engine, model, 100)
    wait_until(lambda: answers(engine, deployment), DEADLINE_S, "an answer")
    os.kill(worker_pid(shared.programs["peer"].home, deployment), signal.SIGKILL)
    restarted = "an answer of the next worker"
    wait_until(lambda: answers(engine, deployment), DEADLINE_S, restarted)
    served = view(engine, deployment).served_s
    wait_until(lambda: view(engine, deployment).served_s > served, DEADLINE_S, "another period")
    [told] = shared.ask("peer", "status")["deployments"]
    assert (told["job_id"], told["name"], told["state"]) == (deployment, "linear", "ready")
    assert told["restarts"] == 1
    engine.stop_deployment(deployment)
    ended(engine, deployment)
    [payment] = money.check(deployment)
    paid = view(engine, deployment).paid
    assert payment["earned"] == paid and 0 < paid < payment["amount"]
    assert payment["returned"] == payment["amount"] - paid


def stop(engine: Engine, money: Money, deployment: str) -> None:
    """Once a period of it was paid."""
    wait_until(lambda: view(engine, deployment).served_s, DEADLINE_S, "a period that is paid")
    engine.stop_deployment(deployment)
    ended(engine, deployment)
    [payment] = money.check(deployment)
    assert payment["earned"] == view(engine, deployment).paid > 0


def test_a_cyxmodel_is_served_for_pay_and_asked_by_a_command(
    shared: LocalNetwork, engine: Engine, money: Money, tmp_path: Path
) -> None:
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 4, 4, 4)
    np.save(tmp_path / "image.npy", image)
    model = save(tmp_path / "image.cyxmodel", image_model())
    deployment = deploy(engine, model, 100)
    wait_until(lambda: view(engine, deployment).is_running, DEADLINE_S, "the deployment")
    asked = ("infer", deployment, "--input", str(tmp_path / "image.npy"), "--json")
    answer = wait_until(lambda: answer_of(shared, *asked), DEADLINE_S, "an answer")
    expected = load_model(model, "cpu")
    [values] = answer["values"].values()
    [wanted] = expected.run({expected.inputs[0].name: image}, time.monotonic() + DEADLINE_S).values()
    assert np.allclose(values, wanted, atol=1e-5)
    stop(engine, money, deployment)


def answer_of(shared: LocalNetwork, *words: str) -> Any:
    """None while the model is loaded, or its voucher is awaited."""
    done = shared.try_engine(*words)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_a_language_model_is_served_for_pay_and_talked_to(
    shared: LocalNetwork, engine: Engine, money: Money
) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    model = real_model(GGUF) / f"{GGUF}.gguf"
    deployment = deploy(engine, model, 100, context=256)
    wait_until(lambda: view(engine, deployment).is_running, DEADLINE_S, "the deployment")
    asked = (
        "chat",
        deployment,
        "The capital of France is?",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--json",
    )
    answer = wait_until(lambda: answer_of(shared, *asked), DEADLINE_S, "an answer")
    assert answer["text"].strip() and 0 < answer["tokens"] <= 8
    stop(engine, money, deployment)


def test_one_device_in_shares_serves_two_models_at_once_and_no_third(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    first, second = (deploy(engine, model, 100) for _ in range(2))
    for each in (first, second):
        wait_until(lambda each=each: answers(engine, each), DEADLINE_S, "an answer of both")
    status = shared.ask("peer", "status")
    assert {told["job_id"]: told["state"] for told in status["deployments"]} == {
        first: "ready",
        second: "ready",
    }
    third = deploy(engine, model, 100)
    full = lambda: "2 of 2 jobs run there" in str(shared.ask("coordinator", "explain", third))  # noqa: E731
    wait_until(full, DEADLINE_S, "the coordinator to say why there is no place for a third")
    engine.stop_deployment(third)
    ended(engine, third)
    for each in (first, second):
        engine.stop_deployment(each)
        ended(engine, each)
    money.check(first, second)


def test_an_extension_takes_the_running_model_over(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    home = shared.programs["peer"].home
    first = deploy(engine, model, 8)
    wait_until(lambda: answers(engine, first), DEADLINE_S, "an answer")
    worker = worker_pid(home, first)
    second = engine.extend(first, 1, tokens("1"))
    wait_until(lambda: answers(engine, second), DEADLINE_S, "an answer to the second name")
    assert worker_pid(home, first) == worker  # in the directory that it was started in
    assert (ended(engine, first), ended(engine, second)) == ("settled", "settled")
    money.check(first, second)


def test_an_unpaid_deployment_for_an_engine_that_is_let_in(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    [address, *_] = shared.ask("peer", "status")["addresses"]
    options = {"periods": 4, "period_s": 1, "memory_bytes": 1 << 30}
    deployment = engine.deploy(model, peer=address, **options)
    wait_until(lambda: answers(engine, deployment), DEADLINE_S, "an answer")
    assert ended(engine, deployment) == "completed"
    assert view(engine, deployment).served_s == 4
    with pytest.raises(P2PError):
        engine.predict(deployment, ROW)
    money.check_nobody_earned(0)


def test_a_file_that_is_not_what_it_says_is_refused_and_nothing_is_lost(
    shared: LocalNetwork, engine: Engine, money: Money, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"GGUF" + bytes(1000))
    deployment = deploy(engine, wrong, 5)
    ended(engine, deployment)
    found = view(engine, deployment)
    assert found.paid == 0
    money.check_nobody_earned(tokens("0.05"))
    assert "GGUF file: version 0, readable are 2, 3" in shared.programs["peer"].log.read_text()


@pytest.mark.slow
def test_a_deployment_moves_when_its_peer_is_killed_and_is_refunded_when_none_is_left(
    shared: LocalNetwork, engine: Engine, money: Money, model: Path
) -> None:
    second = shared.start_peer("second", PRICE, *OPTIONS)
    money.join(second)
    deployment = deploy(engine, model, 100)
    wait_until(lambda: view(engine, deployment).served_s >= 1, DEADLINE_S, "a period")
    first = view(engine, deployment).peer_id
    names = ("second", "peer") if first == second["peer_id"] else ("peer", "second")
    shared.programs[names[0]].kill()
    moved = lambda: view(engine, deployment).peer_id not in (None, first)  # noqa: E731
    wait_until(moved, DEADLINE_S, "the other peer")
    with pytest.raises(JobEndedError, match="moved by itself"):
        engine.predict(deployment, ROW)
    other = view(engine, deployment).peer_id
    wait_until(lambda: answers(engine, deployment, other), DEADLINE_S, "an answer of the other peer")
    told = shared.ask_engine("deployments", "status", deployment)
    assert (told["peer_id"], told["moved"], told["ask_with"]) == (other, True, f"--peer {other}")
    shared.programs[names[1]].kill()
    ended(engine, deployment)
    payments = money.check(deployment)
    assert len(payments) == 2 and 0 < payments[0]["earned"] < payments[0]["amount"]
    assert sum(payment["earned"] for payment in payments) == view(engine, deployment).paid
