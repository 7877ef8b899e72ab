"""How fast a device trains one graph: some steps of it, in a sandboxed worker of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from backend.errors import BackendError, WorkerError, WorkerFailedError
from backend.estimate import Estimate
from backend.graph import Graph
from backend.readers import convert
from backend.reports import Failed, Finished, Progress, Train
from backend.serialize import dump_graph
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from engine_app.checks import DATA_FILE
from engine_app.entry import report
from p2p.logs import configure_logging

TIMEOUT_S = 60.0
MEASURED_S = 2.0
LEAST_STEPS = 3
REPORT_EVERY_S = 0.1
MEMORY_BYTES = 8 << 30
EPOCHS = 1000
"""More than are run: it is stopped when there are enough steps."""


def measured_rate(graph: Graph, data: Path, size: Estimate, device: str) -> float:
    """FLOP/s of training this graph; ends the command with a line where it cannot be measured."""

    async def main() -> float:
        with TemporaryDirectory() as name, trio.fail_after(TIMEOUT_S):
            memory = max(MEMORY_BYTES, 2 * size.memory_bytes)
            config = PoolConfig(directory=Path(name), memory_bytes=memory, device=device)
            async with open_pool(config) as pool:
                return await _rate(await pool.acquire(), graph, data, size, device)

    configure_logging("warning")
    try:
        return trio.run(main)
    except trio.TooSlowError:
        report(WorkerError(f"{device} took no {LEAST_STEPS} steps in {TIMEOUT_S:g} s"))
    except (BackendError, OSError) as error:
        report(error)


async def _rate(worker: Worker, graph: Graph, data: Path, size: Estimate, device: str) -> float:
    await trio.to_thread.run_sync(convert, data, worker.directory / DATA_FILE)
    long = replace(graph, training=replace(graph.training, epochs=EPOCHS))
    await worker.send(Train(DATA_FILE, None, 1, 0, 1, device, REPORT_EVERY_S), dump_graph(long))
    first = last = (0, 0.0)
    while not first[0] or last[1] - first[1] < MEASURED_S or last[0] < first[0] + LEAST_STEPS:
        event, _ = await worker.receive()
        match event:
            case Progress(metrics):
                last = metrics.step, trio.current_time()
                # The first step is the slowest: what comes after it counts.
                first = first if first[0] else last
            case Failed(code, text):
                raise WorkerFailedError(code, text)
            case Finished():
                break
            case _:
                pass
    if last[0] == first[0]:
        raise WorkerError("the training was over before its speed could be measured")
    steps_per_s = (last[0] - first[0]) / (last[1] - first[1])
    return steps_per_s * size.training_flops / size.steps
