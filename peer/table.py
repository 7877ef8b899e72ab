"""All jobs of this peer: takes offers while a device is free, finds a job by its lease, recovers."""

from __future__ import annotations

from typing import Any

import structlog
import trio

from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.protocols import Done
from p2p.protocols.coordinator import AnswerOffer, LeaseRef, OfferJob, RevokeLease
from peer.admission import check_offer
from peer.devices import DeviceLeases
from peer.errors import DeviceError, OfferRefusedError
from peer.events import (
    LeaseRevoked,
    OfferAccepted,
)
from peer.job import (
    Job,
    LeaseKind,
    new_job,
    recovered,
)
from peer.runner import JobRunner
from peer.services import Services

log = structlog.get_logger(__name__)

KEEP_RETIRED = 64
"""Jobs that are over but whose Engine may still ask for the last word."""


class JobTable:
    """Runs every job in ``nursery``, which must outlive the table's use."""

    def __init__(self, services: Services, nursery: trio.Nursery) -> None:
        self.devices = DeviceLeases(len(services.workers))
        self._services = services
        self._nursery = nursery
        self._runners: dict[str, JobRunner] = {}

    async def recover(self) -> None:
        """Takes up what a killed predecessor left: results to hand over, payments to finish."""
        for stored in await self._services.store.open_jobs():
            job = recovered(stored)
            if not job.accepted:
                continue
            await self._services.store.save_job(job, self._services.now())
            runner = self._start(job)
            runner.is_offer_answered = True
            log.info("job taken up after a restart", job_id=job.job_id, phase=job.phase.value)

    def find(self, lease_id: str) -> JobRunner | None:
        return self._runners.get(lease_id)

    def leases(self) -> tuple[LeaseRef, ...]:
        """Those that heartbeats renew."""
        return tuple(
            runner.job.lease
            for runner in self._runners.values()
            if runner.is_offer_answered and runner.job.holds_lease
        )

    def jobs(self) -> list[Job]:
        return [runner.job for runner in self._runners.values()]

    async def take_offer(self, offer: OfferJob) -> None:
        """Answers the offer; one that is repeated gets the same answer. Raises P2PError on a loss."""
        runner = self._runners.get(offer.lease.lease_id)
        if runner is None:
            try:
                runner = await self._accept(offer)
            except (OfferRefusedError, DeviceError) as refusal:
                log.info("offer refused", job_id=offer.job.job_id, reason=str(refusal))
                await self._answer(AnswerOffer(offer.lease, False, str(refusal)))
                return
        accepted = runner.job.ending is None and runner.job.offer == offer and not runner.job.is_direct
        answer = AnswerOffer(offer.lease, accepted, "" if accepted else "this job is over here")
        # Even where the answer's own answer is lost the coordinator may have taken it.
        try:
            await self._services.link.ask(answer, Done)
        except RemoteFailureError as refusal:
            log.info("answer to offer refused", job_id=offer.job.job_id, reason=str(refusal))
            await runner.feed(LeaseRevoked(str(refusal)))
        finally:
            runner.is_offer_answered = True

    async def revoke(self, lease: LeaseRef, reason: str) -> None:
        """An order of the coordinator, or its not knowing the lease any more."""
        runner = self._runners.get(lease.lease_id)
        if runner is None or runner.job.is_direct or runner.job.lease.fencing > lease.fencing:
            return
        await runner.feed(LeaseRevoked(reason))

    async def take_order(self, order: OfferJob | RevokeLease) -> None:
        """Raises P2PError when the line is lost before the answer."""
        if isinstance(order, OfferJob):
            await self.take_offer(order)
        else:
            await self.revoke(order.lease, order.reason)

    async def take_direct(self, offer: OfferJob) -> None:
        """Begins a job whose lease this peer gave itself. Raises OfferRefusedError, DeviceError."""
        runner = await self._accept(offer, LeaseKind.DIRECT)
        runner.is_offer_answered = True

    async def turn_out(self, engine_id: PeerId) -> None:
        """Ends the direct jobs of an Engine that is not let in any more."""
        for runner in tuple(self._runners.values()):
            if runner.job.is_direct and runner.job.engine_id == engine_id:
                await runner.feed(LeaseRevoked("its Engine is not let in any more"))

    async def _accept(self, offer: OfferJob, kind: LeaseKind = LeaseKind.PAID) -> JobRunner:
        """Holds a device and stores the job before anybody hears of it."""
        terms = self._services.terms
        check_offer(offer, self.devices.count, terms.max_data_bytes, terms.deliveries, terms.serving)
        if any(job.job_id == offer.job.job_id and job.kind is not kind for job in self.jobs()):
            raise OfferRefusedError(f"job id {offer.job.job_id} is in use here by another job")
        self.devices = self.devices.acquire(offer.lease.lease_id, (offer.device,))
        runner = self._start(new_job(offer, kind))
        await runner.feed(OfferAccepted(self._services.now()))
        log.info("job accepted", job_id=offer.job.job_id, engine_id=offer.engine_id, amount=offer.amount)
        return runner

    async def _answer(self, answer: AnswerOffer) -> None:
        try:
            await self._services.link.ask(answer, Done)
        except RemoteFailureError as refusal:
            log.info("answer to offer refused", reason=str(refusal))

    def _start(self, job: Job) -> JobRunner:
        self._forget_retired()
        runner = JobRunner(self._services, job, self._release, self._run)
        self._runners[job.lease.lease_id] = runner
        self._run(runner)
        return runner

    def _run(self, runner: JobRunner) -> None:
        self._nursery.start_soon(runner.run)

    def _release(self, runner: JobRunner) -> None:
        self.devices = self.devices.release(runner.job.lease.lease_id)

    def _forget_retired(self) -> None:
        retired = [lease_id for lease_id, runner in self._runners.items() if runner.job.is_retired]
        for lease_id in retired[: max(0, len(retired) - KEEP_RETIRED)]:
            del self._runners[lease_id]


def describe_job(job: Job) -> dict[str, Any]:
    """For ``status``."""
    return {
        "job_id": job.job_id,
        "lease_id": job.lease.lease_id,
        "engine_id": job.engine_id,
        "kind": job.kind.value,
        "phase": job.phase.value,
        "segments": job.segments,
        "part": job.part_name,
        "done": job.done,
        "vouchered": job.covered,
        "amount": job.offer.amount,
        "earned": 0 if job.voucher is None else job.voucher.earned,
        "result": None if job.result is None else job.result.blake3,
        "ending": None if job.ending is None else job.ending.text,
    }
