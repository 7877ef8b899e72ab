"""Our two ends of a circuit over a relay that is not ours: py-libp2p's, as it comes."""

from __future__ import annotations

import hashlib

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits as StockLimits
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.addresses import circuit_address
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Stream
from p2p.relay.circuit import reserve

SIZE_BYTES = 1 << 20


async def answer_with_a_hash(stream: Stream) -> None:
    digest = hashlib.sha256()
    while data := await stream.receive_some():
        digest.update(data)
    await stream.send_all(digest.digest())


async def test_a_peer_is_reached_through_a_relay_of_py_libp2p() -> None:
    host = new_host(key_pair=create_new_key_pair())
    limits = StockLimits(duration=600, data=1 << 24, max_circuit_conns=8, max_reservations=4)
    stock = CircuitV2Protocol(host, limits, allow_hop=True)
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(stock),
        open_host(Identity.generate(), []) as peer,
        open_host(Identity.generate(), []) as engine,
    ):
        address = str(host.get_addrs()[0])
        relay = PeerId(address.rpartition("/p2p/")[2])
        peer.set_handler("/test/hash", answer_with_a_hash)
        with trio.fail_after(60):
            await peer.connect(relay, [address])
            assert (await reserve(peer, relay)).expires_at > 0
            peer.announce(relay, [circuit_address(address, peer.peer_id)])
            await engine.connect(peer.peer_id, peer.addresses())
            stream = await engine.open_stream(peer.peer_id, "/test/hash")
            data = bytes(range(256)) * (SIZE_BYTES // 256)
            await stream.send_all(data)
            await stream.send_eof()
            assert await stream.receive_some() == hashlib.sha256(data).digest()
