"""One job over real processes, to its end or refused in words. ``test_kills`` hurts it on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import LocalNetwork, wait_until

AMOUNT = "5"
pytestmark = [pytest.mark.e2e]


def submit_words(graph: Path, data: Path) -> tuple[str, ...]:
    return ("submit", str(graph), "--data", str(data), "--budget", AMOUNT, "--follow")


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
    # It says with its next heartbeat that its device is free again.
    known = wait_until(lambda: known_as_free(network), 60, "the peer to be free")
    assert known == [peer["peer_id"]]
    network.engine("fetch", summary["job_id"], "-o", str(tmp_path / "model.cyxmodel"))
    assert (tmp_path / "model.cyxmodel").stat().st_size == summary["result"]["size"]
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    words = ("--model", summary["result"]["blake3"], "--input", str(tmp_path / "x.npy"), "--json")
    answer = json.loads(network.engine("infer", "--peer", summary["peer_id"], *words))
    assert np.array(answer["values"]).shape == (2, 3)
    assert network.ask("peer", "status")["models"]
    history = network.ask_engine("wallet", "history")
    assert history[0]["balance"] == max(entry["change"] for entry in history) - payment["earned"]


def known_as_free(network: LocalNetwork) -> list[str]:
    known = network.ask_engine("peers")
    return [peer["peer_id"] for peer in known if peer["online"] and peer["free"] == 1]


def test_a_budget_below_the_estimate_is_refused_with_both_amounts(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path
) -> None:
    words = ("submit", str(graph), "--data", str(stripes), "--budget", "0.000001", "--follow")
    done = network.try_engine(*words)
    assert done.returncode != 0
    assert "budget 0.000001 CYXWIZ, the cheapest acceptable quote is 0.0" in done.stderr
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
    assert "format_version is 99, must be 0 to " in done.stderr
