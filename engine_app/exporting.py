"""``cyxwiz export``: a sandboxed worker writes and tries the file; here it is put in place.

A certificate is written beside it. Ctrl-C ends the worker, and leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import msgspec
import trio
from blake3 import blake3

from backend.errors import ArchiveError, WorkerFailedError
from backend.exporting.messages import Export, Exported, ExportOptions, Stage
from backend.parity import Certificate
from backend.reports import Failed
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.placing import copy_regular, placing
from engine_app.plain import plain
from engine_app.show import Story, open_story, print_json
from engine_app.training_order import MEMORY_BYTES, RUNTIME_BYTES
from p2p.datadir import write_atomic

OnStage: TypeAlias = Callable[[Stage], None]
MODEL_FILE, DATA_FILE = "model.cyxmodel", "data.safetensors"
_COPIES = 6
"""How often an export may hold the weights at once."""


@dataclass(frozen=True, slots=True)
class Order:
    model: Path
    to: str
    output: Path
    with_preprocessing: bool = False
    tensor_type: str = "f32"
    data: Path | None = None
    certificate: Path | None = None

    @property
    def options(self) -> ExportOptions:
        """Raises CommandError for options that the format has no use for."""
        if self.with_preprocessing and self.to != "onnx":
            raise CommandError(f"--with-preprocessing is for onnx, not for {self.to}")
        if self.certificate == self.output:
            raise CommandError("--certificate and --output name the same file")
        if self.tensor_type != "f32" and self.to != "gguf":
            raise CommandError(f"--type {self.tensor_type} is for gguf, not for {self.to}")
        given = {"format": self.to, "with_preprocessing": self.with_preprocessing}
        return msgspec.convert(given | {"tensor_type": self.tensor_type}, ExportOptions)

    @property
    def weights_path(self) -> Path:
        """Of the weights of a program."""
        return self.output.with_suffix(".weights.safetensors")

    @property
    def certificate_path(self) -> Path:
        return self.certificate or self.output.with_name(f"{self.output.name}.certificate.json")


def export_here(config: Config, order: Order, as_json: bool) -> None:
    async def main() -> None:
        with open_story(as_json) as story:
            exported, certificate = await export(config, order, partial(tell_stage, story))
        _close(order, exported, certificate, as_json)

    run(main, config, "cancelled, nothing was written")


async def export(config: Config, order: Order, on_stage: OnStage) -> tuple[Exported, Certificate]:
    """Writes the files of the order, all or none. Raises CommandError, WorkerError, DatasetError, OSError."""
    options = order.options
    workspace = config.data_dir / "local"
    workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workspace) as name:
        async with open_pool(pool_for(Path(name) / "workers", order.model)) as pool:
            worker = await pool.acquire()
            exported, certificate = await _export(worker, order, options, on_stage)
            await trio.to_thread.run_sync(_put_in_place, worker, order, exported, certificate)
    return exported, certificate


def tell_stage(story: Story, stage: Stage) -> None:
    story.tell({"kind": "stage", "text": stage.text, "number": stage.number, "total": stage.total})


def pool_for(directory: Path, *files: Path) -> PoolConfig:
    """Of workers that may hold a few copies of these files in memory."""
    size = sum(file.stat().st_size for file in files)
    return PoolConfig(directory=directory, memory_bytes=max(MEMORY_BYTES, RUNTIME_BYTES + _COPIES * size))


async def _export(
    worker: Worker, order: Order, options: ExportOptions, on_stage: OnStage
) -> tuple[Exported, Certificate]:
    """Raises WorkerError, DatasetError."""
    await trio.to_thread.run_sync(copy_regular, order.model, worker.directory / MODEL_FILE)
    if order.data is not None:
        await trio.to_thread.run_sync(_convert, order.data, worker.directory / DATA_FILE)
    await worker.send(Export(MODEL_FILE, options, DATA_FILE if order.data is not None else None))
    while True:
        event, body = await worker.receive()
        match event:
            case Stage():
                on_stage(event)
            case Exported():
                return event, msgspec.json.decode(body, type=Certificate)
            case Failed(code, text):
                raise WorkerFailedError(code, text)


def _convert(data: Path, target: Path) -> None:
    from backend.readers import convert

    convert(data, target)


def _put_in_place(worker: Worker, order: Order, exported: Exported, certificate: Certificate) -> None:
    """All files or, up to the renaming at the end, none. Raises ArchiveError, WorkerError, OSError."""
    text = msgspec.json.format(msgspec.json.encode(certificate), indent=2)
    with ExitStack() as files:
        copy = files.enter_context(placing(worker.path(exported.file), order.output))
        _check_copy(copy, certificate)
        if exported.weights is not None:
            files.enter_context(placing(worker.path(exported.weights), order.weights_path))
        write_atomic(order.certificate_path, text + b"\n", 0o644)


def _check_copy(copy: Path, certificate: Certificate) -> None:
    """That the certificate is about this file, byte for byte. Raises ArchiveError."""
    hasher = blake3()
    with copy.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    if hasher.hexdigest() != certificate.file_blake3:
        raise ArchiveError("the file is not the one that was run and compared")


def _close(order: Order, exported: Exported, certificate: Certificate, as_json: bool) -> None:
    if as_json:
        answer: dict[str, Any] = {"output": str(order.output), "certificate": str(order.certificate_path)}
        if exported.weights is not None:
            answer["weights"] = str(order.weights_path)
        print_json(answer | {"about": exported.about, "parity": msgspec.to_builtins(certificate)})
        return
    versions = ", ".join(f"{name} {version}" for name, version in certificate.versions.items())
    agreement = certificate.argmax_agreement
    print(f"{order.output}: {plain(exported.about)}")
    if exported.weights is not None:
        print(f"weights      {order.weights_path}")
    print(f"ran in       {plain(certificate.runtime)} ({plain(versions)})")
    print(f"inputs       {certificate.inputs.samples} samples, {plain(certificate.inputs.source)}")
    print(f"difference   {certificate.max_difference:.3g} at most: {plain(certificate.verdict)}")
    if agreement is not None:
        print(f"same argmax  {100 * agreement:.4g} % of answers")
    print(f"certificate  {order.certificate_path}")
