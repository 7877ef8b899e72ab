"""The line to the coordinator, on the in-memory network."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Stream
from p2p.protocols import coordinator as wire
from p2p.router import serve_calls
from p2p.testing import MemoryNet
from peer.link import CoordinatorLink

pytestmark = pytest.mark.virtual_clock


async def no_session(_: wire.Welcome) -> None:
    raise AssertionError("nobody was let in")


async def test_a_coordinator_that_refuses_is_asked_again_and_keeps_the_connection_that_others_use() -> None:
    async with MemoryNet(latency_s=(0.01, 0.02)) as net, trio.open_nursery() as nursery:
        coordinator, peer = net.join(Identity.generate()), net.join(Identity.generate())
        asked = 0

        async def refuse(caller: PeerId, call: wire.CoordinatorCall, body: bytes) -> wire.Welcome:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            raise RemoteFailureError("busy", "come back later")

        async def echo(stream: Stream) -> None:
            while data := await stream.receive_some():
                await stream.send_all(data)

        coordinator.set_handler("/test/echo", echo)
        serve_calls(coordinator, wire.PROTOCOL_ID, wire.REQUESTS, wire.RESPONSES, wire.LIMITS, refuse)
        link = CoordinatorLink(peer, coordinator.peer_id, tuple(coordinator.addresses()), "test", lambda: 0.5)
        nursery.start_soon(link.run, no_session)
        await link.attempted.wait()
        stream = await peer.open_stream(coordinator.peer_id, "/test/echo")
        await trio.sleep(30)
        assert asked > 5
        await stream.send_all(b"still here")
        assert await stream.receive_some() == b"still here"
        nursery.cancel_scope.cancel()
