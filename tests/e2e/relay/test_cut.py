"""A real network cut of 30 s, packets silently dropped, while a job runs and while a model is called."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.relay.conftest import NatNetwork, start_all

CUT_S, SHORT_CUT_S = 30.0, 8.0
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def cut_for(network: NatNetwork, name: str, seconds: float) -> threading.Timer:
    """Every packet of the machine is lost for that long."""
    network.lab.cut(name)
    timer = threading.Timer(seconds, network.lab.heal, [name])
    timer.start()
    return timer


@pytest.mark.parametrize("victim", ["peer", "engine"])
def test_a_cut_of_30_s_loses_nothing(
    nat_network: NatNetwork, graph: Path, stripes: Path, tmp_path: Path, victim: str
) -> None:
    start_all(nat_network)
    words = ("submit", str(graph), "--data", str(stripes), "--budget", "5", "--follow")
    run = nat_network.follow(*words)
    timer, numbers = None, []
    for news in run.news():
        numbers += [news["number"]] if news.get("number") else []
        if news["kind"] == "checkpoint" and timer is None:
            timer = cut_for(nat_network, victim, CUT_S)
    assert timer is not None
    timer.join()
    assert run.finish()["state"] == "settled"
    assert numbers == list(range(1, len(numbers) + 1))
    [job] = nat_network.ask("coordinator", "jobs")
    assert (job["retries"], job["fencing"]) == (0, 1)  # the same peer on the same lease
    [payment] = nat_network.ask("coordinator", "payments")
    assert (payment["state"], payment["earned"]) == ("settled", job["amount"])
    predict_through_a_cut(nat_network, victim, job["peer_id"], job["result"], tmp_path)


def predict_through_a_cut(
    network: NatNetwork, victim: str, peer_id: str, model: str, directory: Path
) -> None:
    np.save(directory / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    timer = cut_for(network, victim, SHORT_CUT_S)
    words = ("--model", model, "--input", str(directory / "x.npy"), "--json")
    answer = json.loads(network.engine("infer", "--peer", peer_id, *words))
    timer.join()
    assert np.array(answer["values"]).shape == (2, 3)
