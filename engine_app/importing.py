"""``cyxwiz import``: a sandboxed worker makes a .cyxmodel of a model file of another program."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import trio

from backend.errors import WorkerFailedError
from backend.exporting.messages import Stage
from backend.formats.cyxmodel import inspect_cyxmodel
from backend.formats.model_folder import is_model_folder, read_model_folder
from backend.formats.sniff import ModelFormat, sniff
from backend.importing.messages import ImportModel, ModelImported
from backend.inspection import summary_of
from backend.parity import Certificate
from backend.reports import Failed
from backend.serialize import load_graph
from backend.workers.supervisor import Worker, open_pool
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.exporting import pool_for
from engine_app.local_training import install
from engine_app.plain import plain
from engine_app.show import Story, open_story, print_json

_GRAPH_FILE, _ONE_FILE = "graph.json", "model.bin"


def import_here(config: Config, source: Path, output: Path, graph: Path | None, as_json: bool) -> None:
    """``output``: a .cyxmodel, or the graph alone where it ends with .json."""

    async def main() -> None:
        files = _files_of(source)
        workspace = config.data_dir / "local"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(dir=workspace) as name, open_story(as_json) as story:
            async with open_pool(pool_for(Path(name) / "workers", *files.values())) as pool:
                worker = await pool.acquire()
                imported, certificate = await _import(worker, files, graph, story)
                found = worker.path(imported.file)
                summary = summary_of(load_graph(inspect_cyxmodel(found).graph))
                await trio.to_thread.run_sync(_put_in_place, found, output)
        answer: dict[str, Any] = {"output": str(output), "about": imported.about}
        answer |= {"nodes": summary.nodes, "parameters": summary.parameters}
        if certificate is not None:
            answer["parity"] = msgspec.to_builtins(certificate)
        _close(answer, as_json)

    run(main, config, "cancelled, nothing was written")


def _files_of(source: Path) -> dict[str, Path]:
    """By the name that the worker sees. Raises ArchiveError, CommandError."""
    if not source.is_dir():
        if sniff(source) not in (ModelFormat.ONNX, ModelFormat.SAFETENSORS, ModelFormat.GGUF):
            raise CommandError(
                f"{source.name} is no ONNX, safetensors or GGUF; cyxwiz inspect says what it is"
            )
        return {_ONE_FILE: source}
    if not is_model_folder(source):
        raise CommandError(f"{source.name} is a folder without model.safetensors or its index")
    return {f"weights-{n}.safetensors": path for n, path in enumerate(read_model_folder(source).headers)}


async def _import(
    worker: Worker, files: dict[str, Path], graph: Path | None, story: Story
) -> tuple[ModelImported, Certificate | None]:
    """Raises WorkerError."""
    copies = files | ({_GRAPH_FILE: graph} if graph is not None else {})
    for name, path in copies.items():
        await trio.to_thread.run_sync(shutil.copyfile, path, worker.directory / name)
    await worker.send(ImportModel(tuple(files), _GRAPH_FILE if graph is not None else None))
    while True:
        event, body = await worker.receive()
        match event:
            case Stage(text, number, total):
                story.tell({"kind": "stage", "text": text, "number": number, "total": total})
            case ModelImported():
                return event, msgspec.json.decode(body, type=Certificate) if body else None
            case Failed(code, text):
                raise WorkerFailedError(code, text)


def _put_in_place(found: Path, output: Path) -> None:
    if output.suffix == ".json":
        graph = inspect_cyxmodel(found).graph
        found = found.with_name("graph-alone.json")
        found.write_bytes(graph)
    install(found, output)


def _close(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print(f"{answer['output']}: {plain(answer['about'])}")
    print(f"graph        {answer['nodes']} nodes, {answer['parameters']:,} parameters")
    if parity := answer.get("parity"):
        print(f"compared     with {parity['runtime']} on {parity['inputs']['samples']} samples")
        print(f"difference   {parity['max_difference']:.3g} at most: {plain(parity['verdict'])}")
