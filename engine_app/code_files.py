"""``cyxwiz code`` and ``import-code``: a graph as a Python file, and back. Loads no runtime.

The way back runs the file, in a worker of its own; what comes out is checked like a stranger's file.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from backend.code_import.messages import MAX_SOURCE_BYTES, CodeImported, ImportCode
from backend.errors import BackendError, CodeError, GraphInvalidError, WorkerFailedError
from backend.formats.tensor_header import read_tensor_header
from backend.graph import Graph, model_nodes
from backend.pytorch_code import model_source, training_source
from backend.reports import Failed
from backend.serialize import dump_graph, load_graph
from backend.shapes import infer_shapes
from backend.validate import Severity, diagnose
from backend.workers.supervisor import PoolConfig, open_pool
from engine_app.document.lowering import load_lowered
from engine_app.entry import CommandError, report
from engine_app.placing import placing
from p2p.datadir import write_atomic
from p2p.logs import configure_logging


def write_code(graph: Path, output: Path, training: bool) -> None:
    try:
        document = load_lowered(graph.read_bytes())
        source = training_source(document) if training else model_source(document)
        write_atomic(output, source.encode(), 0o644)
    except (BackendError, OSError) as error:
        report(CommandError(f"{graph.name}: {error}"))
    print(f"{output}: {len(source.splitlines())} lines")


# -- back ----------------------------------------------------------------------------------------

_SOURCE = "code.py"
IMPORT_S = 60.0
IMPORT_MEMORY_BYTES = 4 << 30


def read_code(
    source: Path, output: Path, inputs: tuple[tuple[int, ...], ...], name: str, weights: Path | None
) -> None:
    """Ends with a line about every part of the source that has no place in a graph."""
    configure_logging("warning")
    try:
        with source.open("rb") as file:
            code = file.read(MAX_SOURCE_BYTES + 1)
        if len(code) > MAX_SOURCE_BYTES:
            raise CommandError(f"{source.name}: over {MAX_SOURCE_BYTES} bytes, which is the limit")
        graph = trio.run(_import, code, inputs, name, weights)
        write_atomic(output, dump_graph(graph), 0o644)
    except trio.TooSlowError:
        report(CommandError(f"{source.name}: no graph after {IMPORT_S:g} s"))
    except WorkerFailedError as error:
        report(CommandError(f"{source.name}: {error}"))
    except (BackendError, CommandError, OSError) as error:
        report(error)
    print(f"{output}: {len(graph.nodes)} nodes, {len(graph.links)} links")


async def _import(code: bytes, inputs: tuple[tuple[int, ...], ...], name: str, weights: Path | None) -> Graph:
    with TemporaryDirectory() as directory, trio.fail_after(IMPORT_S):
        config = PoolConfig(
            directory=Path(directory),
            memory_bytes=IMPORT_MEMORY_BYTES,
            file_bytes=IMPORT_MEMORY_BYTES,
            disk_bytes=IMPORT_MEMORY_BYTES,
            threads=1,
        )
        async with open_pool(config) as pool:
            worker = await pool.acquire()
            (worker.directory / _SOURCE).write_bytes(code)
            await worker.send(ImportCode(_SOURCE, name, inputs))
            while True:
                event, body = await worker.receive()
                match event:
                    case CodeImported(weights=file):
                        graph = _checked(body)
                        if weights is not None:
                            _take_weights(worker.path(file), graph, weights)
                        return graph
                    case Failed(kind, text):
                        raise WorkerFailedError(kind, text)
                    case _:
                        pass


def _checked(body: bytes) -> Graph:
    """What code of a stranger's made the worker say is a stranger's file. Raises BackendError."""
    graph = load_graph(body)
    errors = [each for each in diagnose(graph, for_training=False) if each.severity is Severity.ERROR]
    if errors:
        raise GraphInvalidError(tuple(errors))
    return graph


def _take_weights(found: Path, graph: Graph, target: Path) -> None:
    """Raises BackendError unless there are as many numbers as the graph has."""
    with placing(found, target) as copy:
        _check_weights(copy, graph)


def _check_weights(copy: Path, graph: Graph) -> None:
    """Raises BackendError."""
    with copy.open("rb") as file:
        header = read_tensor_header(file, copy.stat().st_size)
    shapes = infer_shapes(graph)
    counts = [shapes.nodes[node.id].counts for node in model_nodes(graph)]
    wanted = sum(count.parameters + count.buffers for count in counts)
    numbers = sum(math.prod(tensor.shape) for tensor in header.tensors.values())
    if numbers != wanted:
        raise CodeError(f"the module has {numbers} numbers in its state, the graph {wanted}")
