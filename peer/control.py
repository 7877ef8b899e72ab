"""What the peer's control socket answers: how it is, and who is let in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from backend.workers.supervisor import WorkerPool
from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from peer.config import Config
from peer.errors import ConfigError
from peer.inference import InferenceService
from peer.registration import Offer
from peer.served import ServedModel
from peer.services import Services
from peer.table import JobTable, describe_job

STATUS_TIMEOUT_S = 2.0
METHODS = "status, allow, deny and allowed"


class PeerControl:
    """The handler of a control socket."""

    def __init__(
        self,
        config: Config,
        services: Services,
        table: JobTable,
        inference: InferenceService,
        offer: Offer,
        pools: Sequence[WorkerPool],
    ) -> None:
        self._config = config
        self._services = services
        self._table = table
        self._inference = inference
        self._offer = offer
        self._pools = pools

    async def __call__(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Raises RemoteFailureError."""
        if method == "status":
            deployments = [await self._deployment(model) for model in self._services.served.models]
            return self._status() | {"deployments": deployments}
        if method not in ("allow", "deny", "allowed"):
            raise RemoteFailureError("invalid", f"method {method!r}, allowed are {METHODS}")
        try:
            await self._change_allowed(method, PeerId(str(parameters.get("engine", ""))))
        except (ConfigError, OSError) as error:
            raise RemoteFailureError("invalid", str(error)) from error
        return {"allowed": list(self._services.access.allowed.ids()), "lan": self._config.lan}

    async def _change_allowed(self, method: str, engine_id: PeerId) -> None:
        """An Engine that is denied loses what it has under way."""
        if method == "allow":
            self._services.access.allow(engine_id)
        elif method == "deny":
            self._services.access.deny(engine_id)
            self._inference.turn_out(engine_id)
            await self._table.turn_out(engine_id)

    async def _deployment(self, model: ServedModel) -> dict[str, Any]:
        runner = self._table.find(model.job.lease.lease_id)
        job = model.job if runner is None else runner.job
        status = None
        with suppress(RemoteFailureError):
            status = await self._services.served.status(job.job_id, STATUS_TIMEOUT_S)
        refusal = model.why_refused()
        told = None if status is None else status.model
        return {
            "job_id": job.job_id,
            "name": model.serving.name,
            "format": model.serving.format,
            "state": "ended" if status is None else status.state.value,
            "restarts": 0 if status is None else status.restarts,
            "requests": None if told is None else told.requests,
            "in_flight": None if told is None else told.in_flight,
            "period_s": model.serving.period_s,
            "periods_left": job.segments - job.done,
            "refused": "" if refusal is None else refusal.message,
        }

    def _status(self) -> dict[str, Any]:
        services, network = self._services, self._services.network
        return {
            "peer_id": network.peer_id,
            "addresses": list(network.addresses()),
            "connections": dict(services.network.connections()),
            "registered": services.link.is_up,
            "coordinator": self._config.coordinator,
            "lan": self._config.lan,
            "allowed": list(services.access.allowed.ids()),
            "node_wallet": services.terms.node_wallet,
            "payout_wallet": services.terms.payout_wallet,
            "price_per_hour": services.terms.price_per_hour,
            "devices": [
                {
                    "name": device.name,
                    "kind": device.kind.value,
                    "memory_bytes": device.memory_bytes,
                    "flops_per_s": speed,
                    "job": self._table.devices.holders.get(number),
                }
                for number, (device, speed) in enumerate(
                    zip(self._offer.devices, services.terms.flops_per_s, strict=True)
                )
            ],
            "idle_workers": sum(pool.idle for pool in self._pools),
            "models": list(services.deployments.models),
            "bytes_sent": services.artifacts.files.bytes_sent,
            "bytes_received": services.artifacts.files.bytes_received,
            "jobs": [describe_job(job) for job in self._table.jobs()],
        }
