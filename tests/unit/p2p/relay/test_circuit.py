"""Real hosts on loopback that reach each other through a relay only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from p2p.addresses import circuit_address
from p2p.errors import ConnectionFailedError, StreamResetError
from p2p.host import Libp2pNetwork, open_host
from p2p.identity import Identity
from p2p.network import Stream
from p2p.relay.book import RelayLimits
from p2p.relay.circuit import reserve
from p2p.relay.service import RelayService

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@dataclass
class Relayed:
    relay: Libp2pNetwork
    service: RelayService
    peer: Libp2pNetwork
    engine: Libp2pNetwork

    @property
    def address(self) -> str:
        return circuit_address(self.relay.addresses()[0], self.peer.peer_id)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def relayed(limits: RelayLimits | None = None) -> AsyncIterator[Relayed]:
    """``peer`` listens nowhere and holds a reservation; ``engine`` knows only its relayed address."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as relay,
        open_host(Identity.generate(), []) as peer,
        open_host(Identity.generate(), []) as engine,
    ):
        service = RelayService(relay, limits or RelayLimits())
        peer.set_handler("/test/echo", echo)
        await peer.connect(relay.peer_id, relay.addresses())
        await reserve(peer, relay.peer_id)
        network = Relayed(relay, service, peer, engine)
        peer.announce(relay.peer_id, (network.address,))
        yield network


async def test_a_peer_that_listens_nowhere_is_reached_through_its_relay() -> None:
    async with relayed() as net:
        assert net.peer.addresses() == (net.address,)
        await net.engine.connect(net.peer.peer_id, net.peer.addresses())
        stream = await net.engine.open_stream(net.peer.peer_id, "/test/echo")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert stream.remote_peer_id == net.peer.peer_id
        where = net.engine.remote_address(net.peer.peer_id)
        assert where is not None and where.endswith(f"/p2p/{net.relay.peer_id}/p2p-circuit")
        assert len(net.service.book.circuits) == 1


async def test_what_a_relay_carries_is_cut_where_its_limit_is() -> None:
    async with relayed(RelayLimits(circuit_bytes=200_000)) as net:
        await net.engine.connect(net.peer.peer_id, net.peer.addresses())
        stream = await net.engine.open_stream(net.peer.peer_id, "/test/echo")

        async def send_and_receive() -> None:
            for _ in range(100):
                await stream.send_all(bytes(10_000))
                await stream.receive_some(20_000)

        with pytest.raises(StreamResetError):
            await send_and_receive()
        assert net.service.bytes_relayed < 450_000
        # Both ends may open another, and go on.
        await net.engine.connect(net.peer.peer_id, net.peer.addresses())
        stream = await net.engine.open_stream(net.peer.peer_id, "/test/echo")
        await stream.send_all(b"again")
        assert await stream.receive_some() == b"again"


async def test_a_relay_that_was_not_asked_brings_nobody() -> None:
    async with relayed() as net:
        net.peer.announce(net.relay.peer_id, ())
        with pytest.raises(ConnectionFailedError, match="refuses to connect: connection failed"):
            await net.engine.connect(net.peer.peer_id, (net.address,))


async def test_nobody_is_reached_through_a_relay_that_does_not_know_them() -> None:
    async with relayed() as net:
        other = Identity.generate().peer_id
        with pytest.raises(ConnectionFailedError, match="no reservation"):
            await net.engine.connect(other, (circuit_address(net.relay.addresses()[0], other),))


async def test_a_direct_address_comes_before_a_relayed_one() -> None:
    async with (
        relayed() as net,
        open_host(Identity.generate(), []) as caller,
        open_host(Identity.generate(), LOOPBACK) as listening,
    ):
        circuit = circuit_address(net.relay.addresses()[0], listening.peer_id)
        await caller.connect(listening.peer_id, (circuit, *listening.addresses()))
        where = caller.remote_address(listening.peer_id)
        assert where is not None
        assert "p2p-circuit" not in where
        assert caller.connections() == {listening.peer_id: where}
