"""Jobs, peers and records that the coordinator's tests start from."""

from __future__ import annotations

from functools import cache
from typing import Any

from coordinator.job import Cost, Job, JobSubmitted, OfferAccepted, OfferMade
from coordinator.matcher import Candidate
from coordinator.payments import Payment
from coordinator.registry import PeerEntry, Registry
from coordinator.reputation import Standing
from coordinator.state import transition
from p2p.chain.wallet import Wallet
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import DataSummary, DeviceKind, FileRef, JobMetrics, JobSpec, Requirements
from p2p.protocols.coordinator import Device, LeaseRef, PeerRecord, SignedRecord
from p2p.records import sign_record

NOW = 1_800_000_000.0
USER = Wallet.from_seed(b"u" * 32)
NODE = Wallet.from_seed(b"n" * 32)
ESCROW = Wallet.from_seed(b"e" * 32).address
RESULT = FileRef("d" * 64, "e" * 64, 1234)
METRICS = JobMetrics(10, 10, 1, 0.1, test_accuracy=0.99)


class Make:
    """Builders with one default for everything."""

    now = NOW
    user = USER
    node = NODE
    escrow = ESCROW
    result = RESULT
    metrics = METRICS
    cost = Cost(1000, 10**12, 10**6)

    @staticmethod
    @cache
    def identity(name: str) -> Identity:
        return Identity.from_seed(name.encode().ljust(32, b"."))

    def spec(self, number: int = 1, **changes: Any) -> JobSpec:
        data = DataSummary(FileRef("a" * 64, "b" * 64, 1000), 100, (1, 8, 8), "float32", 10)
        fields: dict[str, Any] = {
            "job_id": f"{number:064x}",
            "graph_hash": "c" * 64,
            "data": data,
            "budget": 10**12,
            "user_wallet": USER.address,
            "segments": 4,
            "requirements": Requirements(),
        }
        return JobSpec(**{**fields, **changes})

    def record(self, name: str = "peer", **changes: Any) -> PeerRecord:
        fields: dict[str, Any] = {
            "peer_id": self.identity(name).peer_id,
            "sequence": int(NOW * 1000),
            "expires_at": NOW + 3600,
            "addresses": (),
            "devices": (Device(DeviceKind.CPU, "cpu", 8 << 30, 10**9),),
            "ram_bytes": 16 << 30,
            "formats": ("cyxmodel",),
            "price_per_hour": 10**9,
            "node_wallet": NODE.address,
            "payout_wallet": NODE.address,
            "version": "1",
        }
        return PeerRecord(**{**fields, **changes})

    def signed(self, name: str = "peer", **changes: Any) -> SignedRecord:
        return sign_record(self.record(name, **changes), self.identity(name).sign)

    def entry(self, name: str = "peer", at: float = NOW, **changes: Any) -> PeerEntry:
        peer_id = self.identity(name).peer_id
        return Registry(60).register(peer_id, self.signed(name, **changes), at)

    def candidate(self, name: str = "peer", **changes: Any) -> Candidate:
        entry = self.entry(name, **changes)
        return Candidate(entry, Standing(entry.peer_id), True)

    def submitted(self, number: int = 1, **changes: Any) -> Job:
        event = JobSubmitted(NOW, PeerId("engine"), self.spec(number, **changes), self.cost)
        return transition(None, event)[0]

    def offer(self, name: str = "peer", **changes: Any) -> OfferMade:
        fields: dict[str, Any] = {
            "at": NOW,
            "lease_id": "lease-1",
            "peer_id": self.identity(name).peer_id,
            "device": 0,
            "amount": 1000,
            "first_segment": 0,
            "record": self.signed(name),
            "node_wallet": NODE.address,
            "payout_wallet": NODE.address,
            "answer_before": NOW + 5,
        }
        return OfferMade(**{**fields, **changes})

    def awaiting_funds(self, **changes: Any) -> Job:
        job, _ = transition(self.submitted(), self.offer(**changes))
        assert job.grant is not None
        return transition(job, OfferAccepted(NOW, job.grant.ref, NOW + 60))[0]

    def lease(self, job: Job) -> LeaseRef:
        assert job.grant is not None
        return job.grant.ref

    def payment(self, job: Job | None = None, **changes: Any) -> Payment:
        fields: dict[str, Any] = {
            "escrow": ESCROW,
            "fencing": 1,
            "peer_id": self.identity("peer").peer_id,
            "node_wallet": NODE.address,
            "amount": 1000,
            "claim_window_s": 60,
            "deadline": int(NOW) + 10**6,
        }
        return Payment(**{**fields, **changes})
