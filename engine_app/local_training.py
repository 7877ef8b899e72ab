"""``cyxwiz train``: the same worker process that a peer would use, on this machine.

Writes the trained .cyxmodel at the end, whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import trio
from msgspec import to_builtins

from backend.errors import WorkerFailedError
from backend.reports import (
    Cancel,
    Cancelled,
    Failed,
    Finished,
    Metrics,
    Pause,
    Paused,
    Progress,
    Resume,
    Resumed,
    Train,
    TrainingPrepared,
)
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from engine_app.checks import DATA_FILE, BackendChecks
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.scores import print_scores
from engine_app.show import Story, open_story, print_json
from p2p.session.checks import Prepared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEMORY_BYTES = 8 << 30
RUNTIME_BYTES = 2 << 30


def train_here(config: Config, graph: Path, data: Path, output: Path, device: str, as_json: bool) -> None:
    async def main() -> None:
        workspace = config.data_dir / "local"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(dir=workspace) as name, open_story(as_json) as story:
            document = graph.read_bytes()  # noqa: ASYNC240 - a small local file
            prepared = await trio.to_thread.run_sync(BackendChecks().prepare, document, data, Path(name))
            memory = max(MEMORY_BYTES, RUNTIME_BYTES + 2 * prepared.memory_bytes)
            pool_config = PoolConfig(directory=Path(name) / "workers", memory_bytes=memory, device=device)
            async with open_pool(pool_config) as pool:
                training = LocalTraining(await pool.acquire(), story)
                metrics = await training.run(prepared, device, output)
        _close(metrics, output, as_json)

    run(main, config)


def _close(metrics: Metrics, output: Path, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(output), "metrics": to_builtins(metrics)})
        return
    accuracy = "" if metrics.test_accuracy is None else f", test accuracy {metrics.test_accuracy:.4f}"
    print(f"{output}: loss {metrics.loss:.4f}{accuracy}")
    print_scores("validation", to_builtins(metrics.validation), brief=bool(metrics.test))
    print_scores("test", to_builtins(metrics.test))


class LocalTraining:
    """One training in one worker, with Ctrl-C and Enter as its controls."""

    def __init__(self, worker: Worker, story: Story) -> None:
        self._worker = worker
        self._story = story
        self._paused = False

    async def run(self, prepared: Prepared, device: str, output: Path) -> Metrics:
        """Raises WorkerError, and CommandError when the user cancels."""
        await trio.to_thread.run_sync(shutil.copyfile, prepared.data, self._worker.directory / DATA_FILE)
        order = Train(
            dataset=DATA_FILE, checkpoint=None, segments=1, first_segment=0, allowed_segments=1, device=device
        )
        await self._worker.send(order, prepared.graph)
        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, interrupts, nursery)
                finished = await self._watch()
                nursery.cancel_scope.cancel()
        if finished is None:
            raise CommandError("cancelled, nothing was written")
        source = self._worker.path(finished.file)
        await trio.to_thread.run_sync(_install, source, output)
        return finished.metrics

    async def _watch(self) -> Finished | None:
        """Until the end; None if it was cancelled."""
        while True:
            event, _ = await self._worker.receive()
            match event:
                case TrainingPrepared(total_steps, parameters, samples, device):
                    text = f"{parameters} parameters, {samples} samples, {total_steps} steps on {device}"
                    self._story.line(text, "stage")
                case Progress(metrics):
                    self._story.tell({"kind": "progress", "metrics": to_builtins(metrics)})
                case Paused(step):
                    self._story.line(f"paused at step {step}; Enter goes on, Ctrl-C cancels")
                case Resumed(step):
                    self._story.line(f"goes on at step {step}")
                case Failed(code, text):
                    raise WorkerFailedError(code, text)
                case Finished():
                    return event
                case Cancelled():
                    return None

    async def _obey(self, interrupts: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for _ in interrupts:
            if self._paused or not sys.stdin.isatty():
                await self._worker.send(Cancel())
                return
            self._paused = True
            await self._worker.send(Pause())
            nursery.start_soon(self._resume_on_enter)

    async def _resume_on_enter(self) -> None:
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)  # type: ignore[call-arg]
        if line and self._paused:
            self._paused = False
            await self._worker.send(Resume())


def _install(source: Path, target: Path) -> None:
    """Beside the target first: it is replaced as a whole or stays as it was."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
