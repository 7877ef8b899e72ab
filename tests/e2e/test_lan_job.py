"""Unpaid jobs over real processes that find each other by real multicast; there is no coordinator at all."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import LocalNetwork, command, loopback_environment, wait_until

from backend.formats.cyxmodel import read_cyxmodel
from p2p.mdns import GROUP

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[LocalNetwork]:
    """A network of nobody yet; skips, saying why, where the machine has no multicast."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            member = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError as error:
            pytest.skip(f"this machine forbids multicast on its loopback: {error}")
    loopback_environment()
    made = LocalNetwork(tmp_path)
    try:
        yield made
    finally:
        made.stop()
        print(made.logs())


def allow(lan: LocalNetwork, verb: str, engine_id: str) -> str:
    words = [command("cyxpeer"), verb, engine_id, "--data-dir", str(lan.programs["peer"].home)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def neighbour(lan: LocalNetwork, peer_id: str) -> dict[str, Any]:
    """Other tests may run on the same network at the same time; not everybody answers to each look."""

    def look() -> dict[str, Any] | None:
        return next((peer for peer in lan.ask_engine("peers", "--lan") if peer["peer_id"] == peer_id), None)

    return wait_until(look, 60, "the neighbour")


def infer(lan: LocalNetwork, peer_id: str, model: str, tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    words = ("--model", model, "--input", str(tmp_path / "x.npy"), "--json")
    return np.array(json.loads(lan.engine("infer", "--peer", peer_id, *words))["values"])


def test_a_job_survives_its_peers_death_and_its_model_answers(
    lan: LocalNetwork, graph: Path, stripes: Path, tmp_path: Path
) -> None:
    peer_id = lan.start_lan_peer("peer", "--gpus", "none")["peer_id"]
    engine_id = lan.engine("id").strip()
    submit = ("submit", str(graph), "--data", str(stripes), "--lan", peer_id)

    # Nobody is let in yet: the refusal says who we are and what the owner has to do.
    assert neighbour(lan, peer_id)["allowed"] is False
    refused = lan.try_engine(*submit)
    assert refused.returncode == 1
    assert f"Engine {engine_id} is not on the list" in refused.stderr
    assert f"cyxpeer allow {engine_id}" in refused.stderr
    assert lan.engine("jobs").strip() == "no jobs yet"

    assert allow(lan, "allow", engine_id) == engine_id
    assert neighbour(lan, peer_id)["allowed"] is True
    run = lan.follow(*submit, "--follow")
    for news in run.news():
        if news["kind"] == "checkpoint" and "fetched and checked" in news["text"]:
            break
    lan.programs["peer"].kill()
    restarted = lan.programs["peer"].start()  # the same identity, another port, the list kept
    assert restarted["peer_id"] == peer_id
    summary = run.finish()
    assert (summary["state"], summary["unpaid"], summary["escrows"]) == ("completed", True, [])
    assert summary["metrics"]["test_accuracy"] > 0.95
    assert [job["kind"] for job in lan.ask("peer", "status")["jobs"]].count("direct") >= 1

    target = tmp_path / "model.cyxmodel"
    lan.engine("fetch", summary["job_id"], "-o", str(target))
    assert target.stat().st_size == summary["result"]["size"]
    assert infer(lan, peer_id, summary["result"]["blake3"], tmp_path).shape == (2, 3)
    assert not (lan.engine_home / "wallet.json").exists()
    assert not (lan.programs["peer"].home / "wallet.json").exists()

    assert allow(lan, "deny", engine_id) == ""
    denied = lan.try_engine(*submit)
    assert "is not on the list" in denied.stderr


@pytest.mark.slow
def test_a_job_survives_its_engines_death(
    lan: LocalNetwork, graph: Path, stripes: Path, tmp_path: Path
) -> None:
    engine_id = lan.engine("id").strip()
    peer_id = lan.start_lan_peer("peer", "--gpus", "none", "--allow", engine_id)["peer_id"]
    run = lan.follow("submit", str(graph), "--data", str(stripes), "--lan", peer_id, "--follow")
    job_id = ""
    for news in run.news():
        job_id = news["job_id"]
        if news["kind"] == "checkpoint":
            break
    run.kill()
    lan.engine("pause", job_id)
    assert lan.ask("peer", "status")["jobs"][0]["phase"] in ("paused", "result held")
    lan.engine("resume", job_id)
    summary = lan.follow("follow", job_id).finish()
    assert summary["state"] == "completed"
    assert infer(lan, peer_id, summary["result"]["blake3"], tmp_path).shape == (2, 3)


@pytest.mark.slow
def test_a_model_is_fine_tuned_at_a_peer(
    lan: LocalNetwork, graph: Path, stripes: Path, tmp_path: Path
) -> None:
    document = json.loads(graph.read_text())
    document["training"]["epochs"] = 1
    graph.write_text(json.dumps(document))
    base, tuned = tmp_path / "base.cyxmodel", tmp_path / "tuned.cyxmodel"
    lan.engine("train", str(graph), "--data", str(stripes), "-o", str(base))
    frozen, adapted = (
        next(node for node in document["nodes"] if node["type"] == kind) for kind in ("Conv2D", "Dense")
    )
    frozen["training"], adapted["training"] = "frozen", {"lora": {"rank": 1, "alpha": 4.0}}
    graph.write_text(json.dumps(document))
    engine_id = lan.engine("id").strip()
    peer_id = lan.start_lan_peer("peer", "--gpus", "none", "--allow", engine_id)["peer_id"]
    submit = ("submit", str(graph), "--data", str(stripes), "--lan", peer_id)
    assert "--from MODEL" in lan.try_engine(*submit).stderr
    summary = lan.follow(*submit, "--from", str(base), "--follow").finish()
    assert summary["state"] == "completed"
    lan.engine("fetch", summary["job_id"], "-o", str(tuned))
    before, after = read_cyxmodel(base).weights, read_cyxmodel(tuned).weights
    assert before.keys() == after.keys()  # the adapters are merged
    frozen_weight, adapted_weight = f"{frozen['id']}.weight", f"{adapted['id']}.weight"
    assert np.array_equal(before[frozen_weight], after[frozen_weight])
    sizes = np.linalg.svd(after[adapted_weight] - before[adapted_weight], compute_uv=False)
    assert sizes[0] > 1e-3
    assert sizes[1] < 1e-3 * sizes[0]  # a change of rank 1


@pytest.mark.slow
def test_a_job_is_cancelled_and_its_device_is_free(lan: LocalNetwork, graph: Path, stripes: Path) -> None:
    engine_id = lan.engine("id").strip()
    peer_id = lan.start_lan_peer("peer", "--gpus", "none", "--allow", engine_id)["peer_id"]
    lan.engine("submit", str(graph), "--data", str(stripes), "--lan", peer_id)
    [job] = json.loads(lan.engine("jobs", "--json"))
    cancelled = json.loads(lan.engine("cancel", job["job_id"], "--json"))
    assert cancelled["state"] == "cancelled"
    assert lan.ask("peer", "status")["devices"][0]["job"] is None
