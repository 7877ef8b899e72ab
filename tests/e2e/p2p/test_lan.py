"""Multicast DNS for real: on this machine's interfaces, with py-libp2p's own, and between two namespaces."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.discovery.mdns.mdns import MDNSDiscovery
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from p2p import dns, mdns
from p2p.errors import ConnectionFailedError
from p2p.host import open_host
from p2p.identity import Identity
from p2p.lan import MulticastLan, announce
from p2p.network import Network

pytestmark = pytest.mark.e2e
LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
LOOK_S = 60.0
PROGRAM = """
import json, sys, trio
from p2p.host import open_host
from p2p.identity import Identity
from p2p.lan import MulticastLan, announce

async def main(role, seed):
    identity = Identity.from_seed(bytes([seed]) * 32)
    async with open_host(identity, ["/ip4/0.0.0.0/tcp/0"]) as network, trio.open_nursery() as nursery:
        if role == "announce":
            await nursery.start(announce, network)
            print("ready", flush=True)
            await trio.sleep_forever()
        found = await MulticastLan().look(60.0, lambda peers: len(peers) > 0)
        for peer_id, addresses in found.items():
            await network.connect(peer_id, addresses)
        print(json.dumps(found), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def multicast() -> None:
    """Says why nothing is tested where the machine has no multicast."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            member = socket.inet_aton(mdns.GROUP) + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError as error:
            pytest.skip(f"this machine forbids multicast on its loopback: {error}")


@asynccontextmanager
async def announced(listen: list[str] = LOOPBACK) -> AsyncIterator[Network]:
    async with open_host(Identity.generate(), listen) as network, trio.open_nursery() as nursery:
        await nursery.start(announce, network)
        yield network
        nursery.cancel_scope.cancel()


async def test_a_host_is_found_at_every_address_and_gone_when_it_leaves() -> None:
    async with announced(["/ip4/0.0.0.0/tcp/0"]) as network:
        found = await MulticastLan().look(
            LOOK_S, lambda peers: set(peers.get(network.peer_id, ())) == set(network.addresses())
        )
        assert set(found[network.peer_id]) == set(network.addresses())
    assert network.peer_id not in await MulticastLan().look(1.0)


async def test_what_is_found_can_be_connected_to_and_a_forged_answer_cannot() -> None:
    async with announced() as network, open_host(Identity.generate(), []) as caller:
        victim = Identity.generate().peer_id
        genuine = network.addresses()[0]
        lie = genuine.replace(network.peer_id, victim)
        async with flood(mdns.announcement(mdns.Instance("liar", victim, (lie,)))):
            found = await MulticastLan().look(
                LOOK_S, lambda peers: network.peer_id in peers and victim in peers
            )
        await caller.connect(network.peer_id, found[network.peer_id])
        with pytest.raises(ConnectionFailedError):
            await caller.connect(victim, found[victim], timeout_s=5)


async def test_a_crowd_of_made_up_peers_hides_none_that_is_looked_for() -> None:
    async with announced() as network:
        genuine = network.addresses()[0]
        crowd = []
        for _ in range(mdns.MAX_PEERS + 1):
            made_up = Identity.generate().peer_id
            crowd.append(genuine.replace(network.peer_id, made_up))
        packets = [
            mdns.announcement(
                mdns.Instance(f"liar{number}", network.peer_id, tuple(crowd[number : number + 8]))
            )
            for number in range(0, len(crowd), 8)
        ]
        async with flood(*packets):
            found = await MulticastLan().look(
                LOOK_S, lambda peers: network.peer_id in peers, wanted=network.peer_id
            )
    assert found == {network.peer_id: (genuine,)}


async def test_a_flood_of_nonsense_hides_nobody() -> None:
    noise = [os.urandom(300), b"", dns.encode(dns.Packet(True))]
    async with announced() as network, flood(*noise):
        found = await MulticastLan().look(LOOK_S, lambda peers: network.peer_id in peers)
        assert network.peer_id in found


@asynccontextmanager
async def flood(*packets: bytes) -> AsyncIterator[None]:
    """Sends the packets to everybody on the loopback, without a pause."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender = trio.socket.from_stdlib_socket(raw)

        async def send() -> None:
            while True:
                for packet in packets:
                    await sender.sendto(packet, (mdns.GROUP, mdns.PORT))
                await trio.sleep(0.002)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield
            nursery.cancel_scope.cancel()


async def test_we_and_a_stock_libp2p_host_find_each_other() -> None:
    seen: list[PeerInfo] = []
    peerDiscovery.register_peer_discovered_handler(seen.append)
    stock = new_host()
    async with announced() as network, stock.run(listen_addrs=[Multiaddr(LOOPBACK[0])]):
        discovery = MDNSDiscovery(stock.get_network(), host=stock)
        discovery.start()
        try:
            name = str(stock.get_id())
            found = await MulticastLan().look(LOOK_S, lambda peers: name in peers)
            assert name in found
            with trio.fail_after(LOOK_S):
                while network.peer_id not in {str(i.peer_id) for i in seen}:  # noqa: ASYNC110 - told by a thread
                    await trio.sleep(0.05)
        finally:
            discovery.stop()


@pytest.fixture
def two_namespaces() -> Iterator[tuple[str, str]]:
    """As two machines with a cable between them; skips, saying why, where that is forbidden."""
    names = tuple(f"cyx{os.getpid()}{end}" for end in "ab")
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add v{names[0]} netns {names[0]} type veth peer name v{names[1]} netns {names[1]}",
        *(
            f"ip -n {name} addr add 10.77.0.{number}/24 dev v{name}"
            for number, name in enumerate(names, start=1)
        ),
        *(f"ip -n {name} link set {device} up" for name in names for device in ("lo", f"v{name}")),
    ]
    try:
        for line in commands:
            done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"this machine forbids network namespaces: {line}: {done.stderr.strip()}")
        yield names[0], names[1]
    except FileNotFoundError as error:
        pytest.skip(f"this machine has no `ip` command: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_machines_without_any_server_find_each_other(two_namespaces: tuple[str, str]) -> None:
    def run(namespace: str, role: str, seed: int) -> subprocess.Popen[str]:
        words = ["ip", "netns", "exec", namespace, sys.executable, "-c", PROGRAM, role, str(seed)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    announcer = run(two_namespaces[0], "announce", 1)
    try:
        assert announcer.stdout is not None
        assert announcer.stdout.readline() == "ready\n"
        output, _ = run(two_namespaces[1], "look", 2).communicate(timeout=120)
    finally:
        announcer.kill()
        announcer.wait()
    [(peer_id, addresses)] = json.loads(output).items()
    assert peer_id == Identity.from_seed(b"\x01" * 32).peer_id
    assert [text.split("/")[2] for text in addresses] == ["10.77.0.1"]
