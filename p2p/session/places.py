"""What is where in an Engine's data directory, and the two things it remembers between commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2p.datadir import write_atomic
from p2p.errors import RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of
from p2p.protocols.coordinator import ChainInfo
from p2p.session.errors import SetupError


@dataclass(frozen=True, slots=True)
class Places:
    directory: Path

    @property
    def identity(self) -> Path:
        return self.directory / "identity.json"

    @property
    def wallet(self) -> Path:
        return self.directory / "wallet.json"

    @property
    def jobs(self) -> Path:
        return self.directory / "jobs.sqlite"

    @property
    def payments(self) -> Path:
        return self.directory / "payments.journal"

    @property
    def files(self) -> Path:
        return self.directory / "store"

    @property
    def workspace(self) -> Path:
        return self.directory / "workspace"

    @property
    def control(self) -> Path:
        return self.directory / "control.sock"

    @property
    def coordinator(self) -> Path:
        return self.directory / "coordinator"

    @property
    def chain(self) -> Path:
        return self.directory / "chain.json"

    def remember_coordinator(self, address: str) -> None:
        if self.remembered_coordinator() != address:
            write_atomic(self.coordinator, address.encode() + b"\n")

    def remembered_coordinator(self) -> str | None:
        try:
            return self.coordinator.read_text().strip() or None
        except FileNotFoundError:
            return None

    def remember_chain(self, coordinator: str, chain: ChainInfo) -> None:
        known = _RememberedChain(coordinator_peer(coordinator), chain)
        if self._remembered() != known:
            write_atomic(self.chain, msgspec.json.encode(known))

    def remembered_chain(self, coordinator: str) -> ChainInfo | None:
        """Of this coordinator; None when it was never met."""
        known = self._remembered()
        same = known is not None and known.coordinator == coordinator_peer(coordinator)
        return known.chain if known is not None and same else None

    def _remembered(self) -> _RememberedChain | None:
        try:
            return msgspec.json.decode(self.chain.read_bytes(), type=_RememberedChain)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None


class _RememberedChain(msgspec.Struct, frozen=True):
    coordinator: str
    chain: ChainInfo


def coordinator_peer(address: str) -> PeerId:
    """The peer id at the end of the multiaddress. Raises SetupError."""
    _, separator, peer_id = address.rpartition("/p2p/")
    try:
        public_key_of(PeerId(peer_id))
    except RemoteProtocolError:
        separator = ""
    if not separator:
        raise SetupError(
            f"coordinator address {address!r}, "
            "allowed a multiaddress such as /ip4/127.0.0.1/tcp/4001/p2p/12D3..."
        )
    return PeerId(peer_id)
