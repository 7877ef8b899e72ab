"""A thousand peers at one coordinator: all stay connected, are listed and quoted, and are still answered."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.transport.tcp.tcp import TCP
from local_network import LocalNetwork
from multiaddr import Multiaddr

from p2p.client import CallClient, open_client
from p2p.framing import FrameLimits
from p2p.host import HostStream
from p2p.identifiers import PROTOCOL_VERSION, PeerId
from p2p.identity import Identity
from p2p.jobs import DeviceKind
from p2p.multistream import select_protocol
from p2p.muxer import ConnectionObserver, MuxedConnection, OwnYamux
from p2p.noise import NoiseTransport
from p2p.protocols import Done
from p2p.protocols.coordinator import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    Device,
    Heartbeat,
    HeartbeatAnswer,
    Hello,
    Orders,
    PeerRecord,
    PollOrders,
    RegisterPeer,
    Role,
    Welcome,
)
from p2p.records import sign_record
from p2p.upgrade import Upgrader
from p2p.yamux_stream import YamuxLimits

PEERS = 1000
AT_ONCE = 25
ANSWER_S = 240.0
MAX_COORDINATOR_BYTES = 400 << 20
WALLET = "So11111111111111111111111111111111111111112"
PATIENT = YamuxLimits(keep_alive_timeout_s=60, idle_keep_alive_timeout_s=60)
"""The coordinator shares its cores with all its peers, and no peer that gives it up here comes back."""
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class ThinNetwork(ConnectionObserver):
    """As much of a network as one connection needs: a thousand whole hosts would measure themselves."""

    largest = FrameLimits(1 << 20, 1 << 20)

    def __init__(self, identity: Identity, muxer: OwnYamux) -> None:
        self.identity = identity
        self.peer_id = identity.peer_id
        self._muxer = muxer
        self._connection: MuxedConnection | None = None

    async def connect(self, address: str, nursery: trio.Nursery) -> None:
        place, _, coordinator = address.rpartition("/p2p/")
        noise = NoiseTransport(create_new_key_pair(self.identity.secret_bytes()))
        raw = await TCP().dial(Multiaddr(place))
        session = await Upgrader(noise, self._muxer, None).secure(raw, PeerId(coordinator))
        muxed = await self._muxer.new_conn(session, session.get_remote_peer())
        assert isinstance(muxed, MuxedConnection)
        self._connection = muxed
        nursery.start_soon(muxed.start)

    def is_connected(self, _: PeerId) -> bool:
        return self._connection is not None and not self._connection.is_closed

    async def open_stream(self, peer_id: PeerId, protocol: str, timeout_s: float = 10.0) -> HostStream:
        assert self._connection is not None
        stream = self._connection.session.open_stream()
        await select_protocol(stream, protocol)
        return HostStream(peer_id, stream, self.largest, trio.lowlevel.checkpoint)


class Crowd:
    """Peers that do all that a peer does but train."""

    def __init__(self, stack: AsyncExitStack, address: str) -> None:
        self._stack = stack
        self._address = address
        self.coordinator = PeerId(address.rpartition("/p2p/")[2])
        self.networks: list[ThinNetwork] = []
        self.clients: list[CallClient] = []

    async def grow(self, nursery: trio.Nursery) -> None:
        muxer = OwnYamux(PATIENT, ConnectionObserver())
        nursery.start_soon(muxer.heartbeat.run)
        for _ in range(PEERS):
            network = ThinNetwork(Identity.generate(), muxer)
            client = open_client(network, self.coordinator, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS)
            self.networks.append(network)
            self.clients.append(await self._stack.enter_async_context(client))
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as registering:
            for network, client in zip(self.networks, self.clients, strict=True):
                registering.start_soon(self._register, limiter, network, client, nursery)

    async def _register(
        self, limiter: trio.CapacityLimiter, network: ThinNetwork, client: CallClient, nursery: trio.Nursery
    ) -> None:
        async with limiter:
            await network.connect(self._address, nursery)
            answer, _ = await client.call(Hello(Role.PEER, PROTOCOL_VERSION, "crowd"), timeout_s=ANSWER_S)
            assert isinstance(answer, Welcome)
            answer, _ = await client.call(
                RegisterPeer(sign_record(record(network.peer_id), network.identity.sign)), timeout_s=ANSWER_S
            )
            assert answer == Done()
            await self._beat(client)
        # As every real peer does all the time; all in one moment, they would not hear the keep-alive.
        nursery.start_soon(self._wait_for_orders, client)

    async def _beat(self, client: CallClient) -> None:
        answer, _ = await client.call(Heartbeat(0, 1, ()), timeout_s=ANSWER_S)
        assert isinstance(answer, HeartbeatAnswer) and answer.registered

    async def beat_all(self) -> None:
        """Real peers' beats are spread over an interval; so many never come in one moment."""
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def beat(client: CallClient) -> None:
            async with limiter:
                await self._beat(client)

        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(beat, client)

    async def _wait_for_orders(self, client: CallClient) -> None:
        while True:
            answer, _ = await client.call(PollOrders(0, 20_000), timeout_s=ANSWER_S)
            assert isinstance(answer, Orders)


def record(peer_id: PeerId) -> PeerRecord:
    now = time.time()
    return PeerRecord(
        peer_id=peer_id,
        sequence=int(now * 1000),
        expires_at=now + 3600,
        addresses=(f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id}",),
        devices=(Device(DeviceKind.CPU, "crowd", 8 << 30, 10**10),),
        ram_bytes=8 << 30,
        formats=("cyxmodel",),
        price_per_hour=1_000_000_000,
        node_wallet=WALLET,
        payout_wallet=WALLET,
        version="crowd",
    )


@asynccontextmanager
async def crowd(address: str) -> AsyncIterator[Crowd]:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        found = Crowd(stack, address)
        await found.grow(nursery)
        yield found
        nursery.cancel_scope.cancel()


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.fixture
def coordinator(tmp_path: Path):
    made = LocalNetwork(tmp_path)
    words = (
        "connections_per_address=1200",
        "attempts_per_s=1000",
        "handshake_s=60",
        "naming_s=60",
        "handshakes_per_address=256",
        "messages_per_s_per_address=100000",
    )
    options = [word for setting in words for word in ("--limit", setting)]
    try:
        made.start_coordinator("--heartbeat", "60", "--lease", "600", *options)
        yield made
    finally:
        made.stop()
        print(made.logs()[-4000:])


async def test_a_thousand_peers_stay_connected_and_are_served(
    coordinator: LocalNetwork, graph: Path, stripes: Path
) -> None:
    async with crowd(coordinator.address) as peers:
        await peers.beat_all()
        assert sum(network.is_connected(peers.coordinator) for network in peers.networks) == PEERS
        listed = await trio.to_thread.run_sync(coordinator.ask, "coordinator", "peers")
        assert len(listed) == PEERS and all(peer["online"] for peer in listed)
        words = (
            "estimate",
            str(graph),
            "--data",
            str(stripes),
            "--coordinator",
            coordinator.address,
            "--json",
        )
        answer = json.loads(await trio.to_thread.run_sync(coordinator.engine, *words))
        assert answer["quotes"]
        process = coordinator.programs["coordinator"].process
        assert process is not None
        assert resident_bytes(process.pid) < MAX_COORDINATOR_BYTES
        await peers.beat_all()
