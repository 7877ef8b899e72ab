"""Datasets that stay here: read for peers without a numeric runtime, evaluated in a worker process."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from backend.errors import BackendError, DatasetError, WorkerError
from backend.reports import Evaluate, Evaluated, Failed
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from p2p.jobs import DataPart
from p2p.session.errors import EvaluationFailedError, JobRefusedError
from p2p.session.owner import OwnedSamples, Score
from p2p.session.trial import Trial

if TYPE_CHECKING:
    from backend.samples import LocalSamples

EVALUATION_TIMEOUT_S = 3600.0
MODEL_FILE, PART_FILE = "model.cyxmodel", "part.safetensors"
MEMORY_BYTES = 8 << 30


class BackendOwner:
    """``p2p.session.owner.DataOwner``."""

    def can_evaluate(self) -> bool:
        return importlib.util.find_spec("torch") is not None

    def open_samples(self, graph: bytes, data: Path) -> OwnedSamples:
        from backend.pipeline import read_pipeline
        from backend.samples import open_samples
        from engine_app.document.lowering import load_lowered

        try:
            pipeline = read_pipeline(load_lowered(graph))
            return _Samples(open_samples(data, pipeline), pipeline.normalization, pipeline.epochs)
        except BackendError as error:
            raise JobRefusedError(str(error)) from error

    def settle(self, graph: bytes, data: Path) -> tuple[bytes, str]:
        from backend.balance import with_counted_weights
        from backend.pipeline import read_pipeline
        from backend.samples import open_samples
        from backend.serialize import dump_graph, graph_hash, load_graph

        try:
            document = load_graph(graph)
            settled = with_counted_weights(document, open_samples(data, read_pipeline(document)))
        except BackendError as error:
            raise JobRefusedError(str(error)) from error
        return dump_graph(settled), graph_hash(settled)

    def add_notes(self, model: Path, data: Path) -> None:
        from backend.facts import read_notes
        from backend.formats.cyxmodel import read_cyxmodel, write_cyxmodel

        try:
            write_cyxmodel(model, replace(read_cyxmodel(model), notes=read_notes(data)))
        except BackendError as error:
            raise OSError(f"no notes on the data for {model.name}: {error}") from error

    async def evaluate(self, model: Path, part: Path, workspace: Path) -> Score:
        config = PoolConfig(directory=workspace / "workers", memory_bytes=MEMORY_BYTES)
        try:
            async with open_pool(config) as pool:
                return await _evaluate(await pool.acquire(), model, part)
        except trio.TooSlowError as error:
            raise EvaluationFailedError(f"not done after {EVALUATION_TIMEOUT_S:.0f} s") from error
        except WorkerError as error:
            raise EvaluationFailedError(str(error)) from error

    def takes_all(self, model: Path) -> bool:
        from backend.formats.served import served_model

        try:
            return served_model(model).is_fixed
        except (BackendError, OSError):
            return False

    async def try_model(self, model: Path, workspace: Path, seeds: Sequence[int]) -> Trial:
        from engine_app.model_trial import try_model

        return await try_model(model, workspace, seeds)


class _Samples:
    """``OwnedSamples`` over a mapped file."""

    def __init__(self, samples: LocalSamples, normalization: str, epochs: int) -> None:
        scaling = samples.scaling(normalization)
        self.scaling = b"" if scaling is None else scaling.offset.tobytes() + scaling.factor.tobytes()
        self.target_shape = samples.facts.target_shape
        self.epochs = epochs
        self._samples = samples

    def size(self, part: DataPart) -> int:
        return self._samples.size(part.value)

    def read(self, part: DataPart, epoch: int, first: int, count: int) -> bytes:
        from backend.sample_plan import Window

        try:
            x, y = self._samples.gather(Window(part.value, epoch, first, count))
        except DatasetError as error:
            raise OSError(str(error)) from error
        return x.tobytes() + y.tobytes()

    def write_part(self, part: DataPart, target: Path) -> None:
        self._samples.write_part(part.value, target)


async def _evaluate(worker: Worker, model: Path, part: Path) -> Score:
    """Raises WorkerError, EvaluationFailedError, trio.TooSlowError."""
    for source, name in ((model, MODEL_FILE), (part, PART_FILE)):
        await trio.to_thread.run_sync(shutil.copyfile, source, worker.directory / name)
    await worker.send(Evaluate(MODEL_FILE, PART_FILE, "cpu"))
    event, _ = await worker.receive(EVALUATION_TIMEOUT_S)
    match event:
        case Evaluated(samples, loss, accuracy):
            return Score(samples, loss, accuracy)
        case Failed(code, text):
            raise EvaluationFailedError(f"{code}: {text}")
        case _:
            raise EvaluationFailedError(f"worker answered {type(event).__name__} to Evaluate")
