"""Two punchers on the in-memory network, with hosts that note when and how they dial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.errors import P2PError
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Stream
from p2p.relay.messages import PUNCH_PROTOCOL, PunchMessage, PunchType
from p2p.relay.punch import ATTEMPTS, Endpoint, Puncher
from p2p.testing import MemoryNet

pytestmark = pytest.mark.virtual_clock
LEADER, FOLLOWER = ("192.0.2.1", 4500), ("192.0.2.2", 4600)


class Host:
    """Succeeds at the ``works``-th dial (0: never)."""

    def __init__(self, endpoint: Endpoint, works: int) -> None:
        self.endpoint = endpoint
        self.dials: list[tuple[float, Endpoint, bool]] = []
        self.direct = False
        self._works = works

    async def own_endpoints(self, peer_id: PeerId) -> Sequence[Endpoint]:
        await trio.sleep(0.05)
        return [self.endpoint]

    async def punch(self, peer_id: PeerId, endpoint: Endpoint, *, as_client: bool) -> None:
        self.dials.append((trio.current_time(), endpoint, as_client))
        await trio.sleep(0.2)
        if len(self.dials) != self._works:
            raise OSError("refused")
        self.direct = True

    def is_direct(self, peer_id: PeerId) -> bool:
        return self.direct


class Pair:
    def __init__(self, net: MemoryNet, works: int) -> None:
        self.leader, self.follower = net.join(Identity.generate()), net.join(Identity.generate())
        self.leading, self.following = Host(LEADER, works), Host(FOLLOWER, works)
        self.puncher = Puncher(self.leading)
        self.follower.set_handler(PUNCH_PROTOCOL, Puncher(self.following).follow)

    async def lead(self) -> None:
        await self.leader.connect(self.follower.peer_id, self.follower.addresses())
        await self.puncher.lead(self.follower.peer_id, self.open_stream)

    async def open_stream(self) -> Stream:
        return await self.leader.open_stream(self.follower.peer_id, PUNCH_PROTOCOL)


@asynccontextmanager
async def pair(works: int) -> AsyncIterator[Pair]:
    async with MemoryNet(seed=5, latency_s=(0.04, 0.04)) as net:
        yield Pair(net, works)


async def test_both_dial_each_other_at_the_same_moment_and_agree_who_is_the_client() -> None:
    async with pair(works=1) as two:
        await two.lead()
        [(leader_at, leader_to, leader_client)] = two.leading.dials
        [(follower_at, follower_to, follower_client)] = two.following.dials
        assert abs(leader_at - follower_at) < 0.02
        assert (leader_to, follower_to) == (FOLLOWER, LEADER)
        assert (leader_client, follower_client) == (False, True)


async def test_a_refused_dial_is_tried_again_within_the_attempt() -> None:
    async with pair(works=4) as two:
        await two.lead()
        assert len(two.leading.dials) == 4
        assert two.leading.direct


async def test_attempts_are_few() -> None:
    async with pair(works=0) as two:
        began = trio.current_time()
        await two.lead()
        assert not two.leading.direct
        assert trio.current_time() - began < ATTEMPTS * 10
        count = len(two.leading.dials)
        await trio.sleep(60)
        assert len(two.leading.dials) == count


async def test_one_punch_at_a_time() -> None:
    async with pair(works=1) as two, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(two.lead)
        await trio.sleep(30)
        assert len(two.leading.dials) == 1


async def test_only_a_few_endpoints_that_may_be_dialed_are() -> None:
    async with pair(works=0) as two:

        async def hostile(stream: Stream) -> None:
            many = [bytes((4, 192, 0, 2, n, 6, 0, 80)) for n in range(1, 30)]
            loopback = bytes((4, 127, 0, 0, 1, 6, 0, 80))
            await stream.send_all(PunchMessage(PunchType.CONNECT, (loopback, *many)).encode())
            await trio.sleep_forever()

        two.follower.set_handler(PUNCH_PROTOCOL, hostile)
        await two.lead()
        assert {endpoint for _, endpoint, _ in two.leading.dials} == {
            (f"192.0.2.{n}", 80) for n in range(1, 5)
        }


async def test_another_message_than_expected_ends_it() -> None:
    async with pair(works=1) as two:

        async def confused(stream: Stream) -> None:
            await stream.send_all(PunchMessage(PunchType.SYNC).encode())
            await trio.sleep_forever()

        two.follower.set_handler(PUNCH_PROTOCOL, confused)
        with pytest.raises(P2PError, match="SYNC, expected CONNECT"):
            await two.lead()
        assert two.leading.dials == []


async def test_a_connection_that_is_lost_at_once_is_not_made_again_without_a_pause() -> None:
    async with pair(works=0) as two:

        async def lose(peer_id: PeerId, endpoint: Endpoint, *, as_client: bool) -> None:
            await trio.lowlevel.checkpoint()
            two.leading.dials.append((trio.current_time(), endpoint, as_client))

        two.leading.punch = lose  # type: ignore[method-assign]
        await two.lead()
        assert len(two.leading.dials) < ATTEMPTS * 12


async def test_strangers_that_call_through_relays_cannot_make_it_dial_without_end() -> None:
    async with pair(works=0) as two:
        await two.leader.connect(two.follower.peer_id, two.follower.addresses())
        refused: list[PeerId] = []

        async def lead(peer_id: PeerId) -> None:
            try:
                await two.puncher.lead(peer_id, two.open_stream)
            except P2PError as error:
                if "punches in a row" in str(error):
                    refused.append(peer_id)

        async with trio.open_nursery() as nursery:
            for _ in range(70):
                nursery.start_soon(lead, Identity.generate().peer_id)
        assert len(refused) == 6


async def test_nobody_that_is_connected_directly_uses_up_the_punches_of_others() -> None:
    async with pair(works=1) as two:
        two.following.direct = True
        await two.leader.connect(two.follower.peer_id, two.follower.addresses())
        for _ in range(20):
            with pytest.raises(P2PError):
                await two.puncher.lead(two.follower.peer_id, two.open_stream)
        two.following.direct = False
        await two.lead()
        assert two.leading.direct
