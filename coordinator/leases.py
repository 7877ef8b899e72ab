"""Which leases are alive, by heartbeats. Soft state: after a restart each starts with one full period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from coordinator.job import Job
from p2p.identifiers import JobId, PeerId
from p2p.protocols.coordinator import LeaseRef


@dataclass(frozen=True, slots=True)
class WatchedLease:
    job_id: JobId
    peer_id: PeerId
    ref: LeaseRef
    expires_at: float
    """On the monotonic clock; infinity until the peer has accepted."""


class LeaseBook:
    """``now`` is monotonic: a wall clock that jumps ends no lease."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._leases: dict[JobId, WatchedLease] = {}
        self._by_id: dict[str, JobId] = {}

    def track(self, job: Job, now: float) -> None:
        """Follows the job's present grant; a new one gets a full period."""
        grant = job.live_grant
        known = self._leases.get(job.job_id)
        if known is not None and (grant is None or grant.ref != known.ref):
            self._drop(known)
            known = None
        if grant is None:
            return
        if known is None or (grant.accepted and known.expires_at == float("inf")):
            expires_at = now + self._lease_s if grant.accepted else float("inf")
            lease = WatchedLease(job.job_id, grant.peer_id, grant.ref, expires_at)
            self._leases[job.job_id] = lease
            self._by_id[grant.lease_id] = job.job_id

    def renew(self, peer_id: PeerId, refs: Iterable[LeaseRef], now: float) -> tuple[LeaseRef, ...]:
        """Renews what is the peer's; returns what is over, or never was its own."""
        unknown: list[LeaseRef] = []
        for ref in refs:
            lease = self._leases.get(self._by_id.get(ref.lease_id, JobId("")))
            if lease is None or lease.ref != ref or lease.peer_id != peer_id:
                unknown.append(ref)
            elif lease.expires_at != float("inf"):
                self._leases[lease.job_id] = replace(lease, expires_at=now + self._lease_s)
        return tuple(unknown)

    def job_of(self, ref: LeaseRef) -> JobId | None:
        """The job that the lease is for, if it is alive."""
        job_id = self._by_id.get(ref.lease_id)
        lease = self._leases.get(job_id) if job_id is not None else None
        return lease.job_id if lease is not None and lease.ref == ref else None

    def expired(self, now: float) -> list[WatchedLease]:
        return [lease for lease in self._leases.values() if lease.expires_at <= now]

    def __iter__(self) -> Iterator[WatchedLease]:
        return iter(self._leases.values())

    def _drop(self, lease: WatchedLease) -> None:
        del self._leases[lease.job_id]
        self._by_id.pop(lease.ref.lease_id, None)
