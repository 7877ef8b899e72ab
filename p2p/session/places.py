"""What is where in an Engine's data directory, and what it remembers between commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2p.chain.trust import outbox_name
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

    def payments(self, chain: ChainInfo, coordinator: str) -> Path:
        """The outbox of one chain."""
        return self.directory / f"{outbox_name(chain, coordinator_peer(coordinator))}.journal"

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
    def chains(self) -> Path:
        return self.directory / "chains.json"

    def remember_coordinator(self, address: str) -> None:
        if self.remembered_coordinator() != address:
            write_atomic(self.coordinator, address.encode() + b"\n")

    def remembered_coordinator(self) -> str | None:
        try:
            return self.coordinator.read_text().strip() or None
        except FileNotFoundError:
            return None

    def remember_chain(self, coordinator: str, chain: ChainInfo) -> None:
        known = self._remembered()
        changed = known | {str(coordinator_peer(coordinator)): chain}
        if changed != known:
            write_atomic(self.chains, msgspec.json.encode(changed))

    def remembered_chain(self, coordinator: str) -> ChainInfo | None:
        """Of this coordinator; None when it was never met."""
        return self._remembered().get(coordinator_peer(coordinator))

    def _remembered(self) -> dict[str, ChainInfo]:
        """By coordinator. Raises SetupError: a memory that is damaged must not look like none."""
        try:
            return msgspec.json.decode(self.chains.read_bytes(), type=dict[str, ChainInfo])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            raise SetupError(f"{self.chains} is damaged: {error}") from error


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
