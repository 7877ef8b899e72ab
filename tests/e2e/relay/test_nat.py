"""Jobs between two NATs, over real programs: past the relay once the hole is punched, and through it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.e2e.relay.conftest import NatNetwork, start_all

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def run_job(network: NatNetwork, graph: Path, data: Path) -> tuple[dict[str, Any], str]:
    """The job's summary, and where the peer saw its Engine come from when the last checkpoint arrived."""
    seen = ""
    run = network.follow("submit", str(graph), "--data", str(data), "--budget", "5", "--follow")
    for news in run.news():
        if news["kind"] == "checkpoint":
            connections = network.ask("peer", "status")["connections"]
            coordinator = network.address.rpartition("/p2p/")[2]
            seen = next((at for peer_id, at in connections.items() if peer_id != coordinator), seen)
    return run.finish(), seen


def test_a_job_between_two_nats_leaves_the_relay_for_a_direct_connection(
    nat_network: NatNetwork, graph: Path, stripes: Path, tmp_path: Path
) -> None:
    start_all(nat_network)
    summary, seen = run_job(nat_network, graph, stripes)
    assert summary["state"] == "settled"
    assert re.fullmatch(rf"/ip4/{nat_network.outside['engine']}/tcp/\d+", seen)
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    words = ("--model", summary["result"]["blake3"], "--input", str(tmp_path / "x.npy"), "--json")
    answer = json.loads(nat_network.engine("infer", "--peer", summary["peer_id"], *words))
    assert np.array(answer["values"]).shape == (2, 3)


def test_a_job_runs_through_the_relay_and_its_limits_where_no_hole_can_be_punched(
    nat_network: NatNetwork, graph: Path, tmp_path: Path
) -> None:
    for target, verdict in (("203.0.113.0/24", "DROP"), (nat_network.coordinator_ip, "ACCEPT")):
        rule = ["-I", "FORWARD", "-d", target, "-j", verdict]
        nat_network.lab.run("peer-nat", "iptables", "-w", "10", *rule)
    start_all(nat_network, "--relay-megabytes", "1")
    data = tmp_path / "large.safetensors"
    images = np.random.default_rng(3).normal(0, 1, (9000, 1, 8, 8)).astype(np.float32)
    save_file({"x": images, "y": (np.arange(9000) % 3).astype(np.int64)}, data)
    short = json.loads(graph.read_text())
    short["training"]["epochs"] = 4
    graph.write_text(json.dumps(short))
    summary, seen = run_job(nat_network, graph, data)
    assert summary["state"] == "settled"
    assert seen.endswith("/p2p-circuit")
    # 2.3 MB of data through circuits of 1 MB each way: cut at the limit, and resumed.
    log = nat_network.programs["coordinator"].log.read_text()
    assert log.count("1048576 bytes one way, the limit") >= 2
    assert nat_network.ask("coordinator", "status")["relay"]["bytes_relayed"] > data.stat().st_size


def test_no_relay_means_that_a_peer_behind_nat_is_not_reached(
    nat_network: NatNetwork, graph: Path, stripes: Path
) -> None:
    start_all(nat_network, "--no-relay")
    assert nat_network.ask("coordinator", "status")["relay"] is None
    assert not [at for at in nat_network.ask("peer", "status")["addresses"] if "p2p-circuit" in at]
