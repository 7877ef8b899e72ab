"""One job over real processes: to its end, refused, and with every program killed at every step."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import LocalNetwork, wait_until

AMOUNT = "5"
CLOSED_DEADLINE_S = 60.0
STEPS = ("awaiting funds", "funded", "running", "result ready")
pytestmark = [pytest.mark.e2e]


def submit_words(graph: Path, data: Path) -> tuple[str, ...]:
    return ("submit", str(graph), "--data", str(data), "--budget", AMOUNT, "--follow")


def paid_exactly_once(network: LocalNetwork, job_id: str) -> None:
    """What the user's wallet lost is what its vouchers earned; a tenth of it is the platform's."""

    def closed() -> list[dict[str, Any]] | None:
        payments = [entry for entry in network.ask("coordinator", "payments") if entry["job_id"] == job_id]
        return payments if all(entry["state"] in ("settled", "refunded") for entry in payments) else None

    payments = wait_until(closed, CLOSED_DEADLINE_S, "every escrow to be closed")
    history = json.loads(network.engine("wallet", "history", "--json"))
    airdrop = max(entry["change"] for entry in history)
    spent = airdrop - history[0]["balance"]
    assert spent == sum(entry["earned"] for entry in payments)


@pytest.fixture
def peer(network: LocalNetwork) -> dict[str, Any]:
    return network.start_peer("peer", "10", "--gpus", "none")


def test_a_job_ends_with_a_model_that_its_peer_serves(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path, tmp_path: Path
) -> None:
    summary = network.follow(*submit_words(graph, stripes)).finish()
    assert summary["state"] == "settled"
    assert summary["metrics"]["test_accuracy"] > 0.95
    assert summary["peer_id"] == peer["peer_id"]
    [escrow] = summary["escrows"]
    assert escrow["earned"] == escrow["amount"]
    [payment] = network.ask("coordinator", "payments")
    assert (payment["state"], payment["earned"], payment["returned"]) == ("settled", escrow["amount"], 0)
    network.engine("fetch", summary["job_id"], "-o", str(tmp_path / "model.cyxmodel"))
    assert (tmp_path / "model.cyxmodel").stat().st_size == summary["result"]["size"]
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    words = ("--model", summary["result"]["blake3"], "--input", str(tmp_path / "x.npy"), "--json")
    answer = json.loads(network.engine("infer", "--peer", summary["peer_id"], *words))
    assert np.array(answer["values"]).shape == (2, 3)
    assert network.ask("peer", "status")["models"]
    paid_exactly_once(network, summary["job_id"])


def test_a_budget_below_the_estimate_is_refused_with_both_amounts(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path
) -> None:
    words = ("submit", str(graph), "--data", str(stripes), "--budget", "0.000001", "--follow")
    done = network.try_engine(*words)
    assert done.returncode != 0
    assert "0.000001 CYXWIZ" in done.stderr
    assert network.ask("coordinator", "jobs") == []


def test_an_empty_wallet_is_refused(network: LocalNetwork, graph: Path, stripes: Path) -> None:
    network.engine_home = network.directory / "poor"
    network.engine("wallet", "new")
    done = network.try_engine(*submit_words(graph, stripes), "--coordinator", network.address)
    assert done.returncode != 0
    assert "is empty: holds 0 CYXWIZ" in done.stderr


def test_a_malformed_graph_is_refused_before_anything_is_sent(
    network: LocalNetwork, stripes: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"format_version": 99, "nodes": []}')
    done = network.try_engine(*submit_words(broken, stripes))
    assert done.returncode != 0
    assert "99" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", ["coordinator", "chain", "engine"])
def test_the_same_job_finishes_after_a_kill(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path, victim: str, step: str
) -> None:
    run = network.follow(*submit_words(graph, stripes))
    job_id = ""
    for news in run.news():
        job_id = news["job_id"]
        if news.get("state") == step:
            break
    if victim == "engine":
        run.kill()
        run = network.follow("follow", job_id)
    elif victim == "coordinator":
        network.programs["coordinator"].kill()
        network.programs["coordinator"].start()
    else:
        os.kill(network.chain_pid(), signal.SIGKILL)
    summary = run.finish()
    assert summary["state"] == "settled"
    assert summary["job_id"] == job_id
    paid_exactly_once(network, job_id)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["awaiting funds", "running"])
def test_a_killed_peers_job_finishes_on_another_peer(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path, step: str
) -> None:
    other = network.start_peer("other", "10", "--gpus", "none")
    names = {peer["peer_id"]: "peer", other["peer_id"]: "other"}
    run = network.follow(*submit_words(graph, stripes))
    victim = ""
    for news in run.news():
        victim = victim or next((names[key] for key in names if key in news.get("text", "")), "")
        if news["kind"] == "checkpoint" or (news.get("state") == step == "awaiting funds"):
            network.programs[victim].kill()
            break
    summary = run.finish()
    assert summary["state"] == "settled"
    assert names[summary["peer_id"]] != victim
    paid_exactly_once(network, summary["job_id"])
