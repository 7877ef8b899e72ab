"""When a program holds a relay, and that it gets it back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2p.addresses import circuit_address
from p2p.host import Libp2pNetwork, open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Network
from p2p.relay.book import RelayLimits
from p2p.relay.dialback import DialBack
from p2p.relay.reachability import Reachability
from p2p.relay.service import RelayService
from p2p.testing import MemoryNet

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


class Announcing:
    """A host that tells of every announcement."""

    def __init__(self, host: Libp2pNetwork) -> None:
        self._host = host
        self._tell, self._told = trio.open_memory_channel[Sequence[str]](8)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def announce(self, source: PeerId, addresses: Sequence[str]) -> None:
        self._host.announce(source, addresses)
        self._tell.send_nowait(addresses)

    async def next(self) -> Sequence[str]:
        with trio.fail_after(60):
            return await self._told.receive()


@asynccontextmanager
async def kept(listen: list[str], relays: bool = False) -> AsyncIterator[tuple[Announcing, Libp2pNetwork]]:
    """A program that keeps itself reachable, and its coordinator, which relays and dials back."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as coordinator,
        open_host(Identity.generate(), listen) as host,
        trio.open_nursery() as nursery,
    ):
        RelayService(coordinator, RelayLimits())
        DialBack(coordinator)
        network = Announcing(host)
        address = coordinator.addresses()[0]
        reachability = Reachability(network, lambda: 0.5)  # type: ignore[arg-type]
        nursery.start_soon(reachability.keep, address, (address,) if relays else ())
        yield network, coordinator
        nursery.cancel_scope.cancel()


async def test_a_program_that_strangers_reach_needs_no_relay() -> None:
    async with kept(LOOPBACK) as (network, _):
        assert await network.next() == network.addresses()
        assert not [address for address in network.addresses() if "p2p-circuit" in address]


async def test_a_program_that_nobody_reaches_holds_a_relay_and_gets_it_back() -> None:
    async with kept([]) as (network, coordinator):
        assert await network.next() == ()
        relayed = (circuit_address(coordinator.addresses()[0], network.peer_id),)
        assert await network.next() == relayed
        await coordinator.disconnect(network.peer_id)
        assert await network.next() == relayed
        assert coordinator.is_connected(network.peer_id)


async def test_a_relay_that_is_named_is_held_without_asking() -> None:
    async with kept(LOOPBACK, relays=True) as (network, coordinator):
        relayed = circuit_address(coordinator.addresses()[0], network.peer_id)
        assert await network.next() == (relayed,)
        assert network.addresses()[-1] == relayed


class Noting:
    """A host on the in-memory network that listens nowhere; ``leave`` takes the place of losing the relay."""

    def __init__(self, network: Network, relay: Network, leave: Callable[[PeerId], Awaitable[None]]) -> None:
        self._network = network
        self._relay = relay
        self.calls = 0
        self.announced: list[Sequence[str]] = []
        self.wait_disconnected = leave

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    async def connect(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        self.calls += 1
        await self._network.connect(peer_id, self._relay.addresses())

    def announce(self, source: PeerId, addresses: Sequence[str]) -> None:
        self.announced.append(addresses)

    def listening_ports(self) -> Sequence[int]:
        return ()


@pytest.mark.virtual_clock
async def test_a_relay_that_leaves_again_and_again_is_not_asked_without_a_pause() -> None:
    async with MemoryNet() as net:
        relay = net.join(Identity.generate())
        host = net.join(Identity.generate())
        network = Noting(host, relay, host.disconnect)
        RelayService(relay, RelayLimits())
        reachability = Reachability(network, lambda: 0.5)  # type: ignore[arg-type]
        with trio.move_on_after(5):
            await reachability.hold(f"/ip4/192.0.2.1/tcp/4400/p2p/{relay.peer_id}")
        assert 2 < network.calls < 10


@pytest.mark.virtual_clock
async def test_what_is_held_stays_announced_while_the_coordinator_is_asked_again() -> None:
    async def never(_: PeerId) -> None:
        await trio.sleep_forever()

    async with MemoryNet() as net:
        relay = net.join(Identity.generate())
        network = Noting(net.join(Identity.generate()), relay, never)
        RelayService(relay, RelayLimits())
        reachability = Reachability(network, lambda: 0.5)  # type: ignore[arg-type]
        with trio.move_on_after(3600):
            await reachability.keep(f"/ip4/192.0.2.1/tcp/4400/p2p/{relay.peer_id}", ())
        assert len(network.announced) > 3
        assert () not in network.announced[1:]
