"""One job over real processes, with every program killed at every step: never lost, never paid twice."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from local_network import EngineRun, LocalNetwork, NetworkError

from tests.e2e.money import Money

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "matching": lambda news: news.get("state") == "matched",
    "funding": lambda news: news.get("state") == "awaiting funds",
    "funded": lambda news: news.get("state") == "funded",
    "running": lambda news: news.get("state") == "running",
    "voucher": lambda news: news["kind"] == "checkpoint" and "voucher" in news["text"],
    "result": lambda news: news.get("state") == "result ready",
    "settle": lambda news: news["kind"] == "result" and news.get("result") is not None,
}
"""How whoever follows a job sees that it has come so far."""
BEFORE_ANY_PROOF = ("matching", "funding", "funded", "running")
SEGMENTS = 4


@pytest.fixture(scope="module")
def shared(
    make_network: Callable[..., AbstractContextManager[LocalNetwork]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalNetwork]:
    """One network for the whole walk: what one test kills, the next one finds running again."""
    with make_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture
def peers(shared: LocalNetwork) -> dict[str, str]:
    """Two running peers: names by peer id. A killed one does not come back; a new one takes its place."""
    return _running_peers(shared, 2)


def _running_peers(network: LocalNetwork, count: int) -> dict[str, str]:
    names = [
        name for name, program in network.programs.items() if name != "coordinator" and program.is_running
    ]
    while len(names) < count:
        names.append(f"peer{len(network.programs)}")
        network.start_peer(names[-1], "10", "--gpus", "none")
    return {network.ask(name, "status")["peer_id"]: name for name in names}


def submit(network: LocalNetwork, graph: Path, data: Path) -> EngineRun:
    return network.follow("submit", str(graph), "--data", str(data), "--budget", "5", "--follow")


def run_until(run: EngineRun, step: str, peers: dict[str, str]) -> tuple[str, str]:
    """The job, and the name of the peer that has it by then."""
    name = ""
    for news in run.news():
        name = holder(peers, news) or name
        if STEPS[step](news):
            return news["job_id"], name
    raise AssertionError(f"the job never came to {step}")


def holder(peers: dict[str, str], news: dict[str, Any]) -> str:
    """The name of the peer that the news tells of."""
    return next((name for peer, name in peers.items() if peer in news.get("text", "")), "")


def lengthened(graph: Path) -> Path:
    """So that no segment is over before a signal comes that was sent when the one before it was."""
    document = json.loads(graph.read_text())
    document["training"]["epochs"] = 200
    graph.write_text(json.dumps(document))
    return graph


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", ["coordinator", "chain", "engine"])
def test_the_same_job_finishes_after_a_kill(
    shared: LocalNetwork, peers: dict[str, str], graph: Path, stripes: Path, victim: str, step: str
) -> None:
    money = Money(shared)
    run = submit(shared, graph, stripes)
    job_id, _ = run_until(run, step, peers)
    if victim == "engine":
        run.kill()
        run = shared.follow("follow", job_id)
    elif victim == "coordinator":
        shared.programs["coordinator"].kill()
        shared.programs["coordinator"].start()
    else:
        os.kill(shared.chain_pid(), signal.SIGKILL)
    summary = run.finish()
    assert (summary["job_id"], summary["state"]) == (job_id, "settled")
    money.check_paid_once(job_id, SEGMENTS)


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_peers_job_finishes(
    shared: LocalNetwork, peers: dict[str, str], graph: Path, stripes: Path, step: str
) -> None:
    money = Money(shared)
    run = submit(shared, lengthened(graph) if step == "voucher" else graph, stripes)
    job_id, victim = run_until(run, step, peers)
    shared.programs[victim].kill()
    summary = run.finish()
    assert (summary["job_id"], summary["state"]) == (job_id, "settled")
    if step in (*BEFORE_ANY_PROOF, "voucher"):
        assert peers[summary["peer_id"]] != victim
    money.check_paid_once(job_id, SEGMENTS)


def test_another_peer_goes_on_bit_exactly_from_the_last_checkpoint_that_the_engine_holds(
    shared: LocalNetwork, peers: dict[str, str], graph: Path, stripes: Path, tmp_path: Path
) -> None:
    money = Money(shared)
    run = submit(shared, lengthened(graph), stripes)
    victim, started = "", list[int]()
    for news in run.news():
        victim = victim or holder(peers, news)
        if "works from segment" in news.get("text", ""):
            started.append(int(news["text"].rpartition(" ")[2]))
        if STEPS["voucher"](news) and "segment 2" in news["text"]:
            shared.programs[victim].kill()
    summary = run.finish()
    proven = summary["job_id"]
    # The peer may have been quicker than the signal, by a segment.
    assert started in ([1, 3], [1, 4])
    assert peers[summary["peer_id"]] != victim
    first, second = money.check(proven)
    assert first["state"] == "refunded" and first["earned"] == first["amount"] * (started[1] - 1) // 4
    assert second["earned"] == second["amount"]
    uninterrupted, resumed = tmp_path / "uninterrupted.cyxmodel", tmp_path / "resumed.cyxmodel"
    shared.engine("train", str(graph), "--data", str(stripes), "-o", str(uninterrupted))
    shared.engine("fetch", proven, "-o", str(resumed))
    assert weights(resumed) == weights(uninterrupted)


def weights(model: Path) -> bytes:
    with zipfile.ZipFile(model) as archive:
        return archive.read("weights.safetensors")


@pytest.mark.parametrize("step", ["funding", "running", "voucher"])
def test_a_job_without_any_peer_left_is_refunded(
    make_network: Callable[..., AbstractContextManager[LocalNetwork]],
    graph: Path,
    stripes: Path,
    tmp_path: Path,
    step: str,
) -> None:
    with make_network(tmp_path / "network", "--retry-patience", "3") as network:
        peers = _running_peers(network, 1)
        money = Money(network)
        run = submit(network, lengthened(graph), stripes)
        job_id, victim = run_until(run, step, peers)
        network.programs[victim].kill()
        with pytest.raises(NetworkError):
            run.finish()
        assert run.summary is not None and run.summary["state"] == "refunded"
        assert "refunded" in run.summary["text"]
        [payment] = money.check(job_id)
        assert payment["state"] == "refunded"
        assert payment["returned"] == payment["amount"] - payment["earned"]
        assert payment["earned"] < payment["amount"]
        # The peer may have been quicker than the signal.
        assert (payment["earned"] > 0) == any(map(STEPS["voucher"], run.told))
