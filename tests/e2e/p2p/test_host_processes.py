"""Hosts in processes of their own: killed, frozen, restarted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from p2p.errors import ConnectionFailedError, StreamResetError
from p2p.host import open_host
from p2p.identity import Identity
from p2p.network import Network

pytestmark = pytest.mark.e2e

SEED = bytes(range(1, 33))
PEER = """
import sys, time, trio
from p2p.host import open_host
from p2p.identity import Identity

async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)

async def busy(stream):
    for _ in range(4):
        await stream.receive_some()
        time.sleep(1.2)
        await stream.send_all(b"done")

async def main():
    async with open_host(Identity.from_seed(bytes.fromhex(sys.argv[1])), [sys.argv[2]]) as network:
        network.set_handler("/test/echo", echo)
        network.set_handler("/test/busy", busy)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


class Peer:
    """A process that echoes on /test/echo, and whose every task stands still to answer on /test/busy."""

    def __init__(self, listen: str = "/ip4/127.0.0.1/tcp/0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, SEED.hex(), listen], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.peer_id = Identity.from_seed(SEED).peer_id
        assert self.address.endswith(self.peer_id)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)


@contextmanager
def running(listen: str = "/ip4/127.0.0.1/tcp/0") -> Iterator[Peer]:
    peer = Peer(listen)
    try:
        yield peer
    finally:
        peer.process.kill()
        peer.process.wait()
        assert peer.process.stdout is not None
        peer.process.stdout.close()


async def ping(network: Network, peer: Peer) -> None:
    stream = await network.open_stream(peer.peer_id, "/test/echo")
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"


@pytest.mark.parametrize("same_address", [True, False])
async def test_a_killed_peer_is_seen_at_once_and_reached_again_when_it_is_back(same_address: bool) -> None:
    async with open_host(Identity.generate(), []) as caller:
        with running() as peer:
            await caller.connect(peer.peer_id, [peer.address])
            stream = await caller.open_stream(peer.peer_id, "/test/echo")
            peer.signal(signal.SIGKILL)
            with trio.fail_after(60), pytest.raises(StreamResetError, match="connection lost"):
                await stream.receive_some()
            assert not caller.is_connected(peer.peer_id)
            with pytest.raises(StreamResetError):
                await stream.send_all(b"late")
        with pytest.raises(ConnectionFailedError):
            await caller.connect(peer.peer_id, [peer.address])
        listen = peer.address.rpartition("/p2p/")[0] if same_address else "/ip4/127.0.0.1/tcp/0"
        with running(listen) as again:
            with trio.fail_after(60):
                await caller.connect(again.peer_id, [again.address])
                await ping(caller, again)


async def test_a_killed_peer_cuts_a_writer_too() -> None:
    async with open_host(Identity.generate(), []) as caller:
        with running() as peer:
            await caller.connect(peer.peer_id, [peer.address])
            stream = await caller.open_stream(peer.peer_id, "/test/echo")
            async with trio.open_nursery() as nursery:

                async def kill_midway() -> None:
                    await stream.receive_some()
                    peer.signal(signal.SIGKILL)

                nursery.start_soon(kill_midway)
                with trio.fail_after(60), pytest.raises(StreamResetError):
                    while True:
                        await stream.send_all(bytes(65_536))


async def test_a_frozen_peer_is_noticed_and_a_thawed_one_reached_again() -> None:
    async with open_host(Identity.generate(), []) as caller:
        with running() as peer:
            await caller.connect(peer.peer_id, [peer.address])
            stream = await caller.open_stream(peer.peer_id, "/test/echo")
            peer.signal(signal.SIGSTOP)
            try:
                with trio.fail_after(60), pytest.raises(StreamResetError, match="no sign of life"):
                    await stream.receive_some()
                assert not caller.is_connected(peer.peer_id)
            finally:
                peer.signal(signal.SIGCONT)
            await caller.connect(peer.peer_id, [peer.address])
            await ping(caller, peer)


async def test_a_writer_to_a_frozen_peer_is_freed() -> None:
    async with open_host(Identity.generate(), []) as caller:
        with running() as peer:
            await caller.connect(peer.peer_id, [peer.address])
            stream = await caller.open_stream(peer.peer_id, "/test/echo")
            peer.signal(signal.SIGSTOP)
            try:
                with trio.fail_after(60), pytest.raises(StreamResetError, match="no sign of life"):
                    while True:
                        await stream.send_all(bytes(65_536))
            finally:
                peer.signal(signal.SIGCONT)


async def test_a_peer_that_is_busy_for_seconds_is_not_given_up() -> None:
    async with open_host(Identity.generate(), []) as caller:
        with running() as peer:
            await caller.connect(peer.peer_id, [peer.address])
            idle = await caller.open_stream(peer.peer_id, "/test/echo")
            stream = await caller.open_stream(peer.peer_id, "/test/busy")
            for _ in range(4):
                await stream.send_all(b"work")
                assert await stream.receive_some() == b"done"
            await idle.send_all(b"still here")
            assert await idle.receive_some() == b"still here"
