"""Real hosts on loopback that reach each other through a relay only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection

from p2p.addresses import circuit_address
from p2p.errors import ConnectionFailedError, P2PError, StreamResetError
from p2p.host import Libp2pNetwork, open_host
from p2p.identity import Identity
from p2p.limits import HostLimits
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


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        one = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return one, await listener.accept()


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def relayed(
    limits: RelayLimits | None = None, peer_limits: HostLimits | None = None
) -> AsyncIterator[Relayed]:
    """``peer`` listens nowhere and holds a reservation; ``engine`` knows only its relayed address."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as relay,
        open_host(Identity.generate(), [], peer_limits or HostLimits()) as peer,
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


async def test_whoever_comes_through_a_relay_counts_there_and_no_more_than_fit_are_let_in() -> None:
    limits = replace(HostLimits(), connections_per_address=1, attempts_per_s=1000.0)
    async with relayed(peer_limits=limits) as net, open_host(Identity.generate(), []) as second:
        await net.engine.connect(net.peer.peer_id, net.peer.addresses())
        with pytest.raises(P2PError):
            await second.connect(net.peer.peer_id, net.peer.addresses(), 5)
        assert not net.peer.is_connected(second.peer_id)
        assert net.peer.is_connected(net.engine.peer_id)
        await net.engine.disconnect(net.peer.peer_id)
        with trio.fail_after(60):
            await net.peer.wait_disconnected(net.engine.peer_id)
        await second.connect(net.peer.peer_id, net.peer.addresses())


@pytest.mark.slow_clock
async def test_behind_a_relay_the_rate_of_messages_is_the_relays() -> None:
    """Not one that all relayed peers share, however many relays there are."""
    slow = replace(HostLimits(), messages_per_s_per_address=1.0)
    async with relayed(peer_limits=slow) as net, relayed() as elsewhere:
        await net.peer.connect(elsewhere.relay.peer_id, elsewhere.relay.addresses())
        await reserve(net.peer, elsewhere.relay.peer_id)
        other_way = circuit_address(elsewhere.relay.addresses()[0], net.peer.peer_id)
        net.peer.announce(elsewhere.relay.peer_id, (other_way,))
        arrived, streams = trio.open_memory_channel[Stream](2)

        async def hand_out(stream: Stream) -> None:
            await arrived.send(stream)
            await trio.sleep_forever()

        net.peer.set_handler("/test/turns", hand_out)
        for engine, address in ((net.engine, net.address), (elsewhere.engine, other_way)):
            await engine.connect(net.peer.peer_id, (address,))
            await engine.open_stream(net.peer.peer_id, "/test/turns")
        first, second = await streams.receive(), await streams.receive()
        await first.wait_turn()
        with trio.fail_after(0.5):
            await second.wait_turn()


async def test_a_dialed_endpoint_where_somebody_else_is_gives_no_connection() -> None:
    async with open_host(Identity.generate(), []) as host, open_host(Identity.generate(), []) as found:
        wanted = Identity.generate().peer_id
        ours, theirs = (
            RawConnection(TrioTCPStream(end), is_initiator)
            for end, is_initiator in zip(await tcp_pair(), (False, True), strict=True)
        )

        async def call() -> None:
            with pytest.raises(P2PError):
                await found.upgrade_outgoing(theirs, host.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            with pytest.raises(ConnectionFailedError, match=f"found peer {found.peer_id} there"):
                await host.upgrade_dialed(ours, wanted)
        assert not host.connections()


@pytest.mark.slow
async def test_a_slow_relay_is_not_taken_for_a_frozen_peer() -> None:
    async with relayed(RelayLimits(bytes_per_s=40_000)) as net:
        received = trio.Event()

        async def take(stream: Stream) -> None:
            size = 0
            while size < 240_000:
                size += len(await stream.receive_some())
            received.set()
            await stream.send_all(b"thanks")

        net.peer.set_handler("/test/take", take)
        await net.engine.connect(net.peer.peer_id, net.peer.addresses())
        stream = await net.engine.open_stream(net.peer.peer_id, "/test/take")
        await stream.send_all(bytes(240_000))
        with trio.fail_after(60):
            assert await stream.receive_some() == b"thanks"
        assert received.is_set()


async def test_what_was_sent_through_a_relay_arrives_though_its_sender_leaves() -> None:
    async with relayed() as net:
        heard, told = trio.open_memory_channel[int](1)

        async def count(stream: Stream) -> None:
            size = 0
            while data := await stream.receive_some():
                size += len(data)
            await heard.send(size)

        net.peer.set_handler("/test/count", count)
        async with open_host(Identity.generate(), []) as leaving:
            await leaving.connect(net.peer.peer_id, net.peer.addresses())
            stream = await leaving.open_stream(net.peer.peer_id, "/test/count")
            await stream.send_all(bytes(250_000))
            await stream.send_eof()
        with trio.fail_after(60):
            assert await told.receive() == 250_000
