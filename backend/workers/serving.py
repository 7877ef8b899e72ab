"""The serving thread of a worker: models by name, answers in the order of the questions."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.reports import Event, Failed, LoadModel, ModelLoaded, Predict, Predicted, UnloadModel
from backend.runtime.base import Runtime, load_model
from backend.workers.job import failure_of

_MAX_MODELS = 16
_MAX_WAITING = 1024
_DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int64")

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
            answer = runtime.predict(_as_array(request, body))
        except InputError as error:
            self._send(Failed(code="input", text=str(error), id=request.id), b"")
            return
        duration_s = time.perf_counter() - started_at
        event = Predicted(
            id=request.id, dtype=str(answer.dtype), shape=tuple(answer.shape), duration_s=duration_s
        )
        self._send(event, answer.tobytes())


def _as_array(request: Predict, body: bytes) -> Array:
    """Raises InputError unless the body is exactly such an array."""
    if request.dtype not in _DTYPES:
        raise InputError(f"input is {request.dtype[:40]}, allowed are {', '.join(_DTYPES)}")
    dtype = np.dtype(request.dtype).newbyteorder("<")
    needed = dtype.itemsize
    for size in request.shape:
        needed *= size
    if min(request.shape, default=0) < 1 or needed != len(body):
        raise InputError(f"input of {len(body)} bytes for shape {request.shape}, {max(0, needed)} needed")
    return np.frombuffer(body, dtype).reshape(request.shape)
