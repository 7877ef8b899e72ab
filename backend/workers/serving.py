"""The serving thread of a worker: models by name, answers in the order of the questions."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from backend.errors import InputError
from backend.reports import Event, Failed
from backend.runtime.base import Runtime, load_model
from backend.serving.messages import LoadModel, ModelLoaded, Predict, Predicted, UnloadModel
from backend.serving.tensor_body import pack_body, unpack_body
from backend.workers.job import failure_of

_MAX_MODELS = 16
_MAX_WAITING = 1024
_DEADLINE_S = 60.0

Request = tuple[LoadModel | Predict | UnloadModel, bytes]


class Serving:
    """Models that this worker answers with."""

    def __init__(
        self,
        directory: Path,
        send: Callable[[Event, bytes], None],
        training_held_still: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``training_held_still``: loading seeds torch's one generator, so it waits for a gap."""
        self._directory = directory
        self._send = send
        self._training_held_still = training_held_still
        self._models: dict[str, Runtime] = {}
        self._requests: queue.Queue[Request] = queue.Queue(_MAX_WAITING)

    def ask(self, request: LoadModel | Predict | UnloadModel, body: bytes) -> None:
        """Queues a request; one too many is refused."""
        try:
            self._requests.put_nowait((request, body))
        except queue.Full:
            number = request.id if isinstance(request, Predict) else None
            text = f"{_MAX_WAITING} requests wait, which is the limit"
            self._send(Failed(code="model", text=text, id=number), b"")

    def run(self) -> None:
        """The thread; never returns."""
        while True:
            request, body = self._requests.get()
            try:
                self._handle(request, body)
            except Exception as error:
                number = request.id if isinstance(request, Predict) else None
                self._send(failure_of(error, request=number, archive_code="model"), b"")

    def _handle(self, request: LoadModel | Predict | UnloadModel, body: bytes) -> None:
        match request:
            case LoadModel():
                self._load(request)
            case Predict():
                self._predict(request, body)
            case UnloadModel(model=model):
                self._models.pop(model, None)

    def _load(self, request: LoadModel) -> None:
        if request.model not in self._models:
            if len(self._models) >= _MAX_MODELS:
                text = f"{len(self._models)} models are loaded, which is the limit"
                self._send(Failed(code="model", text=text), b"")
                return
            with self._training_held_still():
                self._models[request.model] = load_model(self._directory / request.file, request.device)
        runtime = self._models[request.model]
        self._send(ModelLoaded(model=request.model, inputs=runtime.inputs, outputs=runtime.outputs), b"")

    def _predict(self, request: Predict, body: bytes) -> None:
        runtime = self._models.get(request.model)
        if runtime is None:
            text = f"model {request.model[:80]!r} is not loaded"
            self._send(Failed(code="model", text=text, id=request.id), b"")
            return
        started_at = time.perf_counter()
        try:
            answer = runtime.run(unpack_body(request.inputs, body), time.monotonic() + _DEADLINE_S)
        except InputError as error:
            self._send(Failed(code="input", text=str(error), id=request.id), b"")
            return
        duration_s = time.perf_counter() - started_at
        outputs, packed = pack_body(answer)
        self._send(Predicted(id=request.id, outputs=outputs, duration_s=duration_s), packed)
