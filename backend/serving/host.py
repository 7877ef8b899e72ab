"""The models of one server: loaded when first asked for, unloaded when others need their memory.

Belongs to one event loop. A model that answers somebody is never unloaded under it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np

from backend.errors import BackendError, DeadlineError, InputError
from backend.runtime.base import Runtime, TextEmbedder, TextGenerator
from backend.runtime.deadlines import running_until
from backend.runtime.text_encoder import TextEncoder
from backend.serving.batcher import Arrays, Batcher
from backend.serving.batching import BatchLimits, QueueFullError
from backend.serving.failures import failure
from backend.serving.generation import Generations
from backend.serving.hop import in_thread
from backend.serving.http import HttpError, Reply, busy, invalid
from backend.serving.messages import ServedModel, ServerLimits, TensorSpec
from backend.serving.residency import Residency
from backend.serving.stats import ModelReading, ModelStats

_ROOM_RETRY_S = 2.0
_WARM_RUNS = 3
_WARM_DEADLINE_S = 5.0

Loader = Callable[[ServedModel], Runtime]
Decoded = TypeVar("Decoded")


class Resident:
    """A model in memory."""

    def __init__(self, model: ServedModel, runtime: Runtime, limits: ServerLimits, stats: ModelStats) -> None:
        self.model = model
        self.runtime = runtime
        self.stats = stats
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.decoding = ThreadPoolExecutor(1, thread_name_prefix="decoding")
        """Of images, texts and templates, so that a large one holds up neither the loop nor the model."""
        batches = BatchLimits(limits.batch_items, limits.waiting, limits.window_s)
        self.batcher = Batcher(runtime, batches, stats, self.thread)
        self.encoder: TextEmbedder | None = None
        self.generations: Generations | None = None
        if isinstance(runtime, TextGenerator):
            context = runtime.facts.context_tokens or 0
            self.generations = Generations(runtime, context, self.thread, limits.waiting, stats)

    async def decode(self, work: Callable[[], Decoded], deadline: float) -> Decoded:
        """What ``work`` gives, off the loop. Raises TimeoutError, and what it raises.

        Whoever works on much looks at the deadline in between: nobody waits for what comes after it.
        """

        def until() -> Decoded:
            with running_until(deadline):
                return work()

        async with asyncio.timeout_at(_loop_time(deadline)):
            return await in_thread(self.decoding, until)

    @property
    def queue_depth(self) -> int:
        return len(self.batcher) + (self.generations.waiting if self.generations else 0)

    def working_since(self) -> float | None:
        """When the step that runs began; read from other threads."""
        generating = self.generations.working_since if self.generations else None
        return generating if generating is not None else self.batcher.running_since


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of a model. ``make`` raises InputError, ``answer`` HttpError."""

    name: str
    make: Callable[[Resident], Arrays]
    answer: Callable[[Arrays], Reply]


@dataclass(slots=True)
class _Entry:
    model: ServedModel
    stats: ModelStats = field(default_factory=ModelStats)
    resident: Resident | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    withdrawn: bool = False


class _Use:
    """One request's use of a model. No generator: this is on the path of every prediction."""

    __slots__ = ("_counts", "_deadline", "_entry", "_host", "_started_at")

    def __init__(self, host: ModelHost, entry: _Entry, deadline: float, counts: bool) -> None:
        self._host = host
        self._entry = entry
        self._deadline = deadline
        self._counts = counts
        self._started_at = time.monotonic()

    async def __aenter__(self) -> Resident:
        try:
            resident = self._entry.resident or await self._host.bring_in(self._entry, self._deadline)
        except Exception as error:
            raise self._end(error) from error
        self._host.enter(self._entry)
        return resident

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.leave(self._entry)
        if isinstance(error, Exception):
            raise self._end(error) from error
        self._note("ok" if error is None else "left")

    def _end(self, error: Exception) -> HttpError:
        refusal = _refusal(error, self._entry)
        self._note(_OUTCOMES.get(refusal.status, "failed"))
        return refusal

    def _note(self, outcome: str) -> None:
        if self._counts:
            self._entry.stats.note_request(outcome, time.monotonic() - self._started_at)


class ModelHost:
    """``load`` opens a model file; called in a thread, one at a time."""

    def __init__(self, models: tuple[ServedModel, ...], limits: ServerLimits, directory: Path, load: Loader):
        self.limits = limits
        self._directory = directory
        self._load = load
        self._entries = {model.name: _Entry(model) for model in models}
        self._residency = Residency(limits.memory_bytes)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._idle = asyncio.Event()
        self.default = models[0].name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def is_loaded(self, name: str) -> bool:
        return name in self._entries and self._entries[name].resident is not None

    def resident(self, name: str) -> Resident | None:
        """The model, if it is in memory now."""
        return self._entries[name].resident

    def knows(self, name: str) -> bool:
        return name in self._entries

    def only_input(self, name: str) -> TensorSpec | None:
        """What a loaded model with a single input takes; None for any other."""
        entry = self._entries.get(name)
        inputs = entry.resident.runtime.inputs if entry is not None and entry.resident is not None else ()
        return inputs[0] if len(inputs) == 1 else None

    def use(self, name: str, deadline: float, *, counts: bool = True) -> _Use:
        """A context: the model, loaded, and kept so meanwhile. Raises HttpError.

        ``counts``: it is a request to the model, not one about it.
        """
        return _Use(self, self._entry(name), deadline, counts)

    async def predict(self, name: str, make: Callable[[Resident], Arrays], deadline: float) -> Arrays:
        """All outputs for what ``make`` gives. Raises HttpError."""
        async with self.use(name, deadline) as resident:
            return await resident.batcher.ask(make(resident), deadline)

    def submit(
        self,
        name: str,
        make: Callable[[Resident], Arrays],
        deadline: float,
        told: Callable[[Arrays | HttpError], None],
    ) -> bool:
        """As ``predict``, without a task: ``told`` is called later. False for what is refused or waits."""
        entry = self._entries.get(name)
        if entry is None or entry.resident is None or entry.withdrawn:
            return False
        started_at = time.monotonic()

        def done(outcome: Arrays | Exception) -> None:
            self.leave(entry)
            found = _refusal(outcome, entry) if isinstance(outcome, Exception) else outcome
            kind = _OUTCOMES.get(found.status, "failed") if isinstance(found, HttpError) else "ok"
            entry.stats.note_request(kind, time.monotonic() - started_at)
            told(found)

        try:
            entry.resident.batcher.submit(make(entry.resident), deadline, done)
        except (InputError, QueueFullError):
            return False  # the long way says so, and counts it
        self.enter(entry)
        return True

    def hurry(self) -> None:
        """See ``Batcher.hurry``."""
        for entry in self._entries.values():
            if entry.resident is not None:
                entry.resident.batcher.hurry()

    async def load(self, name: str, deadline: float) -> None:
        """Loads it if need be, also after ``unload``. Raises HttpError."""
        self._entry(name, withdrawn=True).withdrawn = False
        async with self.use(name, deadline, counts=False):
            pass

    async def unload(self, name: str, deadline: float) -> None:
        """Refuses new requests, and gives its memory back once those in flight are answered."""
        entry = self._entry(name, withdrawn=True)
        entry.withdrawn = True
        async with entry.loading:
            await self._wait_until(lambda: not self._residency.in_flight(name), deadline)
            self._drop(entry)

    def readings(self) -> list[ModelReading]:
        now = time.monotonic()
        return [self._reading(entry, now) for entry in self._entries.values()]

    def sweep(self, now: float) -> None:
        for entry in self._entries.values():
            if entry.resident is not None:
                entry.resident.batcher.sweep(now)

    def stalled_s(self, now: float) -> float:
        """How long the longest step that runs has been running. Read from other threads."""
        residents = [entry.resident for entry in tuple(self._entries.values())]
        since = [resident.working_since() for resident in residents if resident is not None]
        return max((now - began for began in since if began is not None), default=0.0)

    def _entry(self, name: str, *, withdrawn: bool = False) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            here = ", ".join(self._entries)[:200]
            raise HttpError(404, "not_found", f"no model {name[:80]!r} here, but {here}")
        if entry.withdrawn and not withdrawn:
            raise HttpError(404, "not_found", f"model {name!r} has been unloaded")
        return entry

    def enter(self, entry: _Entry) -> None:
        self._residency.enter(entry.model.name)

    def leave(self, entry: _Entry) -> None:
        self._residency.leave(entry.model.name)
        self._idle.set()

    async def bring_in(self, entry: _Entry, deadline: float) -> Resident:
        """Loads it, unless somebody else does. Raises HttpError, BackendError."""
        async with asyncio.timeout_at(_loop_time(deadline)), entry.loading:
            if entry.withdrawn:
                raise HttpError(404, "not_found", f"model {entry.model.name!r} has been unloaded")
            return entry.resident or await self._load_now(entry, deadline)

    async def _load_now(self, entry: _Entry, deadline: float) -> Resident:
        model = entry.model
        await self._make_room(model.size_bytes, deadline)
        self._residency.add(model.name, model.size_bytes)
        self._residency.enter(model.name)
        try:
            runtime, encoder, took_s = await in_thread(self._loader, lambda: self._open(model))
        except BaseException:
            self._residency.remove(model.name)
            raise
        self._residency.resize(model.name, runtime.facts.size_bytes)
        # Now that its real size is known, while it counts as in use.
        for name in self._residency.room_for(0) or ():
            self._drop(self._entries[name])
        self._residency.leave(model.name)
        resident = Resident(model, runtime, self.limits, entry.stats)
        resident.encoder = encoder
        for duration_s in took_s:
            resident.batcher.pace.note(duration_s)
        entry.resident = resident
        return resident

    def _open(self, model: ServedModel) -> tuple[Runtime, TextEmbedder | None, list[float]]:
        """In the loading thread."""
        runtime = self._load(model)
        encoder: TextEmbedder | None = getattr(runtime, "encoder", None)
        if model.tokenizer is not None and encoder is None:
            encoder = TextEncoder(self._directory / model.tokenizer, runtime)
        return runtime, encoder, _warm(runtime)

    async def _make_room(self, size_bytes: int, deadline: float) -> None:
        def leaving() -> list[str] | None:
            return self._residency.room_for(size_bytes)

        await self._wait_until(lambda: leaving() is not None, deadline)
        for name in leaving() or ():
            self._drop(self._entries[name])

    async def _wait_until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Looked at whenever a request ends. Raises HttpError 503."""
        try:
            async with asyncio.timeout_at(_loop_time(deadline)):
                while not condition():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            raise busy("the models in use leave no memory for this one", _ROOM_RETRY_S) from None

    def _drop(self, entry: _Entry) -> None:
        if entry.resident is not None:
            entry.resident.thread.shutdown(wait=False)
            entry.resident.decoding.shutdown(wait=False)
            entry.resident = None
            self._residency.remove(entry.model.name)

    def _reading(self, entry: _Entry, now: float) -> ModelReading:
        resident = entry.resident
        return ModelReading(
            name=entry.model.name,
            stats=entry.stats,
            queue_depth=0 if resident is None else resident.queue_depth,
            in_flight=self._residency.in_flight(entry.model.name),
            loaded=resident is not None,
            size_bytes=0 if resident is None else resident.runtime.facts.size_bytes,
            tokens_per_s=entry.stats.tokens_per_s(now),
        )


_OUTCOMES = {400: "refused", 404: "refused", 429: "busy", 503: "busy", 504: "late"}


def _refusal(error: Exception, entry: _Entry) -> HttpError:
    match error:
        case HttpError():
            return error
        case ExceptionGroup():
            return _refusal(error.exceptions[0], entry)
        case InputError():
            return invalid(str(error))
        case QueueFullError():
            wait_s = entry.resident.batcher.retry_after_s if entry.resident else 1
            return busy(str(error), wait_s)
        case DeadlineError() | TimeoutError():
            return HttpError(504, "too_late", str(error) or "not answered within its time")
        case MemoryError():
            return HttpError(507, "memory", "not enough memory for this input: send fewer rows")
        case BackendError():
            return HttpError(500, "model", str(error)[:1000])
    text = str(error)
    if isinstance(error, RuntimeError) and ("memory" in text or "bad_alloc" in text):
        return HttpError(507, "memory", "not enough memory for this input: send fewer rows")
    return failure(error)


def _warm(runtime: Runtime) -> list[float]:
    """How long a row takes, where its shape is known; the first run, which prepares much, left out."""
    if not runtime.inputs or any(size < 0 for spec in runtime.inputs for size in spec.shape[1:]):
        return []
    row = {spec.name: np.zeros([max(1, size) for size in spec.shape], spec.dtype) for spec in runtime.inputs}
    took_s = []
    for _ in range(_WARM_RUNS):
        started_at = time.perf_counter()
        try:
            runtime.run(row, time.monotonic() + _WARM_DEADLINE_S)
        except Exception:
            return []  # zeros may be no input for it; the first request will tell
        took_s.append(time.perf_counter() - started_at)
    return took_s[1:]


def _loop_time(deadline: float) -> float:
    """A deadline of time.monotonic on the running loop's clock."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
