"""A host's end of relayed and punched connections; ``p2p.host`` owns one and does the upgrading.

Keeps what is announced, answers circuits, dials them, and trades them for direct connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from p2p.addresses import is_relayed, split_circuit
from p2p.errors import ConnectionFailedError, P2PError
from p2p.identifiers import PeerId
from p2p.network import Network, Stream
from p2p.relay.circuit import CircuitIO, answer_stop, open_circuit
from p2p.relay.messages import PUNCH_PROTOCOL, STOP_PROTOCOL
from p2p.relay.observed import observed_by
from p2p.relay.punch import Endpoint, Puncher
from p2p.relay.sockets import SourcePorts

log = structlog.get_logger(__name__)

RETIRE_S = 10.0
"""How long calls on a relayed connection may go on once there is a direct one."""


class UpgradingHost(Network, Protocol):
    async def upgrade_outgoing(self, raw: IRawConnection, peer_id: PeerId) -> object:
        """Secures it as its client. Closes it and raises where that fails."""

    async def upgrade_dialed(self, raw: IRawConnection, peer_id: PeerId) -> object:
        """Secures what this side dialed as its server. Closes it and raises where that fails."""

    async def serve_incoming(self, raw: RawConnection) -> None:
        """Secures it as its server, if there is room, and returns at its end."""


class Addressed(Protocol):
    def get_transport_addresses(self) -> Sequence[Multiaddr]: ...


class LiveConnection(Addressed, Protocol):
    """One connection of the host."""

    @property
    def is_initiator(self) -> bool: ...

    async def close(self) -> None: ...


class RelayedEnds:
    """``ports`` is what the host dials from."""

    def __init__(self, host: UpgradingHost) -> None:
        self.ports = SourcePorts()
        self._host = host
        self._announced: dict[PeerId, tuple[str, ...]] = {}
        self._punching: dict[Endpoint, PeerId] = {}
        self._puncher = Puncher(self)
        host.set_handler(STOP_PROTOCOL, self._answer_circuit)
        host.set_handler(PUNCH_PROTOCOL, self._puncher.follow)

    # -- announced addresses -------------------------------------------------------------------

    def announce(self, source: PeerId, addresses: Sequence[str]) -> None:
        self._announced[source] = tuple(addresses)

    @property
    def announced(self) -> tuple[str, ...]:
        return tuple(address for addresses in self._announced.values() for address in addresses)

    # -- circuits ------------------------------------------------------------------------------

    async def dial(self, peer_id: PeerId, address: Multiaddr) -> IRawConnection:
        """Directly or through a relay, as the address says. Raises P2PError, OSError."""
        circuit = split_circuit(address)
        if circuit is None:
            return await self.ports.dial(address)
        relay, where = circuit
        if relay in (self._host.peer_id, peer_id):
            raise ConnectionFailedError(f"{address} leads through one of its own ends")
        stream = await open_circuit(self._host, relay, (where,), peer_id)
        return _raw(stream, address, is_initiator=True)

    async def _answer_circuit(self, stream: Stream) -> None:
        relay = stream.remote_peer_id
        source = await answer_stop(stream, bool(self._announced.get(relay)))
        log.debug("circuit", source=source, relay=relay)
        address = Multiaddr(f"{self._host.remote_address(relay) or ''}/p2p/{relay}/p2p-circuit")
        # Whom the relay names counts for nothing: the handshake says who it is.
        await self._host.serve_incoming(_raw(stream, address, is_initiator=False))

    # -- punching ------------------------------------------------------------------------------

    async def connection_started(
        self,
        peer_id: PeerId,
        connection: LiveConnection,
        open_stream: Callable[[], Awaitable[Stream]],
        others: Sequence[LiveConnection],
    ) -> None:
        """Leads a punch where this side was called through a relay; retires what a direct one replaces."""
        if not is_relayed(address_of(connection)):
            for relayed in (other for other in others if is_relayed(address_of(other))):
                await trio.sleep(RETIRE_S)
                if self.is_direct(peer_id):
                    await relayed.close()
        elif not connection.is_initiator and not self.is_direct(peer_id):
            try:
                await self._puncher.lead(peer_id, open_stream)
            except P2PError as error:
                log.info("no punch", peer_id=peer_id, reason=str(error))

    def is_direct(self, peer_id: PeerId) -> bool:
        address = self._host.remote_address(peer_id)
        return address is not None and not is_relayed(address)

    def punched_client(self, remote: Endpoint | None) -> PeerId | None:
        """With whom it is agreed that this side is the client, though the other side dialed first."""
        return self._punching.get(remote) if remote is not None else None

    async def own_endpoints(self, peer_id: PeerId) -> list[Endpoint]:
        circuit = split_circuit(Multiaddr(self._host.remote_address(peer_id) or "/ip4/0.0.0.0"))
        if circuit is None:
            return []
        host, port = await observed_by(self._host, circuit[0])
        # A connection of old may have come from another port; most NATs keep the port that they can.
        return list(dict.fromkeys(((host, port), (host, self.ports.port_for(host)))))

    async def punch(self, peer_id: PeerId, endpoint: Endpoint, *, as_client: bool) -> None:
        host, port = endpoint
        address = Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")
        if as_client:
            self._punching[endpoint] = peer_id
        try:
            raw = await self.ports.dial(address, strictly=True)
            raw.is_initiator = as_client
            if as_client:
                await self._host.upgrade_outgoing(raw, peer_id)
            else:
                await self._host.upgrade_dialed(raw, peer_id)
        finally:
            self._punching.pop(endpoint, None)


def _raw(stream: Stream, address: Multiaddr, *, is_initiator: bool) -> RawConnection:
    return RawConnection(CircuitIO(stream), is_initiator, ConnectionType.RELAYED, [address])


def address_of(connection: Addressed) -> str:
    """Without the peer id."""
    addresses = connection.get_transport_addresses()
    return str(addresses[0]) if addresses else ""
