"""Tells callers whether strangers can reach them, by dialing back. Never anywhere but where they are.

The host of the caller's own connection is the only one dialed, a few ports at most, seldom, and an
answer counts only if the caller's own key gives it: nobody can aim this at somebody else.
"""

from __future__ import annotations

from typing import Protocol

import structlog
import trio

from p2p.addresses import is_relayed
from p2p.client import open_client
from p2p.errors import RemoteFailureError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.limits import Rate, RateLimiter, place_in
from p2p.network import Network
from p2p.protocols.reach import LIMITS, PROTOCOL_ID, REQUESTS, RESPONSES, AskReach, Reach
from p2p.router import serve_calls

log = structlog.get_logger(__name__)

DIAL_TIMEOUT_S = 4.0
ASK_TIMEOUT_S = 20.0
_DIALS_AT_ONCE = 16
_RATE = Rate(per_s=0.2, burst=32.0)
"""Of one IP address: several peers may be behind it."""


class Prober(Network, Protocol):
    async def answers_at(self, peer_id: PeerId, address: str, timeout_s: float) -> bool:
        """Whether a new connection to the address reaches that very peer; it is closed at once."""


class DialBack:
    """Answers on ``network``."""

    def __init__(self, network: Prober) -> None:
        self._network = network
        self._rates = RateLimiter(_RATE)
        self._dials = 0
        serve_calls(network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, self._answer, max_in_flight=1)

    async def _answer(self, caller: PeerId, call: AskReach, _: bytes) -> Reach:
        observed = self._network.remote_address(caller)
        if observed is None or is_relayed(observed):
            raise RemoteFailureError("refused", "asked through a relay, allowed on a direct connection")
        host = observed.rpartition("/tcp/")[0]
        if not self._rates.allow(place_in(observed), trio.current_time()):
            raise RemoteFailureError("busy", f"asked more than {_RATE.burst:g} times in a row from {host}")
        if self._dials >= _DIALS_AT_ONCE:
            raise RemoteFailureError("busy", f"{self._dials} dials are under way, limit {_DIALS_AT_ONCE}")
        self._dials += 1
        try:
            addresses = tuple(f"{host}/tcp/{port}" for port in dict.fromkeys(call.ports))
            found = [
                address
                for address in addresses
                if await self._network.answers_at(caller, address, DIAL_TIMEOUT_S)
            ]
        finally:
            self._dials -= 1
        log.info("dialed back", peer_id=caller, asked=addresses, reachable=found)
        return Reach(observed, tuple(found))


async def ask_reach(network: Network, peer_id: PeerId, ports: tuple[int, ...]) -> Reach:
    """Needs a connection. Raises P2PError."""
    async with open_client(network, peer_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS) as client:
        answer, _ = await client.call(AskReach(ports), timeout_s=ASK_TIMEOUT_S)
    if not isinstance(answer, Reach):
        raise RemoteProtocolError(f"{peer_id} answered {type(answer).__name__} to AskReach")
    return answer
