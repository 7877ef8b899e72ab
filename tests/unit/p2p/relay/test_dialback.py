"""Whether strangers get through, found out by dialing back to where the caller is and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.errors import RemoteFailureError
from p2p.host import Libp2pNetwork, open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Network
from p2p.relay.dialback import DialBack, ask_reach
from p2p.testing import MemoryNet

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """Who dials back, and a caller that is connected to it."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as server,
        open_host(Identity.generate(), LOOPBACK) as caller,
    ):
        DialBack(server)
        await caller.connect(server.peer_id, server.addresses())
        yield server, caller


async def test_a_port_that_the_caller_listens_at_is_found_and_another_is_not() -> None:
    async with two_hosts() as (server, caller):
        [port] = caller.listening_ports()
        answer = await ask_reach(caller, server.peer_id, (port, 1))
        assert answer.reachable == (f"/ip4/127.0.0.1/tcp/{port}",)
        assert answer.observed.startswith("/ip4/127.0.0.1/tcp/")


async def test_somebody_elses_port_is_no_proof() -> None:
    async with two_hosts() as (server, caller), open_host(Identity.generate(), LOOPBACK) as other:
        answer = await ask_reach(caller, server.peer_id, tuple(other.listening_ports()))
        assert answer.reachable == ()


class Probed:
    """A memory network whose peers come from an address and answer where they are told to."""

    def __init__(self, network: Network, remote: str) -> None:
        self._network = network
        self.remote = remote
        self.dialed: list[str] = []
        self.set_handler = network.set_handler

    def remote_address(self, peer_id: PeerId) -> str:
        return self.remote

    async def answers_at(self, peer_id: PeerId, address: str, timeout_s: float) -> bool:
        self.dialed.append(address)
        return False


@asynccontextmanager
async def probed(remote: str) -> AsyncIterator[tuple[Probed, Network, PeerId]]:
    async with MemoryNet() as net:
        server, caller = net.join(Identity.generate()), net.join(Identity.generate())
        probe = Probed(server, remote)
        DialBack(probe)  # type: ignore[arg-type]
        await caller.connect(server.peer_id, server.addresses())
        yield probe, caller, server.peer_id


@pytest.mark.virtual_clock
async def test_only_the_host_that_the_caller_comes_from_is_dialed() -> None:
    async with probed("/ip4/192.0.2.9/tcp/5000") as (probe, caller, server):
        await ask_reach(caller, server, (4400, 4401))
        assert probe.dialed == ["/ip4/192.0.2.9/tcp/4400", "/ip4/192.0.2.9/tcp/4401"]


@pytest.mark.virtual_clock
async def test_nobody_is_dialed_for_who_comes_through_a_relay() -> None:
    async with probed("/ip4/192.0.2.9/tcp/4400/p2p/X/p2p-circuit") as (probe, caller, server):
        with pytest.raises(RemoteFailureError, match="through a relay"):
            await ask_reach(caller, server, (4400,))
        assert probe.dialed == []


@pytest.mark.virtual_clock
async def test_dials_are_few_and_seldom() -> None:
    async with probed("/ip4/192.0.2.9/tcp/5000") as (probe, caller, server):

        async def ask_until_refused() -> None:
            while True:
                await ask_reach(caller, server, (4400,))

        with pytest.raises(RemoteFailureError, match="busy"):
            await ask_until_refused()
        assert len(probe.dialed) == 32
        await trio.sleep(11)
        with pytest.raises(RemoteFailureError, match="busy"):
            await ask_until_refused()
        assert len(probe.dialed) == 34


@pytest.mark.virtual_clock
@pytest.mark.parametrize("ports", [(), (1, 2, 3), (0,), (70000,)])
async def test_ports_out_of_bounds_are_refused(ports: Sequence[int]) -> None:
    async with probed("/ip4/192.0.2.9/tcp/5000") as (probe, caller, server):
        with pytest.raises(RemoteFailureError, match="invalid"):
            await ask_reach(caller, server, tuple(ports))
        assert probe.dialed == []


@pytest.mark.virtual_clock
async def test_whoever_has_many_addresses_of_one_network_is_one_caller() -> None:
    async with probed("/ip6/2001:db8::1/tcp/5000") as (probe, caller, server):
        with pytest.raises(RemoteFailureError, match="busy"):
            for number in range(1, 40):
                probe.remote = f"/ip6/2001:db8::{number:x}/tcp/5000"
                await ask_reach(caller, server, (4400,))
        assert len(probe.dialed) == 32
