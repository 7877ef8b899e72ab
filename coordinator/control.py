"""What the coordinator's own commands ask of a running one, over the control socket of its data directory.

For whoever runs the coordinator: sees every user's jobs, never a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from coordinator import engine_calls
from coordinator.chain_process import ChainProcess
from coordinator.job import Job
from coordinator.payments import Payment
from coordinator.services import Services
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.network import Network
from p2p.relay.service import RelayService

MAX_LISTED = 10_000
METHODS = ("status", "jobs", "peers", "explain", "payments", "metrics", "revoke")


def control_handler(
    services: Services, network: Network, chain: ChainProcess | None, relay: RelayService | None
) -> Callable[[str, dict[str, Any]], Any]:
    """The handler for ``p2p.control.serve_control``."""
    views: dict[str, Any] = {
        "status": lambda _: _status(services, network, chain, relay),
        "jobs": lambda asked: _jobs(services, asked),
        "peers": lambda _: _peers(services),
        "explain": lambda asked: _explain(services, asked),
        "payments": lambda asked: _payments(services, asked),
        "metrics": lambda asked: _metrics(services, asked),
        "revoke": lambda asked: _revoke(services, asked),
    }

    async def answer(method: str, parameters: dict[str, Any]) -> Any:
        view = views.get(method)
        if view is None:
            raise RemoteFailureError("invalid", f"method {method!r}, allowed {', '.join(METHODS)}")
        return await view(parameters)

    return answer


async def _status(
    services: Services, network: Network, chain: ChainProcess | None, relay: RelayService | None
) -> dict[str, Any]:
    jobs = list(services.ledger.jobs.values())
    candidates = services.matching.candidates()
    states: dict[str, int] = {}
    for job in jobs:
        states[job.state.value] = states.get(job.state.value, 0) + 1
    return {
        "peer_id": network.peer_id,
        "addresses": list(network.addresses()),
        "rpc_url": services.chain_info.rpc_url,
        "chain": "embedded" if chain is not None else "external",
        "chain_pid": chain.pid if chain is not None else None,
        "chain_restarts": chain.restarts if chain is not None else 0,
        "arbiter": services.chain_info.arbiter,
        "platform_account": services.chain_info.platform_account,
        "peers_online": sum(candidate.online for candidate in candidates),
        "peers": len(candidates),
        "open_jobs": states,
        "relay": None if relay is None else relay.status(),
        "now": services.now(),
    }


async def _jobs(services: Services, asked: dict[str, Any]) -> list[dict[str, Any]]:
    limit = _limit(asked)
    store = services.ledger.store
    return [_job_view(job) for job in await store.read(store.database.jobs, None, limit)]


def _job_view(job: Job) -> dict[str, Any]:
    summary: dict[str, Any] = msgspec.to_builtins(engine_calls.summary(job))
    metrics = None if job.metrics is None else msgspec.structs.asdict(job.metrics)
    return {
        **summary,
        "segments": job.spec.segments,
        "segments_done": job.segments_done,
        "retries": job.retries,
        "fencing": job.fencing,
        "amount": job.grant.amount if job.grant is not None else None,
        "metrics": metrics,
        "result": None if job.result is None else job.result.blake3,
    }


async def _peers(services: Services) -> list[dict[str, Any]]:
    now = services.now()
    views = []
    candidates = {candidate.peer_id: candidate for candidate in services.matching.candidates()}
    for summary in engine_calls.peer_summaries(candidates.values(), now):
        entry = candidates[summary.peer_id].entry  # type: ignore[index]
        standing = services.ledger.standing(entry.peer_id)
        views.append(
            {
                "peer_id": summary.peer_id,
                "online": summary.online,
                "reputation": round(summary.reputation, 4),
                "tier": summary.tier,
                "running": summary.running,
                "slots": entry.slots,
                "completed": standing.completed,
                "strikes": standing.strikes,
                "banned_until": summary.banned_until,
                "price_per_hour": entry.record.price_per_hour,
                "devices": [
                    {"kind": device.kind.value, "name": device.name, "flops_per_s": device.flops_per_s}
                    for device in entry.record.devices
                ],
                "addresses": list(entry.record.addresses),
                "uptime": round(entry.uptime(now), 3),
                "answer_s": entry.answer_s,
            }
        )
    return views


async def _explain(services: Services, asked: dict[str, Any]) -> dict[str, Any]:
    job = await _find(services, asked)
    told = engine_calls.explanation(job, *await services.matching.explain(job))
    return {
        "job": _job_view(job),
        "lines": list(told.lines),
        "rejected": [{"peer_id": entry.peer_id, "reason": entry.reason} for entry in told.rejected],
        "payments": [_payment_view(job, payment) for payment in job.payments],
    }


async def _payments(services: Services, asked: dict[str, Any]) -> list[dict[str, Any]]:
    limit = _limit(asked)
    store = services.ledger.store
    jobs = await store.read(store.database.jobs, None, limit)
    return [_payment_view(job, payment) for job in jobs for payment in job.payments]


def _payment_view(job: Job, payment: Payment) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "escrow": payment.escrow,
        "peer_id": payment.peer_id,
        "state": payment.state.value,
        "first_segment": payment.first_segment,
        "amount": payment.amount,
        "vouchered": payment.promised,
        "earned": payment.earned,
        "returned": payment.returned,
        "signature": payment.signature or None,
        "reason": payment.reason or None,
    }


async def _metrics(services: Services, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Every kept point of the job's training curve."""
    job = await _find(services, asked)
    store = services.ledger.store
    updates = await store.read(store.database.updates, job.job_id, 0, services.limits.metrics + 10_000)
    return [
        {"at": update.at, **msgspec.structs.asdict(update.metrics)}
        for update in updates
        if update.metrics is not None
    ]


async def _revoke(services: Services, asked: dict[str, Any]) -> dict[str, Any]:
    """All tokens of an Engine, or of one job. On disk before the answer."""
    name = str(asked.get("whose", ""))
    jobs = services.tokens.jobs_of(PeerId(name)) or {(await _find(services, {"job": name})).job_id}
    count = sum(services.revoke_tokens(job_id, lambda _: True) for job_id in sorted(jobs))
    await services.ledger.store.settle()
    return {"revoked": count}


async def _find(services: Services, asked: dict[str, Any]) -> Job:
    """By its id, or the beginning of it where that says enough."""
    name = str(asked.get("job", ""))
    job = await services.ledger.find(JobId(name)) if len(name) == 64 else None
    if job is not None:
        return job
    store = services.ledger.store
    jobs = await store.read(store.database.jobs, None, MAX_LISTED)
    found = [job for job in jobs if name and job.job_id.startswith(name)]
    if len(found) != 1:
        raise RemoteFailureError(
            "not_found", f"{len(found) or 'no'} jobs begin with {name[:80]!r}, expected one"
        )
    return found[0]


def _limit(asked: dict[str, Any]) -> int:
    limit = asked.get("limit", 100)
    if not isinstance(limit, int) or not 1 <= limit <= MAX_LISTED:
        raise RemoteFailureError("invalid", f"limit {limit!r}, allowed 1 to {MAX_LISTED}")
    return limit
