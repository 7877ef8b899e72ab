"""/cyxwiz/peer/1 on the peer: says what it has, and gives leases to Engines that its owner lets in.

A lease that is given here is direct: nobody pays, no coordinator hears of it, and it holds for the
identity that asked alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import structlog
import trio

from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.jobs import JobSpec, Requirements
from p2p.protocols.coordinator import LeaseRef, OfferJob, PeerRecord
from p2p.protocols.peer import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    DescribePeer,
    LeaseGranted,
    LeaseQueued,
    PeerAnswer,
    PeerCall,
    PeerDescription,
    RequestLease,
)
from p2p.records import sign_record
from p2p.router import serve_calls
from peer.admission import check_offer
from peer.devices import OfferedDevice
from peer.errors import DeviceError, OfferRefusedError
from peer.events import LeaseRevoked
from peer.job import LeaseKind
from peer.queue import LeaseQueue
from peer.services import Services
from peer.table import JobTable

log = structlog.get_logger(__name__)

MAX_HELD_OF_ENGINE = 32
"""Direct jobs of one Engine, whose results included that it has not fetched."""


class DirectLeases:
    """Answers calls; ``record`` makes this peer's record as it is now."""

    def __init__(
        self,
        services: Services,
        table: JobTable,
        devices: tuple[OfferedDevice, ...],
        record: Callable[[], PeerRecord],
    ) -> None:
        self._services = services
        self._table = table
        self._devices = devices
        self._record = record
        self._queue = LeaseQueue()
        self._granting = trio.Lock()

    def serve(self) -> None:
        serve_calls(self._services.network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, self.answer)

    async def answer(self, caller: PeerId, call: PeerCall, body: bytes) -> PeerAnswer:
        match call:
            case DescribePeer():
                return self._describe(caller)
            case RequestLease():
                self._services.access.check_allowed(caller)
                async with self._granting:
                    return await self._lease(caller, call)

    def _describe(self, caller: PeerId) -> PeerDescription:
        devices = self._table.devices
        return PeerDescription(
            record=sign_record(self._record(), self._services.network.sign),
            allowed=self._services.access.allowed.has(caller),
            free=devices.count - devices.running,
            waiting=len(self._queue.alive(self._services.now())),
        )

    async def _lease(self, engine_id: PeerId, call: RequestLease) -> LeaseGranted | LeaseQueued:
        try:
            return await self._grant_or_queue(engine_id, call)
        except OfferRefusedError as refusal:
            log.info("direct lease refused", engine_id=engine_id, reason=str(refusal))
            raise RemoteFailureError("refused", str(refusal)) from refusal
        except DeviceError:  # a paid job was quicker
            self._queue, position = self._queue.ask(engine_id, call.job.job_id, self._services.now())
            return LeaseQueued(position + 1)

    async def _grant_or_queue(self, engine_id: PeerId, call: RequestLease) -> LeaseGranted | LeaseQueued:
        job_id = call.job.job_id
        suitable = _suitable(self._devices, call.job.requirements)
        offer = OfferJob(LeaseRef("none", 0), call.job, engine_id, suitable[0], 0, call.first_segment)
        terms = self._services.terms
        check_offer(offer, self._table.devices.count, terms.max_data_bytes, terms.deliveries, terms.serving)
        await self._check_ownership(engine_id, job_id)
        await self._end_earlier(engine_id, job_id)
        if self._is_early(engine_id, call.job):
            return LeaseQueued(1)  # without a place in the queue: it would keep others from what is free
        self._queue, position = self._queue.ask(engine_id, job_id, self._services.now())
        free = next((device for device in suitable if device not in self._table.devices.holders), None)
        if position > 0 or free is None:
            return LeaseQueued(position + 1)
        lease = LeaseRef(secrets.token_hex(16), await self._services.store.next_fencing())
        await self._services.store.remember_direct(job_id, engine_id)
        await self._table.take_direct(OfferJob(lease, call.job, engine_id, free, 0, call.first_segment))
        self._queue = self._queue.leave(job_id)
        return LeaseGranted(lease, free)

    async def _check_ownership(self, engine_id: PeerId, job_id: str) -> None:
        """A job id that another Engine uses, or a paid job, gives nobody a way to its files or model."""
        if not await self._services.store.may_be_direct(job_id, engine_id):
            raise RemoteFailureError("conflict", f"job id {job_id} is in use here by another job")
        held = [job for job in self._table.jobs() if _is_held(engine_id, job.engine_id, job.kind, job.ending)]
        if len(held) >= MAX_HELD_OF_ENGINE and not any(job.job_id == job_id for job in held):
            raise OfferRefusedError(
                f"{len(held)} jobs of this Engine are here, limit {MAX_HELD_OF_ENGINE}: fetch or cancel some"
            )

    def _is_early(self, engine_id: PeerId, spec: JobSpec) -> bool:
        """What it continues is still served: on another device or share it would add no time."""
        before = None if spec.serving is None else spec.serving.continues
        return any(
            job.job_id == before and _is_held(engine_id, job.engine_id, job.kind, job.ending)
            for job in self._table.jobs()
        )

    async def _end_earlier(self, engine_id: PeerId, job_id: str) -> None:
        for job in self._table.jobs():
            if job.job_id == job_id and _is_held(engine_id, job.engine_id, job.kind, job.ending):
                runner = self._table.find(job.lease.lease_id)
                if runner is not None:
                    await runner.feed(LeaseRevoked("its Engine asked for a new lease"))


def _is_held(engine_id: PeerId, owner: PeerId, kind: LeaseKind, ending: object) -> bool:
    return kind is LeaseKind.DIRECT and owner == engine_id and ending is None


def _suitable(devices: tuple[OfferedDevice, ...], needs: Requirements) -> list[int]:
    """Positions of the devices that would do. Raises OfferRefusedError where none would."""
    found = [
        number
        for number, device in enumerate(devices)
        if needs.device in (None, device.kind) and device.memory_bytes >= needs.memory_bytes
    ]
    if not found:
        offered = ", ".join(f"{device.kind.value} with {device.memory_bytes} bytes" for device in devices)
        kind = needs.device.value if needs.device is not None else "any device"
        raise OfferRefusedError(f"needs {kind} with {needs.memory_bytes} bytes, offered: {offered}")
    return found
