"""``cyxwiz import``: a sandboxed worker makes a .cyxmodel of a model file of another program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import trio

from backend.errors import WorkerFailedError
from backend.exporting.messages import Stage
from backend.formats.cyxmodel import inspect_cyxmodel
from backend.formats.model_folder import CONFIG, TOKENIZER, is_model_folder, read_model_folder
from backend.formats.sniff import ModelFormat, sniff
from backend.graph import Graph
from backend.importing.messages import MAX_SIZE, ImportModel, ModelImported
from backend.inspection import summary_of
from backend.parity import Certificate
from backend.reports import Failed
from backend.serialize import load_graph
from backend.workers.supervisor import Worker, open_pool
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.exporting import OnStage, pool_for, tell_stage
from engine_app.placing import copy_regular, placing
from engine_app.plain import plain
from engine_app.show import open_story, print_json
from p2p.datadir import write_atomic

NO_SIZES: Mapping[str, int] = {}
_IMPORTED = (ModelFormat.ONNX, ModelFormat.SAFETENSORS, ModelFormat.GGUF)
_GRAPH_FILE, _ONE_FILE = "graph.json", "model.bin"


@dataclass(frozen=True, slots=True)
class Import:
    """What came of a file: what it was, how large it is, and the comparison where there was one to make."""

    about: str
    nodes: int
    parameters: int
    certificate: Certificate | None


def read_sizes(texts: Iterable[str]) -> dict[str, int]:
    """Of NAME=N. Raises CommandError."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        is_number = number.isascii() and number.isdecimal() and len(number) <= 7
        if not 1 <= len(name) <= 128 or not is_number or not 1 <= int(number) <= MAX_SIZE:
            raise CommandError(f"--size {text[:80]!r}, must be NAME=N with N from 1 to {MAX_SIZE}")
        found[name] = int(number)
    if len(found) > 16:
        raise CommandError(f"{len(found)} sizes, limit 16")
    return found


def import_here(
    config: Config, source: Path, output: Path, graph: Path | None, sizes: Iterable[str], as_json: bool
) -> None:
    """``output``: a .cyxmodel, or the graph alone where it ends with .json."""

    async def main() -> None:
        with open_story(as_json) as story:
            wanted = read_sizes(sizes)
            found = await import_model(config, source, output, graph, partial(tell_stage, story), wanted)
        answer: dict[str, Any] = {"output": str(output), "about": found.about}
        answer |= {"nodes": found.nodes, "parameters": found.parameters}
        if found.certificate is not None:
            answer["parity"] = msgspec.to_builtins(found.certificate)
        _close(answer, as_json)

    run(main, config, "cancelled, nothing was written")


async def import_model(
    config: Config,
    source: Path,
    output: Path,
    graph: Path | None,
    on_stage: OnStage,
    sizes: Mapping[str, int] = NO_SIZES,
) -> Import:
    """Writes ``output`` whole or not at all. Raises CommandError, ArchiveError, WorkerError, OSError.

    ``sizes``: of axes that the file leaves open, by their names.
    """
    files = await trio.to_thread.run_sync(_files_of, source)
    workspace = config.data_dir / "local"
    workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workspace) as name:
        async with open_pool(pool_for(Path(name) / "workers", *files.values())) as pool:
            worker = await pool.acquire()
            given = {name: source / name for name in (CONFIG, TOKENIZER) if (source / name).is_file()}
            given |= {_GRAPH_FILE: graph} if graph is not None else {}
            for file, path in (files | given).items():
                await trio.to_thread.run_sync(copy_regular, path, worker.directory / file)
            order = ImportModel(
                tuple(files),
                graph=_GRAPH_FILE if graph is not None else None,
                config=CONFIG if CONFIG in given else None,
                tokenizer=TOKENIZER if TOKENIZER in given else None,
                sizes=dict(sizes),
            )
            imported, certificate = await _import(worker, order, on_stage)
            found = worker.path(imported.file)
            summary = summary_of(await trio.to_thread.run_sync(_put_in_place, found, output, Path(name)))
    return Import(imported.about, summary.nodes, summary.parameters, certificate)


def _files_of(source: Path) -> dict[str, Path]:
    """By the name that the worker sees. Raises ArchiveError, CommandError."""
    if not source.exists():
        raise CommandError(f"there is no file {source}")
    if not source.is_dir():
        if sniff(source) not in _IMPORTED:
            raise CommandError(
                f"{source.name} is no ONNX, safetensors or GGUF; cyxwiz inspect says what it is"
            )
        return {_ONE_FILE: source}
    if not is_model_folder(source):
        found = sorted(file for file in source.iterdir() if sniff(file) in _IMPORTED)
        if len(found) != 1:
            names = ", ".join(file.name for file in found[:8]) or "none"
            raise CommandError(
                f"{source.name} is a folder without model.safetensors or its index: one ONNX, safetensors or "
                f"GGUF is expected in it, found {names}"
            )
        return {_ONE_FILE: found[0]}
    return {f"weights-{n}.safetensors": path for n, path in enumerate(read_model_folder(source).headers)}


async def _import(
    worker: Worker, order: ImportModel, on_stage: OnStage
) -> tuple[ModelImported, Certificate | None]:
    """Raises WorkerError."""
    await worker.send(order)
    while True:
        event, body = await worker.receive()
        match event:
            case Stage():
                on_stage(event)
            case ModelImported():
                return event, msgspec.json.decode(body, type=Certificate) if body else None
            case Failed(code, text):
                raise WorkerFailedError(code, text)


def _put_in_place(found: Path, output: Path, workspace: Path) -> Graph:
    """Raises ArchiveError, GraphFormatError, OSError."""
    if output.suffix != ".json":
        with placing(found, output) as copy:
            return load_graph(inspect_cyxmodel(copy).graph)
    copy = workspace / "taken.cyxmodel"
    copy_regular(found, copy, follow=False)
    text = inspect_cyxmodel(copy).graph
    graph = load_graph(text)
    write_atomic(output, text, 0o644)
    return graph


def _close(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print(f"{answer['output']}: {plain(answer['about'])}")
    print(f"graph        {answer['nodes']} nodes, {answer['parameters']:,} parameters")
    if parity := answer.get("parity"):
        print(f"compared     with {parity['runtime']} on {parity['inputs']['samples']} samples")
        print(f"difference   {parity['max_difference']:.3g} at most: {plain(parity['verdict'])}")
