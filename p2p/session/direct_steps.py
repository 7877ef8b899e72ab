"""Does one step of an unpaid job: asks peers of the own network for a lease, fetches, checks.

Each step either ends in an event that is on disk, or may be done again.
"""

from __future__ import annotations

from p2p.errors import LOST, ConnectionFailedError, P2PError, RemoteFailureError, TransferError
from p2p.identifiers import PeerId
from p2p.jobs import FileRef
from p2p.protocols.coordinator import Lease
from p2p.protocols.peer import LeaseGranted, RequestLease
from p2p.session import events, plan
from p2p.session.engine_parts import Engine
from p2p.session.errors import JobRefusedError, ModelRefusedError
from p2p.session.job import Checkpoint, Grant, Job
from p2p.session.live import LiveJob
from p2p.session.neighbours import Neighbour, find_neighbour, find_neighbours, request_lease
from p2p.session.served import check_served
from p2p.session.steps import evaluate_part, expected_model, fetch_model, release_old

MAX_SHOWN = 4


class DirectSteps:
    """The steps of one job."""

    def __init__(self, engine: Engine, live: LiveJob) -> None:
        self._engine = engine
        self._live = live

    @property
    def _job(self) -> Job:
        return self._live.job

    async def perform(self, step: plan.Step) -> None:
        """Raises SessionError where the job cannot go on, and what passes."""
        match step:
            case plan.AskPeer():
                await self._ask_peer()
            case plan.ProveSegment(checkpoint):
                await self._keep_segment(checkpoint)
            case plan.ProveResult(result):
                await self._keep_result(result)
            case plan.EvaluatePart():
                await evaluate_part(self._engine, self._live, step)
            case _:
                raise TypeError(f"{type(step).__name__} is no step of an unpaid job")

    # -- a lease -------------------------------------------------------------------------------

    async def _ask_peer(self) -> None:
        """Of the peers that may be asked, the first that has a device free; else a place in their queues."""
        refusals: list[str] = []
        queued: list[tuple[int, PeerId]] = []
        lost = False
        for peer in plan.in_order_of_choice(self._job, await self._candidates()):
            try:
                answer = await request_lease(self._engine, peer, self._request())
            except RemoteFailureError as error:
                refusals.append(f"peer {peer.peer_id}: {error.message}")
            except LOST as error:
                lost = True
                refusals.append(f"peer {peer.peer_id}: {error}")
            else:
                if isinstance(answer, LeaseGranted):
                    await self._granted(peer, answer)
                    return
                queued.append((answer.position, peer.peer_id))
        if queued:
            await self._queued(min(queued))
        if lost and self._job.accepted:
            raise ConnectionFailedError("; ".join(refusals[:MAX_SHOWN]))
        raise JobRefusedError("; ".join(refusals[:MAX_SHOWN]))

    def _request(self) -> RequestLease:
        return RequestLease(self._job.spec, plan.first_segment_left(self._job))

    async def _candidates(self) -> list[Neighbour]:
        """Raises JobRefusedError where there is none, ConnectionFailedError once the job has begun."""
        terms = self._job.direct
        assert terms is not None
        if terms.wanted:
            one = await find_neighbour(self._engine, PeerId(terms.wanted), plan.known_addresses(self._job))
            found = [one] if one is not None else []
            missing = f"peer {terms.wanted} does not answer on this network"
        else:
            found = await find_neighbours(self._engine)
            missing = "no peer answers on this network: start one with `cyxpeer start --lan --allow"
            missing += f" {self._engine.network.peer_id}`"
        if found:
            return found
        if self._job.accepted:
            raise ConnectionFailedError(missing)
        raise JobRefusedError(missing)

    async def _granted(self, peer: Neighbour, answer: LeaseGranted) -> None:
        lease = Lease(
            lease_id=answer.lease.lease_id,
            fencing=answer.lease.fencing,
            peer_id=peer.peer_id,
            device=answer.device,
            amount=0,
            first_segment=plan.first_segment_left(self._job),
            record=peer.signed,
            fund_before=0,
        )
        await self._live.apply(events.LeaseGranted(lease, peer.addresses))

    async def _queued(self, place: tuple[int, PeerId]) -> None:
        """Raises RemoteFailureError: to be asked again in a moment, which keeps the place."""
        position, peer_id = place
        text = f"number {position} in the queue of peer {peer_id}"
        await self._live.apply(events.JobQueued(text))
        raise RemoteFailureError("busy", text)

    # -- what was made -------------------------------------------------------------------------

    async def _keep_segment(self, checkpoint: Checkpoint) -> None:
        """Nothing hangs on a checkpoint: a peer that works on may not have it any more."""
        done, grant = checkpoint.segment + 1, self._grant()
        if grant is None:
            return
        fault = plan.out_of_order(self._job, done)
        if fault is not None:
            await self._live.apply(events.PeerAccused(grant.lease, "protocol", fault))
            return
        try:
            await self._fetch_checked(checkpoint.file, grant, done)
        except TransferError:
            await self._live.apply(events.SegmentMissed(checkpoint))
            return
        except ModelRefusedError as error:
            await self._refuse(checkpoint.file, grant, "corrupt_checkpoint", error)
            return
        if not self._holds(grant):
            return  # the lease ended while the file travelled
        await self._live.apply(events.SegmentKept(grant.lease, checkpoint))
        release_old(self._engine, self._job, done)

    async def _keep_result(self, result: FileRef) -> None:
        grant, segments = self._grant(), self._job.spec.segments
        if grant is None:
            return
        try:
            await self._fetch_checked(result, grant, segments)
        except (TransferError, ModelRefusedError) as error:
            await self._refuse(result, grant, "corrupt_result", error)
            return
        if self._holds(grant):
            await self._live.apply(events.ResultKept(grant.lease, result))

    def _grant(self) -> Grant | None:
        hold = self._job.hold
        return hold if isinstance(hold, Grant) else None

    def _holds(self, grant: Grant) -> bool:
        current = self._grant()
        return current is not None and current.lease == grant.lease

    async def _fetch_checked(self, file: FileRef, grant: Grant, done: int) -> None:
        if self._job.spec.serving is not None:
            await check_served(self._engine, self._live, file, grant.peer_id)
        else:
            path = await fetch_model(self._engine, self._live, file, grant.peer_id, grant.addresses)
            expected = expected_model(self._job, done)
            await self._engine.run_blocking(self._engine.checks.check_model, path, expected)
        self._engine.files.pin(file.blake3, self._job.job_id)

    async def _refuse(self, file: FileRef, grant: Grant, code: str, error: P2PError) -> None:
        self._engine.files.discard(file.blake3)
        await self._live.apply(events.PeerAccused(grant.lease, code, str(error)[:4000]))
