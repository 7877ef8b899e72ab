"""Which peers exist, what they last said, and whether they are there now. No I/O; time is an argument.

Soft state: after a restart peers register again. Records are signed and expire; what they claim is
believed only as far as matching, never as far as paying.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordinator.escrows import is_wallet
from p2p.errors import RecordRefusedError
from p2p.identifiers import PeerId
from p2p.protocols.coordinator import PeerRecord, SignedRecord
from p2p.records import open_record

MAX_PEERS = 20_000
KEEP_SILENT_S = 3600.0
UPTIME_SPAN_S = 3600.0
"""Being here without a gap for this long counts as full uptime."""
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """One registered peer."""

    record: PeerRecord
    signed: SignedRecord
    registered_at: float
    online_since: float
    seen_at: float
    running: int = 0
    capacity: int | None = None
    """Jobs that it takes at once; None until its first heartbeat, then what it says."""
    answer_s: float | None = None
    """Measured time from an offer to its answer, smoothed."""

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self.record.peer_id)

    @property
    def slots(self) -> int:
        devices = len(self.record.devices)
        return devices if self.capacity is None else min(devices, self.capacity)

    def uptime(self, now: float) -> float:
        """0 to 1."""
        return min(1.0, max(0.0, now - self.online_since) / UPTIME_SPAN_S)


class Registry:
    """All peers that registered with this run of the coordinator."""

    def __init__(self, silence_s: float, max_peers: int = MAX_PEERS) -> None:
        self._silence_s = silence_s
        self._max_peers = max_peers
        self._entries: dict[PeerId, PeerEntry] = {}

    def register(self, caller: PeerId, signed: SignedRecord, now: float) -> PeerEntry:
        """Raises RecordRefusedError: forged, expired, about somebody else, or older than what is known."""
        record = open_record(signed, now, caller)
        for wallet in (record.node_wallet, record.payout_wallet):
            if not is_wallet(wallet):
                raise RecordRefusedError(f"record of {caller}: wallet {wallet!r} is no Solana public key")
        known = self._entries.get(caller)
        if known is not None and record.sequence < known.record.sequence:
            raise RecordRefusedError(
                f"record of sequence {record.sequence}, known is {known.record.sequence}: it is older"
            )
        if known is None and len(self._entries) >= self._max_peers:
            self.forget_silent(now, self._silence_s)
            if len(self._entries) >= self._max_peers:
                raise RecordRefusedError(f"{len(self._entries)} peers are online, limit {self._max_peers}")
        entry = self._entries[caller] = _entry(known, record, signed, now, self._silence_s)
        return entry

    def heartbeat(self, caller: PeerId, running: int, capacity: int, now: float) -> bool:
        """False asks the peer to register (again)."""
        entry = self._entries.get(caller)
        if entry is None or entry.record.expires_at <= now:
            return False
        online_since = entry.online_since if self._is_fresh(entry, now) else now
        self._entries[caller] = replace(
            entry, running=running, capacity=capacity, seen_at=now, online_since=online_since
        )
        return True

    def measured(self, peer_id: PeerId, answer_s: float) -> None:
        """The peer answered an offer in this time."""
        entry = self._entries.get(peer_id)
        if entry is None:
            return
        before = entry.answer_s
        smoothed = answer_s if before is None else before + _SMOOTHING * (answer_s - before)
        self._entries[peer_id] = replace(entry, answer_s=smoothed)

    def get(self, peer_id: PeerId) -> PeerEntry | None:
        return self._entries.get(peer_id)

    def is_online(self, peer_id: PeerId, now: float) -> bool:
        entry = self._entries.get(peer_id)
        return entry is not None and entry.record.expires_at > now and self._is_fresh(entry, now)

    def forget_silent(self, now: float, silence_s: float = KEEP_SILENT_S) -> None:
        """Those that said nothing for so long, or whose record has expired.

        Names cost nothing: one that registers and leaves must not take a place for a day.
        """
        gone = [
            key
            for key, entry in self._entries.items()
            if entry.record.expires_at <= now or now - entry.seen_at > silence_s
        ]
        for peer_id in gone:
            del self._entries[peer_id]

    def __iter__(self) -> Iterator[PeerEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _is_fresh(self, entry: PeerEntry, now: float) -> bool:
        return now - entry.seen_at <= self._silence_s


def _entry(
    known: PeerEntry | None, record: PeerRecord, signed: SignedRecord, now: float, silence_s: float
) -> PeerEntry:
    if known is None or now - known.seen_at > silence_s:
        answer_s = None if known is None else known.answer_s
        return PeerEntry(record, signed, now, now, now, answer_s=answer_s)
    return replace(known, record=record, signed=signed, registered_at=now, seen_at=now)
