"""How fast is a device? A short training of a small convolutional graph in a worker, remembered.

The figure goes into the peer's record and from there into every price: measured once for a device,
so that a busy moment does not change what jobs cost.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import struct
from pathlib import Path

import structlog
import trio

from backend.errors import WorkerError
from backend.estimate import estimate
from backend.reports import AllowSegments, Failed, Finished, Progress, Train
from backend.serialize import load_graph
from backend.workers.supervisor import WorkerPool
from peer.devices import OfferedDevice
from peer.store import Store

log = structlog.get_logger(__name__)

SAMPLES = 2048
SAMPLE_SHAPE = (1, 16, 16)
CLASSES = 4
DATA_FILE = "measure.safetensors"
TIMEOUT_S = 120.0
REPORT_EVERY_S = 0.1
GRAPH_FILE = Path(__file__).with_name("benchmark.json")


async def measured_speed(device: OfferedDevice, pool: WorkerPool, store: Store) -> int:
    """FLOP/s of training on the device: as remembered, or measured now. Raises WorkerError."""
    fact = f"flops_per_s/{device.kind.value}/{device.name}"
    remembered = await store.fact(fact)
    if remembered is not None:
        return int(remembered)
    with trio.fail_after(TIMEOUT_S):
        speed = await _measure(device.torch_name, pool)
    log.info("device measured", device=device.name, gflops_per_s=round(speed / 1e9, 2))
    await store.remember(fact, str(speed).encode())
    return speed


async def _measure(device: str, pool: WorkerPool) -> int:
    graph = GRAPH_FILE.read_bytes()
    pool.start_worker()  # the first job comes soon: one worker measures, another warms beside it
    worker = await pool.acquire()
    try:
        (worker.directory / DATA_FILE).write_bytes(random_dataset())
        train = Train(DATA_FILE, None, 1, 0, 0, device, REPORT_EVERY_S, prepare_only=True)
        await worker.send(train, graph)
        await worker.send(AllowSegments(1))
        rates: list[float] = []
        while True:
            event, _ = await worker.receive()
            match event:
                case Progress(metrics) if metrics.samples_per_s is not None:
                    rates.append(metrics.samples_per_s)
                case Failed(code, text):
                    raise WorkerError(f"measuring {device}: {code}: {text}")
                case Finished():
                    return _speed(graph, rates)
                case _:
                    pass
    finally:
        await worker.aclose()


def _speed(graph: bytes, rates: list[float]) -> int:
    """From the median of the samples per second: what a job may expect on an ordinary day."""
    rate = statistics.median(rates) if rates else 0.0
    if not 0 < rate < math.inf:
        raise WorkerError(f"measured {rate} samples per second, must be positive")
    parsed = load_graph(graph)
    flops = estimate(parsed, SAMPLES, SAMPLE_SHAPE).training_flops
    return max(1, int(flops / (SAMPLES * parsed.training.epochs) * rate))


def random_dataset() -> bytes:
    """A safetensors file of noise with labels; written by hand, since this process loads no numpy."""
    generator = random.Random(0)
    size = SAMPLE_SHAPE[0] * SAMPLE_SHAPE[1] * SAMPLE_SHAPE[2]
    x = generator.randbytes(SAMPLES * size)
    y = struct.pack(f"<{SAMPLES}q", *(index % CLASSES for index in range(SAMPLES)))
    header = {
        "x": {"dtype": "U8", "shape": [SAMPLES, *SAMPLE_SHAPE], "data_offsets": [0, len(x)]},
        "y": {"dtype": "I64", "shape": [SAMPLES], "data_offsets": [len(x), len(x) + len(y)]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + x + y
