"""The Engine's end of a job stream, for one lease: opens it, listens, tells, and opens it again.

What to tell is ``plan.things_to_tell``. A peer out of reach for too long is accused, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio

from p2p.backoff import Backoff
from p2p.channel import Channel
from p2p.errors import (
    LOST,
    P2PError,
    RemoteFailureError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
)
from p2p.grants import sign_grant
from p2p.identifiers import PeerId
from p2p.jobs import FileRef
from p2p.protocols import Failure
from p2p.protocols.coordinator import AccessToken, Lease
from p2p.protocols.job import (
    FROM_ENGINE,
    FROM_PEER,
    LIMITS,
    PROTOCOL_ID,
    Acknowledge,
    FromEngine,
    FromPeer,
    JobClosed,
    JobFailed,
    JobOpened,
    JobProgress,
    JobStage,
    OpenJob,
    RefreshToken,
    ResultReady,
    SegmentFinished,
)
from p2p.protocols.transfer import FileGrant, FileSource
from p2p.session import events, plan
from p2p.session.engine_parts import Engine
from p2p.session.errors import JobRefusedError
from p2p.session.inference import reach_again
from p2p.session.job import Checkpoint, Escrow, Grant, lease_ref
from p2p.session.live import LiveJob
from p2p.session.news import News, NewsKind
from p2p.session.plan import Told, holders_of_data, things_to_tell
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 15.0
ACKNOWLEDGE_EVERY = 32
"""Progress messages; well below the peer's credit."""
REFRESH_BEFORE_S = 120.0
TOKEN_PAUSE_S = 5.0
SCOPE = "job"
NO_TOKEN = AccessToken("", 0.0)
"""Of a direct job, whose right is the connection's identity."""
GRANT_S = 900.0
"""How long a peer has to fetch the job's files from another one."""
MAX_SOURCES = 3


class PeerTalk:
    """``run`` it for as long as the lease holds; cancel it when that is over."""

    def __init__(self, engine: Engine, live: LiveJob, lease: Lease, hold: Escrow | Grant) -> None:
        self._engine = engine
        self._live = live
        self._lease = lease
        self._hold = hold
        self._peer_id = PeerId(lease.peer_id)
        self._is_direct = isinstance(hold, Grant)
        self._closed = False
        self._heard_at = trio.current_time()
        self._heard = live.job.messages
        """Newest number received, durable or not."""

    async def run(self) -> None:
        """Returns after the peer's last word, or once it is accused."""
        self._engine.coordinator.forget_token(self._live.job.job_id, SCOPE)
        backoff = Backoff(self._engine.draw)
        while not self._closed:
            tried_at = trio.current_time()
            reason = await self._try_once()
            if self._closed:
                return
            if self._heard_at >= tried_at:
                backoff.reset()
            if await self._give_up(reason):
                return
            log.info("job stream lost", job_id=self._live.job.job_id, reason=str(reason))
            await trio.sleep(backoff.pause_s())

    async def _try_once(self) -> P2PError:
        try:
            await self._converse()
        except (*LOST, RemoteProtocolError) as error:
            return error
        except RemoteFailureError as error:
            if error.code == "unauthorized":
                self._engine.coordinator.forget_token(self._live.job.job_id, SCOPE)
            if error.code == "invalid" and self._heard > 0:
                await self._recount()
            return error
        return StreamClosedError("the peer ended the job stream")

    async def _recount(self) -> None:
        self._heard = 0
        await self._live.apply(events.CountRestarted(self._hold.lease))

    async def _give_up(self, reason: P2PError) -> bool:
        silent_s = trio.current_time() - self._heard_at
        broken = isinstance(reason, RemoteProtocolError)
        if self._is_direct and isinstance(reason, RemoteFailureError):
            return await self._refused(reason)
        patient = plan.is_patient(self._live.job) or silent_s < self._engine.limits.peer_patience_s
        if not broken and patient:
            return False
        code = "protocol" if broken else "unreachable"
        text = f"{reason}" if broken else f"out of reach for {silent_s:.0f} s: {reason}"
        await self._live.apply(events.PeerAccused(lease_ref(self._lease), code, text[:4000]))
        return True

    async def _refused(self, reason: RemoteFailureError) -> bool:
        """By the peer that gave the lease itself: it holds no more, or this Engine is not let in any more."""
        if reason.code == "unauthorized":
            raise JobRefusedError(f"peer {self._peer_id}: {reason.message}")
        if reason.code not in ("not_found", "conflict"):
            return False
        await self._live.apply(events.PeerAccused(lease_ref(self._lease), "lost", reason.message[:4000]))
        return True

    async def _converse(self) -> None:
        """One stream, from its opening to its loss."""
        engine, job = self._engine, self._live.job
        token = NO_TOKEN if self._is_direct else await engine.coordinator.token(job.job_id, SCOPE)
        await reach_again(engine, self._peer_id, job)
        stream = await engine.network.open_stream(self._peer_id, PROTOCOL_ID)
        channel: Channel[FromEngine, FromPeer] = Channel(stream, FROM_ENGINE, FROM_PEER, LIMITS)
        try:
            await self._open(channel, token.token)
            async with background_tasks() as nursery:
                ended = _Ended(nursery.cancel_scope)
                nursery.start_soon(ended.guard, _while_heard, self._tell, channel)
                if not self._is_direct:
                    nursery.start_soon(ended.guard, _while_heard, self._refresh, channel, token.expires_at)
                await ended.guard(self._listen, channel)
            # It was there until now, however long it had nothing to say.
            self._heard_at = trio.current_time()
            if ended.reason is not None:
                raise ended.reason
        finally:
            with trio.CancelScope(shield=True):
                await channel.reset()

    async def _open(self, channel: Channel[FromEngine, FromPeer], token: str) -> None:
        job, first = self._live.job, self._hold.first_segment
        start = job.begins_from(first)
        call = OpenJob(
            token=token,
            job=job.spec,
            lease=self._hold.lease,
            first_segment=first,
            checkpoint=start,
            after=self._heard,
            sources=await self._sources(start),
        )
        await channel.send(call, await self._engine.store.graph(job.job_id))
        answer, _ = await channel.receive(ANSWER_TIMEOUT_S)
        if isinstance(answer, Failure):
            raise RemoteFailureError(answer.code, answer.message)
        if not isinstance(answer, JobOpened):
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to OpenJob")
        if answer.latest < self._heard:
            await self._recount()
        self._heard_at = trio.current_time()

    async def _sources(self, checkpoint: FileRef | None) -> tuple[FileSource, ...]:
        """Earlier peers that should have the job's files, each with our word for the one of this lease."""
        engine, job = self._engine, self._live.job
        holders = holders_of_data(await engine.store.jobs(), job, MAX_SOURCES)
        if not holders:
            return ()
        files = (job.spec.data.file, *([checkpoint] if checkpoint is not None else ()))
        grant = FileGrant(
            issuer=engine.network.peer_id,
            subject=self._peer_id,
            manifests=tuple(file.manifest for file in files),
            expires_at=engine.now() + GRANT_S,
        )
        signed = sign_grant(grant, engine.network.sign)
        return tuple(FileSource(holder.peer_id, holder.addresses, signed) for holder in holders)

    async def _tell(self, channel: Channel[FromEngine, FromPeer]) -> None:
        told = Told()
        while True:
            change = self._live.change()
            job = self._live.job
            if job.hold is not None and job.hold.lease == self._hold.lease:
                messages, told = things_to_tell(job, told)
                for message in messages:
                    await channel.send(message)
                if messages:
                    self._live.told = told
                    self._live.touch()
            await change.wait()

    async def _refresh(self, channel: Channel[FromEngine, FromPeer], expires_at: float) -> None:
        while True:
            left_s = expires_at - self._engine.now()
            await trio.sleep(max(left_s - REFRESH_BEFORE_S, left_s / 2, 1.0))
            try:
                token = await self._engine.coordinator.token(self._live.job.job_id, SCOPE)
            except (*LOST, RemoteFailureError) as error:
                # An expired token ends nothing that runs; the next stream needs a new one.
                log.info("no new token", job_id=self._live.job.job_id, reason=str(error))
                await trio.sleep(TOKEN_PAUSE_S)
                continue
            expires_at = token.expires_at
            await channel.send(RefreshToken(token.token))

    async def _listen(self, channel: Channel[FromEngine, FromPeer]) -> None:
        acknowledged = self._heard
        while True:
            # No deadline: a peer that waits or is paused says nothing, and the host notices a dead one.
            message, _ = await channel.receive()
            landmark = await self._hear(message)
            self._heard_at = trio.current_time()
            if landmark or self._heard - acknowledged >= ACKNOWLEDGE_EVERY:
                acknowledged = self._heard
                with suppress(StreamResetError):  # as in ``_while_heard``
                    await channel.send(Acknowledge(acknowledged))
            if self._closed:
                return

    async def _hear(self, message: FromPeer) -> bool:
        """True for what is durable now and may be acknowledged at once."""
        lease, live = self._hold.lease, self._live
        match message:
            case Failure(code, text):
                raise RemoteFailureError(code, text)
            case JobOpened():
                raise RemoteProtocolError("peer opened the job twice")
            case JobProgress(metrics=metrics):
                text = f"step {metrics.step} of {metrics.total_steps}: loss {metrics.loss:.4f}"
                live.mention(News(NewsKind.PROGRESS, text, metrics=metrics))
            case JobStage(stage=stage, text=text):
                await live.tell(News(NewsKind.STAGE, f"{stage}: {text}" if text else stage))
            case SegmentFinished(sequence, segment, file, metrics):
                await live.apply(events.SegmentAnnounced(lease, sequence, Checkpoint(segment, file), metrics))
            case ResultReady(sequence, result, metrics):
                await live.apply(events.ResultAnnounced(lease, sequence, result, metrics))
            case JobFailed(sequence, code, text, retryable):
                said = f"the peer failed: {code}: {text}"
                await live.apply(events.PeerSaid(lease, sequence, said, retryable))
                self._closed = True
            case JobClosed(sequence, text):
                await live.apply(events.PeerSaid(lease, sequence, f"the peer closed the job: {text}"))
                self._closed = True
        self._heard = max(self._heard, message.sequence)
        return not isinstance(message, JobProgress)


async def _while_heard(task: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Where the peer hears no more, its last words are still to be read: ``_listen`` ends with them."""
    with suppress(StreamResetError):
        await task(*arguments)
    await trio.sleep_forever()


class _Ended:
    """The first of a conversation's tasks to end ends them all; its error is kept."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.reason: P2PError | None = None
        self._scope = scope

    async def guard(self, task: object, *arguments: object) -> None:
        try:
            await task(*arguments)  # type: ignore[operator]
        except P2PError as error:
            self.reason = self.reason or error
        self._scope.cancel()
