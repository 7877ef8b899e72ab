"""The order, the timing and the end of several attempts at once, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio

from p2p.dialing import LAST_RESORT_S, MAX_ATTEMPTS, STAGGER_S, Interleaved, Race
from p2p.errors import ConnectionFailedError

pytestmark = pytest.mark.virtual_clock
FOREVER = float("inf")


def family(address: str) -> str:
    return "ip6" if ":" in address else "ip4"


class Network:
    """Addresses with the time in which each answers (negative: fails after that), and names."""

    def __init__(self, answers: dict[str, float], names: dict[str, tuple[float, list[str]]] | None = None):
        self.answers = answers
        self.names = names or {}
        self.tried: list[tuple[float, str]] = []
        self.discarded: list[str] = []
        self.cancelled: list[str] = []
        self._began = trio.current_time()

    async def connect(self, address: str) -> str:
        self.tried.append((round(trio.current_time() - self._began, 3), address))
        try:
            await trio.sleep(abs(self.answers[address]))
        except trio.Cancelled:
            self.cancelled.append(address)
            raise
        if self.answers[address] < 0:
            raise OSError("refused")
        return address

    async def resolve(self, name: str) -> Sequence[str]:
        delay_s, found = self.names[name]
        await trio.sleep(delay_s)
        if not found:
            raise OSError("no such name")
        return found

    async def discard(self, connection: str) -> None:
        self.discarded.append(connection)

    async def race(
        self, addresses: Sequence[str] = (), names: Sequence[str] = (), last_resort: Sequence[str] = ()
    ) -> str:
        race: Race[str, str] = Race(self.connect, self.resolve, self.discard, family)
        return await race.run(addresses, names, last_resort)


def drained(addresses: Sequence[str]) -> list[str]:
    queue: Interleaved[str] = Interleaved(family)
    queue.add(addresses)
    take: Callable[[], str | None] = queue.next
    return list(iter(take, None))  # type: ignore[arg-type]


def test_families_alternate_and_each_address_comes_once() -> None:
    given = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1", "::2", "1.1.1.1"]
    assert drained(given) == ["1.1.1.1", "::1", "1.1.1.2", "::2", "1.1.1.3"]
    assert drained(["::1", "1.1.1.1"]) == ["::1", "1.1.1.1"]
    assert len(drained([f"1.1.{n // 200}.{n % 200}" for n in range(500)])) == MAX_ATTEMPTS


async def test_a_silent_address_costs_one_moment() -> None:
    network = Network({"::1": FOREVER, "1.1.1.1": 0.01})
    assert await network.race(["::1", "1.1.1.1"]) == "1.1.1.1"
    assert network.tried == [(0.0, "::1"), (STAGGER_S, "1.1.1.1")]
    assert network.cancelled == ["::1"]


async def test_a_failure_starts_the_next_attempt_at_once() -> None:
    network = Network({"1.1.1.1": -0.01, "1.1.1.2": -0.01, "1.1.1.3": 0.01})
    assert await network.race(["1.1.1.1", "1.1.1.2", "1.1.1.3"]) == "1.1.1.3"
    assert [at for at, _ in network.tried] == [0.0, 0.01, 0.02]


async def test_a_slow_first_attempt_may_still_win() -> None:
    network = Network({"1.1.1.1": STAGGER_S + 0.05, "1.1.1.2": 10.0})
    assert await network.race(["1.1.1.1", "1.1.1.2"]) == "1.1.1.1"
    assert network.cancelled == ["1.1.1.2"]


async def test_of_two_connections_in_the_same_moment_one_is_discarded() -> None:
    network = Network({})
    both = trio.Event()

    async def connect(address: str) -> str:
        network.tried.append((0.0, address))
        if len(network.tried) == 2:
            both.set()
        with trio.CancelScope(shield=True):  # both are past the point where they could be cancelled
            await both.wait()
        return address

    race: Race[str, str] = Race(connect, network.resolve, network.discard, family)
    won = await race.run(["1.1.1.1", "1.1.1.2"], ())
    assert sorted([won, *network.discarded]) == ["1.1.1.1", "1.1.1.2"]


async def test_all_addresses_of_a_name_are_tried() -> None:
    names = {"peer.example": (0.05, ["::1", "::2", "1.1.1.1"])}
    network = Network({"::1": FOREVER, "::2": FOREVER, "1.1.1.1": 0.01}, names)
    assert await network.race(names=["peer.example"]) == "1.1.1.1"
    assert [address for _, address in network.tried] == ["::1", "1.1.1.1"]


async def test_addresses_do_not_wait_for_names() -> None:
    network = Network({"1.1.1.1": 0.01}, {"slow.example": (FOREVER, [])})
    assert await network.race(["1.1.1.1"], ["slow.example"]) == "1.1.1.1"
    assert network.tried == [(0.0, "1.1.1.1")]


async def test_a_name_that_comes_late_still_helps() -> None:
    network = Network({"1.1.1.1": -0.01, "1.1.1.2": 0.01}, {"late.example": (3.0, ["1.1.1.2"])})
    assert await network.race(["1.1.1.1"], ["late.example"]) == "1.1.1.2"


async def test_every_reason_is_named() -> None:
    network = Network({"1.1.1.1": -0.01}, {"gone.example": (0.02, [])})
    with pytest.raises(ConnectionFailedError, match=r"1\.1\.1\.1: refused.*gone.*no such name"):
        await network.race(["1.1.1.1"], ["gone.example"])
    with pytest.raises(ConnectionFailedError, match="no address"):
        await network.race()


async def test_a_last_resort_waits_for_the_others_but_not_for_ever() -> None:
    network = Network({"1.1.1.1": FOREVER, "relay": 0.01})
    assert await network.race(["1.1.1.1"], last_resort=["relay"]) == "relay"
    assert network.tried == [(0.0, "1.1.1.1"), (round(STAGGER_S + LAST_RESORT_S, 3), "relay")]


async def test_a_last_resort_is_tried_at_once_when_nothing_else_is_left() -> None:
    network = Network({"1.1.1.1": -0.01, "relay": 0.01})
    assert await network.race(["1.1.1.1"], last_resort=["relay"]) == "relay"
    assert network.tried == [(0.0, "1.1.1.1"), (0.01, "relay")]
    assert await Network({"relay": 0.01}).race(last_resort=["relay"]) == "relay"


async def test_a_last_resort_is_not_tried_where_another_way_works() -> None:
    network = Network({"1.1.1.1": STAGGER_S + LAST_RESORT_S / 2, "relay": 0.01})
    assert await network.race(["1.1.1.1"], last_resort=["relay"]) == "1.1.1.1"
    assert [address for _, address in network.tried] == ["1.1.1.1"]
