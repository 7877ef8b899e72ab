"""A hosted model: in a sandboxed worker of its own, asked through a channel, started again if it ends."""

from __future__ import annotations

from enum import Enum

from backend.errors import WorkerError
from backend.serving.call_frames import ModelStatus
from backend.serving.messages import ApiKey
from backend.workers.model_calls import CallLimits, ModelCalls
from backend.workers.model_server import ServerListener, ServerPlan, SupervisedServer

_PATIENCE_MORE_S = 5.0


class HostedState(Enum):
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    ENDED = "ended"


class HostedModel:
    """``run`` for as long as it is hosted. ``told``: what its owner is told besides."""

    def __init__(self, plan: ServerPlan, told: ServerListener | None = None) -> None:
        limits = plan.limits
        self.calls = ModelCalls(
            CallLimits(
                body_bytes=limits.body_bytes,
                bodies_bytes=max(limits.bodies_bytes, limits.body_bytes),
                patience_s=limits.timeout_s + _PATIENCE_MORE_S,
            )
        )
        self.state = HostedState.LOADING
        self.reason = ""
        """Why its worker ended last."""
        self.restarts = 0
        self._told = told or ServerListener()
        listener = ServerListener(on_ready=self._ready, on_death=self._died)
        self._server = SupervisedServer(plan, None, _no_keys, listener, self.calls)

    async def run(self) -> None:
        """Until ``stop``. Raises WorkerError if it could not even start once."""
        try:
            await self._server.run()
        except WorkerError as error:
            self.reason = str(error)
            raise
        finally:
            self.state = HostedState.ENDED

    async def stop(self, grace_s: float) -> None:
        """Finishes what is in flight, ``grace_s`` at most; ``run`` returns then."""
        await self._server.stop(grace_s)

    async def status(self) -> ModelStatus:
        """Raises as ``ModelCalls.ask``; see ``state`` for what is known without asking."""
        return await self.calls.status()

    def _ready(self, lines: tuple[str, ...]) -> None:
        self.state = HostedState.READY
        self._told.on_ready(lines)

    def _died(self, reason: str, pause_s: float) -> None:
        self.state, self.reason = HostedState.RESTARTING, reason
        self.restarts += 1
        self._told.on_death(reason, pause_s)


def _no_keys() -> tuple[ApiKey, ...]:
    """Who may ask is decided before a request comes here."""
    return ()
