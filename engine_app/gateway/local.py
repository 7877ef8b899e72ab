"""Models on this machine as endpoints: each in a sandboxed worker of its own, which others do not notice."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from backend.serving.keys import make_key
from backend.workers.model_server import ModelFile, ServerListener, SupervisedServer, bind
from engine_app.gateway.endpoint import Place
from engine_app.gateway.http_endpoint import HttpEndpoint, Server
from engine_app.serving import ServeOrder, plan_of

_LOOPBACK = "127.0.0.1"
_SCOPES = ("predict", "manage")


class LocalModel:
    """``run`` in a nursery; ``ready`` is set once it answers. ``on_death``: why its worker ended, and in
    how many seconds another one takes over."""

    def __init__(
        self,
        model: ModelFile,
        order: ServeOrder,
        directory: Path,
        on_death: Callable[[str, str, float], None],
    ) -> None:
        # Other users of this machine could reach its port: only this process has its key.
        key, kept = make_key("gateway", _SCOPES, 0, (secrets.token_hex(4), secrets.token_urlsafe(32)), "")
        self._listener = bind(_LOOPBACK, 0)
        told = ServerListener(on_ready=self._answers, on_death=partial(on_death, model.name))
        plan = plan_of(replace(order, models=(model,), host=_LOOPBACK), directory, True)
        self._server = SupervisedServer(plan, self._listener, lambda: (kept,), told)
        self.place = Place(model.name, model.name)
        self.endpoint = HttpEndpoint(
            f"{model.name}@here", Server(_LOOPBACK, self._listener.getsockname()[1], key)
        )
        self.ready = trio.Event()
        self.line = ""
        """What it is, once it is ready."""

    async def run(self) -> None:
        """Until ``stop``. Raises WorkerError if it could not even start once."""
        try:
            await self._server.run()
        finally:
            self._listener.close()
            await self.endpoint.aclose()

    def _answers(self, lines: tuple[str, ...]) -> None:
        self.line = ", ".join(lines)
        self.ready.set()
