"""A coordinator on the open network, a peer and an Engine each behind a NAT of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_network import LocalNetwork, loopback_environment

from tests.e2e.relay.lab import Lab, open_lab, why_not

PATIENT = ("--heartbeat", "0.5", "--claim-window", "2")


class NatNetwork(LocalNetwork):
    """The machines are called coordinator, peer and engine."""

    def __init__(self, directory: Path, lab: Lab) -> None:
        super().__init__(directory)
        self.lab = lab
        self.coordinator_ip = lab.public("coordinator")
        self.outside = {name: lab.behind_nat(name) for name in ("peer", "engine")}

    def listen(self, name: str) -> str:
        return f"/ip4/{self.coordinator_ip}/tcp/4400" if name == "coordinator" else "/ip4/0.0.0.0/tcp/4500"

    def on(self, name: str, words: list[str]) -> list[str]:
        return self.lab.command(name, *words)


@pytest.fixture
def nat_network(tmp_path: Path) -> Iterator[NatNetwork]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    loopback_environment()
    with open_lab() as lab:
        made = NatNetwork(tmp_path, lab)
        try:
            yield made
        finally:
            made.stop()
            print(made.logs())


def start_all(network: NatNetwork, *coordinator: str) -> None:
    """An Engine with 100 tokens, and a registered peer that it can only reach through the coordinator."""
    network.start_coordinator(*PATIENT, "--chain-host", network.coordinator_ip, *coordinator)
    network.engine("wallet", "new")
    network.engine("wallet", "airdrop", "100", "--coordinator", network.address)
    network.start_peer("peer", "10", "--gpus", "none", "--log-level", "debug")
