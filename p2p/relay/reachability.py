"""Keeps a program behind NAT reachable: learns whether strangers get through, and if not, holds a relay.

``--relay`` names relays to hold always. Without it the coordinator is asked to dial back; only a
program that it cannot reach asks it for a reservation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from p2p.addresses import circuit_address
from p2p.backoff import Backoff
from p2p.errors import P2PError
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.protocols.reach import MAX_PORTS
from p2p.relay.circuit import reserve
from p2p.relay.dialback import ask_reach

log = structlog.get_logger(__name__)

_HELD_S = 5.0
"""What was held for longer is asked for again at once, but for a moment."""
ASK_AGAIN_S = 900.0
REFUSED_PAUSE_S = 30.0
_LONGEST_ASK_PAUSE_S = 60.0
_SHORTEST_S, _LONGEST_S = 10.0, 1800.0
"""Between two renewals, whatever the relay's clock says."""


class AnnouncingNetwork(Network, Protocol):
    """A host that can tell others of more addresses than those it listens at."""

    def listening_ports(self) -> Sequence[int]: ...

    def announce(self, source: PeerId, addresses: Sequence[str]) -> None:
        """Replaces what was announced on the word of ``source``, which may then bring circuits."""

    async def wait_disconnected(self, peer_id: PeerId) -> None: ...


class Reachability:
    """``keep`` runs for as long as the program wants to be found."""

    def __init__(
        self,
        network: AnnouncingNetwork,
        draw: Callable[[], float],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._draw = draw
        self._now = now

    async def keep(self, coordinator: str | None, relays: Sequence[str]) -> None:
        """Until cancelled, or while there is anything to keep. All are addresses that end in /p2p/ID."""
        async with trio.open_nursery() as nursery:
            for relay in relays:
                nursery.start_soon(self.hold, relay)
            if coordinator is not None and not relays:
                await self._hold_if_needed(coordinator)

    async def hold(self, relay: str) -> None:
        """A reservation at the relay, renewed in time and after every loss of the connection."""
        relay_id = _peer_id(relay)
        backoff = Backoff(self._draw)
        while True:
            try:
                await self._network.connect(relay_id, (relay,))
                reservation = await reserve(self._network, relay_id)
            except P2PError as error:
                log.info("no reservation", relay=relay, reason=str(error))
                if self._network.is_connected(relay_id):  # it refuses: asking often does not help
                    self._network.announce(relay_id, ())
                    await trio.sleep(REFUSED_PAUSE_S * (0.5 + self._draw()))
                else:
                    await trio.sleep(backoff.pause_s())
                continue
            self._network.announce(relay_id, (circuit_address(relay, self._network.peer_id),))
            log.info("reachable through a relay", relay=relay)
            left_s = reservation.expires_at - self._now()
            with trio.move_on_after(min(_LONGEST_S, max(_SHORTEST_S, left_s / 2))) as renewal:
                held_from = trio.current_time()
                await self._network.wait_disconnected(relay_id)
                if trio.current_time() - held_from > _HELD_S:
                    backoff.reset()
                await trio.sleep(backoff.pause_s())
            if renewal.cancelled_caught:
                backoff.reset()

    async def _hold_if_needed(self, coordinator: str) -> None:
        coordinator_id = _peer_id(coordinator)
        held = False
        while True:
            reachable = await self._ask(coordinator_id, coordinator)
            if reachable or not held:  # what is held stays announced while it is renewed
                self._network.announce(coordinator_id, reachable)
            held = not reachable
            if reachable:
                await trio.sleep(ASK_AGAIN_S)
            else:
                with trio.move_on_after(ASK_AGAIN_S):
                    await self.hold(coordinator)

    async def _ask(self, coordinator_id: PeerId, coordinator: str) -> tuple[str, ...]:
        """The addresses at which strangers reach this program, as the coordinator found out."""
        ports = tuple(self._network.listening_ports())[:MAX_PORTS]
        backoff = Backoff(self._draw, longest_s=_LONGEST_ASK_PAUSE_S)
        while ports:
            try:
                await self._network.connect(coordinator_id, (coordinator,))
                answer = await ask_reach(self._network, coordinator_id, ports)
            except P2PError as error:
                log.info("reachability unknown", reason=str(error))
                await trio.sleep(backoff.pause_s())
            else:
                log.info("reachability", observed=answer.observed, reachable=answer.reachable)
                return tuple(f"{address}/p2p/{self._network.peer_id}" for address in answer.reachable)
        return ()


def _peer_id(address: str) -> PeerId:
    return PeerId(address.rpartition("/p2p/")[2])
