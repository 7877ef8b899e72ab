"""Who may be reached through this relay, which circuits are open, and what each may still carry. Pure.

Every cap is checked here, before anything is opened, and a refusal says which cap it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from p2p.identifiers import PeerId
from p2p.relay.messages import Limit, Status


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What others may cost this relay."""

    reservations: int = 512
    reservations_per_address: int = 16
    """Of the peers behind one IP address."""
    reservation_s: float = 3600.0
    circuits: int = 128
    circuits_per_peer: int = 8
    """A peer counts at either end."""
    circuits_per_address: int = 32
    """Opened by the peers behind one IP address."""
    circuit_s: float = 600.0
    circuit_bytes: int = 64 << 20
    """Each way; then the circuit is cut, and its ends may open another."""
    bytes_per_s: float = 4 << 20
    """Of one circuit, each way."""
    bytes_per_s_of_all: float = 64 << 20
    """Of all circuits, both ways together; they share it first come, first served."""

    @property
    def of_circuit(self) -> Limit:
        return Limit(int(self.circuit_s), self.circuit_bytes)


class RelayRefusalError(Exception):
    """Politely: the caller is told ``status``."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class HeldReservation:
    address: str
    """The IP address that it was made from."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class Circuit:
    number: int
    source: PeerId
    address: str
    """Of the source."""
    target: PeerId


class RelayBook:
    """``now`` is any clock that only goes forward."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._reservations: dict[PeerId, HeldReservation] = {}
        self._circuits: dict[int, Circuit] = {}
        self._ends: Counter[PeerId] = Counter()
        self._addresses: Counter[str] = Counter()
        self._count = 0

    @property
    def reserved(self) -> tuple[PeerId, ...]:
        return tuple(self._reservations)

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        return tuple(self._circuits.values())

    def reserve(self, peer_id: PeerId, address: str, now: float) -> HeldReservation:
        """New, or renewed for a full period. Raises RelayRefusalError."""
        self._forget_expired(now)
        others = [held for peer, held in self._reservations.items() if peer != peer_id]
        if len(others) >= self.limits.reservations:
            raise _refused(f"{len(others)} reservations are held, limit {self.limits.reservations}")
        neighbours = sum(held.address == address for held in others)
        if neighbours >= self.limits.reservations_per_address:
            raise _refused(
                f"{neighbours} reservations from {address}, limit {self.limits.reservations_per_address}"
            )
        held = HeldReservation(address, now + self.limits.reservation_s)
        self._reservations[peer_id] = held
        return held

    def drop(self, peer_id: PeerId) -> None:
        self._reservations.pop(peer_id, None)

    def holds(self, peer_id: PeerId, now: float) -> bool:
        held = self._reservations.get(peer_id)
        return held is not None and now < held.expires_at

    def open(self, source: PeerId, address: str, target: PeerId, now: float) -> Circuit:
        """Raises RelayRefusalError."""
        if source == target:
            raise RelayRefusalError(Status.PERMISSION_DENIED, "a circuit to oneself")
        if not self.holds(target, now):
            raise RelayRefusalError(Status.NO_RESERVATION, f"{target} holds no reservation here")
        if len(self._circuits) >= self.limits.circuits:
            raise _exhausted(f"{len(self._circuits)} circuits are open, limit {self.limits.circuits}")
        for peer_id in (source, target):
            if self._ends[peer_id] >= self.limits.circuits_per_peer:
                raise _exhausted(
                    f"{self._ends[peer_id]} circuits of {peer_id}, limit {self.limits.circuits_per_peer}"
                )
        if self._addresses[address] >= self.limits.circuits_per_address:
            raise _exhausted(
                f"{self._addresses[address]} circuits from {address}, "
                f"limit {self.limits.circuits_per_address}"
            )
        self._count += 1
        circuit = Circuit(self._count, source, address, target)
        self._circuits[circuit.number] = circuit
        self._ends.update((source, target))
        self._addresses[address] += 1
        return circuit

    def close(self, circuit: Circuit) -> None:
        if self._circuits.pop(circuit.number, None) is None:
            return
        self._ends.subtract((circuit.source, circuit.target))
        self._ends += Counter()  # forgets who has none
        self._addresses[circuit.address] -= 1
        self._addresses += Counter()

    def _forget_expired(self, now: float) -> None:
        for peer_id in [peer for peer, held in self._reservations.items() if held.expires_at <= now]:
            del self._reservations[peer_id]


class Meter:
    """How much may still pass, and how fast: one direction of a circuit, or all of them."""

    def __init__(self, limit_bytes: float, bytes_per_s: float, now: float) -> None:
        self.left_bytes = limit_bytes
        self._bytes_per_s = bytes_per_s
        self._due = now

    def take(self, size_bytes: int, now: float) -> float | None:
        """Seconds to wait before this much may pass; None when the circuit may not carry it."""
        if size_bytes > self.left_bytes:
            return None
        self.left_bytes -= size_bytes
        wait_s = max(0.0, self._due - now)
        self._due = max(self._due, now) + size_bytes / self._bytes_per_s
        return wait_s


def _refused(text: str) -> RelayRefusalError:
    return RelayRefusalError(Status.RESERVATION_REFUSED, text)


def _exhausted(text: str) -> RelayRefusalError:
    return RelayRefusalError(Status.RESOURCE_LIMIT_EXCEEDED, text)
