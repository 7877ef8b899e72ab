"""What a running Engine answers to commands of the same data directory. JSON-like in and out.

The commands of a program call this too when no Engine runs yet and they open one themselves, so
both ways do the same. Paths are absolute: the caller may stand elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from p2p.errors import P2PError, RecordRefusedError, RemoteFailureError
from p2p.identifiers import PeerId
from p2p.jobs import DataPart, Delivery, JobMetrics, JobState, Requirements
from p2p.protocols.coordinator import (
    ExplainJob,
    Explanation,
    FindPeers,
    PeerRecord,
    Peers,
    PeerSummary,
)
from p2p.records import open_record
from p2p.session.arrays import predict_deployed, predict_file
from p2p.session.chat import ChatOptions, Chatted
from p2p.session.deployments import DeploymentOrder
from p2p.session.engine import DEFAULT_PRIVATE, DEFAULT_SEGMENTS, JobEngine
from p2p.session.errors import JobUnknownError, SessionError
from p2p.session.job import Job
from p2p.session.neighbours import Neighbour
from p2p.session.news import NewsKind


class Control:
    """The handler of a control socket; each method is an async generator of answers."""

    def __init__(self, engine: JobEngine) -> None:
        self._engine = engine
        self._methods: dict[str, Callable[..., AsyncGenerator[Any]]] = {
            "jobs": self._jobs,
            "peers": self._peers,
            "estimate": self._estimate,
            "explain": self._explain,
            "submit": self._submit,
            "follow": self._follow,
            "pause": self._pause,
            "resume": self._resume,
            "set_rate": self._set_rate,
            "cancel": self._cancel,
            "fetch": self._fetch,
            "infer": self._infer,
            "deploy": self._deploy,
            "extend": self._extend,
            "deployments": self._deployments,
            "deployment_status": self._deployment_status,
            "predict": self._predict,
            "chat": self._chat,
        }

    async def __call__(self, method: str, parameters: dict[str, Any]) -> AsyncGenerator[Any]:
        """Raises RemoteFailureError, so that it reaches the other side of a socket as itself."""
        known = self._methods.get(method)
        if known is None:
            raise RemoteFailureError("invalid", f"no method {method!r}")
        return self._named(known(**parameters))

    async def _named(self, answers: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except RemoteFailureError:
            raise
        except (P2PError, OSError) as error:
            raise RemoteFailureError(_code(error), str(error)) from error

    async def _jobs(self) -> AsyncGenerator[Any]:
        yield [summary(job) for job in self._engine.jobs()]

    async def _estimate(self, graph: str, data: str, segments: int = DEFAULT_SEGMENTS) -> AsyncGenerator[Any]:
        document = Path(graph).read_bytes()  # noqa: ASYNC240 - a small local file
        prepared, answer = await self._engine.estimate(document, Path(data), segments=segments)
        fields: dict[str, Any] = msgspec.to_builtins(answer)
        yield {**fields, "name": prepared.name, "samples": prepared.samples}

    async def _submit(
        self,
        graph: str,
        data: str,
        budget: int = 0,
        segments: int = DEFAULT_SEGMENTS,
        peer: str | None = None,
        stream: bool = False,
        private: Sequence[str] = DEFAULT_PRIVATE,
        start: str | None = None,
        start_partly: bool = False,
    ) -> AsyncGenerator[Any]:
        job_id = await self._engine.submit(
            Path(graph),
            Path(data),
            budget,
            segments=segments,
            peer=peer,
            delivery=Delivery.STREAM if stream else Delivery.FILE,
            private=tuple(map(DataPart, private)),
            start=Path(start) if start is not None else None,
            start_partly=start_partly,
        )
        yield summary(self._engine.job(job_id))

    async def _peers(self, lan: bool = False) -> AsyncGenerator[Any]:
        """Of the own network, or those that the coordinator knows."""
        if lan:
            yield [neighbour_summary(peer) for peer in await self._engine.neighbours()]
            return
        parts = self._engine.engine
        answer = await parts.coordinator.ask(FindPeers(Requirements()), Peers)
        yield [registered_summary(peer, parts.now()) for peer in answer.peers]

    async def _explain(self, job: str) -> AsyncGenerator[Any]:
        """In the coordinator's words: why this peer, or why none yet, and why not the others."""
        found = self._engine.job(job)
        if found.direct is not None:
            yield {"lines": ["no coordinator: the job went to the peer that was asked"], "rejected": []}
            return
        call = ExplainJob(found.job_id)
        yield msgspec.to_builtins(await self._engine.engine.coordinator.ask(call, Explanation))

    async def _follow(self, job: str, after: int = 0, until_training: bool = False) -> AsyncGenerator[Any]:
        """The story, then the job's summary. ``until_training`` ends it at the first trained batch."""
        async for news in self._engine.follow(job, after):
            yield news.to_json()
            trained = (NewsKind.PROGRESS, NewsKind.CHECKPOINT, NewsKind.RESULT)
            if until_training and news.kind in trained:
                break
        yield summary(self._engine.job(job))

    async def _pause(self, job: str) -> AsyncGenerator[Any]:
        yield summary(await self._engine.pause(job))

    async def _resume(self, job: str) -> AsyncGenerator[Any]:
        yield summary(await self._engine.resume(job))

    async def _set_rate(self, job: str, rate: float) -> AsyncGenerator[Any]:
        yield summary(await self._engine.set_rate(job, float(rate)))

    async def _cancel(self, job: str) -> AsyncGenerator[Any]:
        yield summary(await self._engine.cancel(job))

    async def _fetch(self, job: str, target: str | None = None) -> AsyncGenerator[Any]:
        path = await self._engine.fetch(job, Path(target) if target else None)
        yield {**summary(self._engine.job(job)), "path": str(path)}

    async def _infer(self, peer: str, model: str, source: str, target: str) -> AsyncGenerator[Any]:
        yield await predict_file(self._engine, peer, model, Path(source), Path(target))

    async def _deploy(
        self,
        model: str,
        name: str,
        tokenizer: str | None = None,
        budget: int = 0,
        peer: str | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        **order: Any,
    ) -> AsyncGenerator[Any]:
        """``allow`` and ``deny``: of peers that the coordinator knows; ``peer``: of the own network."""
        wanted = DeploymentOrder(Path(model), name, Path(tokenizer) if tokenizer else None, **order)
        needs = Requirements(allow=tuple(map(PeerId, allow)), deny=tuple(map(PeerId, deny)))
        job_id = await self._engine.deploy(wanted, budget, requirements=needs, peer=peer)
        yield summary(self._engine.job(job_id))

    async def _extend(self, deployment: str, periods: int, budget: int = 0) -> AsyncGenerator[Any]:
        yield summary(self._engine.job(await self._engine.extend(deployment, periods, budget)))

    async def _deployments(self) -> AsyncGenerator[Any]:
        yield msgspec.to_builtins(self._engine.deployments())

    async def _deployment_status(self, deployment: str) -> AsyncGenerator[Any]:
        """``ask_with``: what a call needs besides."""
        job, found = await self._engine.deployment_status(deployment)
        (known,) = [each for each in self._engine.deployments() if each.id == job.job_id]
        yield {
            **msgspec.to_builtins(found),
            "peer_id": job.peer_id,
            "moved": known.moved,
            "ask_with": f"--peer {job.peer_id}" if known.moved else "",
            "proof": known.proof,
        }

    async def _predict(
        self, deployment: str, source: str, target: str, peer: str | None = None
    ) -> AsyncGenerator[Any]:
        model = self._engine.deployment(deployment, peer)
        yield await predict_deployed(model, Path(source), Path(target))

    async def _chat(
        self,
        deployment: str,
        messages: list[dict[str, str]],
        peer: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> AsyncGenerator[Any]:
        """Pieces of text as they come, then what is known of the whole."""
        options = ChatOptions(max_tokens=max_tokens, temperature=temperature, seed=seed)
        ends: list[Chatted] = []
        answer = self._engine.deployment(deployment, peer).chat(messages, options, ends.append)
        async with aclosing(answer):
            async for piece in answer:
                yield {"kind": "piece", "text": piece}
        (end,) = ends
        yield {
            "finish_reason": end.finish_reason,
            "prompt_tokens": end.prompt_tokens,
            "tokens": end.tokens,
        }


def summary(job: Job) -> dict[str, Any]:
    """One job for a listing, a table or a program. Amounts are units."""
    escrows = [
        {
            "address": escrow.address,
            "peer_id": escrow.peer_id,
            "amount": escrow.amount,
            "earned": escrow.earned,
            "create_signature": escrow.signature,
        }
        for escrow in job.escrows
        if not escrow.dropped
    ]
    return {
        "job_id": job.job_id,
        "name": job.name,
        "state": job.state.value,
        "unpaid": job.direct is not None,
        "text": job.text,
        "created_at": job.created_at,
        "budget": job.spec.budget,
        "segments": job.spec.segments,
        "segments_done": job.spec.segments if job.result else job.segments_done,
        "peer_id": job.peer_id,
        "paused": job.paused,
        "learning_rate": job.learning_rate,
        "dataset": msgspec.to_builtins(job.spec.data.file),
        "checkpoint_bytes": sum(checkpoint.file.size for checkpoint in job.checkpoints),
        "result": msgspec.to_builtins(job.result) if job.result else None,
        "metrics": msgspec.to_builtins(_metrics(job)) if job.metrics else None,
        "delivery": job.spec.data.delivery.value,
        "evaluated_by_owner": {
            part.value: {"samples": found.samples, "loss": found.loss, "accuracy": found.accuracy}
            for part, found in job.owner_metrics.items()
        },
        "escrows": escrows,
        "settle_signature": job.settlement if job.state is JobState.SETTLED else None,
        "serving": msgspec.to_builtins(job.spec.serving) if job.spec.serving is not None else None,
    }


def neighbour_summary(peer: Neighbour) -> dict[str, Any]:
    """One peer of the own network for a listing."""
    return {
        **_record_summary(peer.record),
        "addresses": list(peer.addresses),
        "allowed": peer.allowed,
        "free": peer.free,
        "waiting": peer.waiting,
    }


def registered_summary(peer: PeerSummary, now: float) -> dict[str, Any]:
    """One peer of the coordinator's registry; what its record says only where it holds."""
    known = {
        "peer_id": peer.peer_id,
        "reputation": peer.reputation,
        "tier": peer.tier,
        "online": peer.online,
    }
    try:
        record = open_record(peer.record, now, PeerId(peer.peer_id))
    except RecordRefusedError as error:
        return {**known, "refused": str(error)}
    free = max(0, len(record.devices) - peer.running)
    return {**known, **_record_summary(record), "price_per_hour": record.price_per_hour, "free": free}


def _record_summary(record: PeerRecord) -> dict[str, Any]:
    return {
        "peer_id": record.peer_id,
        "addresses": list(record.addresses),
        "devices": msgspec.to_builtins(record.devices),
        "ram_bytes": record.ram_bytes,
        "formats": list(record.formats),
        "version": record.version,
    }


def _metrics(job: Job) -> JobMetrics | None:
    """The peer's newest, completed by what only the owner of the data could measure."""
    metrics, own = job.metrics, job.owner_metrics
    if metrics is None:
        return None
    if (test := own.get(DataPart.TEST)) is not None:
        metrics = replace(metrics, test_accuracy=test.accuracy)
    if (validation := own.get(DataPart.VALIDATION)) is not None:
        metrics = replace(metrics, validation_loss=validation.loss, validation_accuracy=validation.accuracy)
    return metrics


def _code(error: Exception) -> str:
    match error:
        case JobUnknownError():
            return "not_found"
        case SessionError():
            return "refused"
        case _:
            return "internal"
