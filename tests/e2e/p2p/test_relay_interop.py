"""js-libp2p through our relay: it reaches a peer of ours, and a peer of ours reaches it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from p2p.addresses import circuit_address
from p2p.host import Libp2pNetwork, open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.relay.book import RelayLimits
from p2p.relay.circuit import reserve
from p2p.relay.service import RelayService
from tests.e2e.p2p.test_interop import command_of

pytestmark = pytest.mark.e2e
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def js() -> list[str]:
    node, script = command_of("js")
    return [node, str(Path(script).with_name("relayed.mjs"))]


@asynccontextmanager
async def relay_and_peer() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    async with (
        open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as relay,
        open_host(Identity.generate(), []) as peer,
    ):
        RelayService(relay, RelayLimits(circuit_s=600.0, circuit_bytes=1 << 26))
        yield relay, peer


async def test_js_reaches_our_peer_and_sees_the_limits(js: list[str]) -> None:
    async with relay_and_peer() as (relay, peer):
        await peer.connect(relay.peer_id, relay.addresses())
        await reserve(peer, relay.peer_id)
        address = circuit_address(relay.addresses()[0], peer.peer_id)
        peer.announce(relay.peer_id, (address,))
        with trio.fail_after(DEADLINE_S):
            done = await trio.run_process([*js, "dial", address], capture_stdout=True)
        answer = json.loads(done.stdout)
        assert 600 - DEADLINE_S < answer["seconds"] <= 600  # it counts down
        assert (1 << 26) - 65536 < answer["bytes"] <= 1 << 26  # what the handshake took is gone


async def test_our_peer_reaches_js(js: list[str]) -> None:
    async with relay_and_peer() as (relay, peer):
        command = [*js, "listen", relay.addresses()[0]]
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            process = await nursery.start(start)
            with trio.fail_after(DEADLINE_S):
                address = (await process.stdout.receive_some()).decode().strip()
                other = PeerId(address.rpartition("/p2p/")[2])
                await peer.connect(other, (address,))
                stream = await peer.open_stream(other, "/ipfs/ping/1.0.0")
                await stream.send_all(bytes(32))
                assert await stream.receive_some(32) == bytes(32)
                assert (peer.remote_address(other) or "").endswith("/p2p-circuit")
            nursery.cancel_scope.cancel()
