"""Training on samples streamed over loopback against training on the same file, with the same model.

The Engine's end runs in a process of its own; the peer's end is what a peer runs: its link to the Engine
and its sandboxed worker, over real connections. Timed is the training alone, from leave to train to the
finished model; of the streamed one at most 8 MiB are ahead of their use. Rounds alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import trio

from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.reports import (
    AllowSegments,
    Event,
    Failed,
    Finished,
    Train,
    TrainingPrepared,
    WantSamples,
)
from backend.serialize import dump_graph, graph_hash
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from engine_app.checks import BackendChecks
from engine_app.owner import BackendOwner
from p2p.auth import issue_token
from p2p.files import FileStore
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import DataSummary, Delivery, FileRef, JobSpec, JobState
from p2p.network import Network
from p2p.protocols.coordinator import ChainInfo, Lease, LeaseRef, SignedRecord
from p2p.session.coordinator_link import open_coordinator
from p2p.session.engine_parts import Engine
from p2p.session.job import Job
from p2p.session.own_data import OwnData
from p2p.session.samples import SampleService
from p2p.session.store import open_store
from p2p.session.treasury import NoTreasury
from peer.samples import Listener, SampleLink, Source

SHAPE, CLASSES, SAMPLES = (1, 28, 28), 10, 30_000
AHEAD_BYTES = 8 << 20
DATA_FILE = "data.safetensors"
JOB_ID, LEASE = "ab" * 32, LeaseRef("lease", 1)
WALLET = "1" * 32
CHAIN = ChainInfo("http://127.0.0.1:1", WALLET, WALLET, WALLET, WALLET, True, 60)
ENGINE, PEER, COORDINATOR = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
CNN = (
    Node("conv1", "Conv2D", parameters={"filters": 16, "padding": "same"}),
    Node("relu1", "ReLU"),
    Node("pool1", "MaxPool2D"),
    Node("conv2", "Conv2D", parameters={"filters": 32, "padding": "same"}),
    Node("relu2", "ReLU"),
    Node("pool2", "MaxPool2D"),
    Node("flatten", "Flatten"),
    Node("head", "Dense", parameters={"units": CLASSES}),
)
MLP = (
    Node("flatten", "Flatten"),
    Node("dense", "Dense", parameters={"units": 128}),
    Node("relu", "ReLU"),
    Node("head", "Dense", parameters={"units": CLASSES}),
)
NETWORKS = {"cnn": (CNN, 2), "mlp": (MLP, 8)}
"""Layers, and epochs: seconds of training each."""

Row = dict[str, Any]


def make_graph(layers: tuple[Node, ...], epochs: int) -> Graph:
    data = (
        Node("data", "DatasetInput", parameters={"sample_shape": list(SHAPE), "classes": CLASSES}),
        Node("split", "DataSplit", parameters={"train": 1.0, "validation": 0.0, "test": 0.0}),
        Node("normalize", "Normalize"),
        Node("loader", "DataLoader", parameters={"batch_size": 128}),
    )
    ends = (Node("loss", "CrossEntropyLoss"), Node("optimizer", "Adam"))
    body = (Node("input", "Input", parameters={"shape": list(SHAPE)}), *layers, Node("output", "Output"))
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "input", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(body)),
        Link("output", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "optimizer", "loss"),
    )
    return Graph("bench", (*data, *body, *ends), links, TrainingSettings(epochs=epochs, seed=1))


def write_data(path: Path) -> None:
    random = np.random.RandomState(0)
    x = random.randint(0, 256, (SAMPLES, *SHAPE), dtype=np.uint8)
    path.write_bytes(pack_tensors({"x": x, "y": random.randint(0, CLASSES, SAMPLES).astype(np.int64)}))


# -- the Engine's end ------------------------------------------------------------------------------


async def serve(directory: Path) -> None:
    """Gives the rows of DATA_FILE for the graph of each name, until its input ends."""
    files = FileStore(directory / "store", 1 << 40)
    async with open_host(ENGINE, ["/ip4/127.0.0.1/tcp/0"]) as network:
        file = await files.add(directory / DATA_FILE)
        with open_store(directory / "jobs.sqlite") as store:
            async with open_coordinator(network, COORDINATOR.peer_id, (), "bench", time.time) as link:
                data = OwnData(BackendOwner(), files, store, directory / "workspace")
                engine = Engine(
                    network=network,
                    coordinator=link,
                    treasury=NoTreasury(directory / "wallet"),
                    files=files,
                    checks=BackendChecks(),
                    store=store,
                    data=data,
                    now=time.time,
                    chain=CHAIN,
                )
                jobs = {}
                for number, (layers, epochs) in enumerate(NETWORKS.values()):
                    graph = make_graph(layers, epochs)
                    job = make_job(job_id(number), graph, file)
                    await store.create(job, dump_graph(graph))
                    await data.samples_of(job)
                    jobs[job.job_id] = job
                SampleService(engine, jobs.get).serve()
                facts = {"address": network.addresses()[0], "file": [file.blake3, file.manifest, file.size]}
                print(json.dumps(facts), flush=True)
                await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def job_id(number: int) -> str:
    return f"{number:064x}"


def make_job(name: str, graph: Graph, file: FileRef) -> Job:
    lease = Lease(LEASE.lease_id, LEASE.fencing, PEER.peer_id, 0, 1, 0, SignedRecord(b"", bytes(64)), 1e10)
    spec = JobSpec(name, graph_hash(graph), summary_of(file), 1, WALLET, 1)
    return Job(spec, "bench", COORDINATOR.peer_id, 1, 10, 0.0, state=JobState.RUNNING, lease=lease)


def summary_of(file: FileRef) -> DataSummary:
    return DataSummary(file, SAMPLES, SHAPE, "uint8", CLASSES, Delivery.STREAM)


@contextmanager
def engine_process(directory: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, __file__, "--serve", str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(next(line for line in process.stdout if line.startswith("{")))
    finally:
        process.kill()
        process.wait()


# -- the peer's end --------------------------------------------------------------------------------


async def run_training(worker: Worker, order: Train, graph: bytes, link: SampleLink | None) -> float:
    """Seconds from the leave to train to the finished model."""
    await worker.send(order, graph)
    began = 0.0
    while True:
        event: Event = (await worker.receive(300))[0]
        match event:
            case TrainingPrepared():
                began = time.perf_counter()
                await worker.send(AllowSegments(1))
            case WantSamples() if link is not None:
                link.want(event)
            case Finished():
                return time.perf_counter() - began
            case Failed():
                raise SystemExit(f"training failed: {event}")


def order(**fields: Any) -> Train:
    settings = {"dataset": DATA_FILE, "checkpoint": None, "segments": 1, "first_segment": 0, **fields}
    return Train(**settings, allowed_segments=0, device="cpu", prepare_only=True)


@asynccontextmanager
async def open_link(network: Network, number: int, file: FileRef) -> AsyncIterator[SampleLink]:
    token = issue_token(
        COORDINATOR,
        subject=ENGINE.peer_id,
        audience=PEER.peer_id,
        job_id=job_id(number),
        scope="job",
        now=time.time(),
        jti="bench-token",
    )
    source = Source(PeerId(ENGINE.peer_id), job_id(number), LEASE, summary_of(file), lambda: token)

    async def told(text: str = "") -> None:
        if text:
            print(text, file=sys.stderr)

    link = SampleLink(network, source, Listener(told, told, told), AHEAD_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.opened.wait()
        yield link
        nursery.cancel_scope.cancel()


async def alternate(directory: Path, engine: dict[str, Any], rounds: int) -> list[Row]:
    rows = []
    file = FileRef(*engine["file"])
    async with open_host(PEER, ()) as network, open_pool(PoolConfig(directory / "workers")) as pool:
        await network.connect(ENGINE.peer_id, [engine["address"]])
        worker = await pool.acquire(120)
        (worker.directory / DATA_FILE).write_bytes((directory / DATA_FILE).read_bytes())
        for number, (name, (layers, epochs)) in enumerate(NETWORKS.items()):
            graph = dump_graph(make_graph(layers, epochs))
            local, streamed = [], []
            for _ in range(rounds):
                local.append(await run_training(worker, order(), graph, None))
                async with open_link(network, number, file) as link:
                    fed = order(dataset=None, stream=link.stream(worker))
                    streamed.append(await run_training(worker, fed, graph, link))
            rates = [round(epochs * SAMPLES / statistics.median(times)) for times in (streamed, local)]
            what = "streamed_training_of_local" + ("" if name == "cnn" else f"_{name}")
            rows.append(
                {
                    "what": what,
                    "ours": rates[0],
                    "other": rates[1],
                    "other_name": f"local file, samples/s of a small {name}",
                    "ratio": round(rates[0] / rates[1], 3),
                }
            )
    return rows


def measure(rounds: int = 3) -> list[Row]:
    """Samples a second, streamed and local."""
    with tempfile.TemporaryDirectory(prefix="cyxwiz-bench-") as name:
        directory = Path(name)
        write_data(directory / DATA_FILE)
        with engine_process(directory) as engine:
            return trio.run(alternate, directory, engine, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if options.serve:
        trio.run(serve, Path(options.serve))
        return
    rows = measure(options.rounds)
    for row in rows:
        print(f"{row['what']:<32}{row['ours']:>8}{row['other']:>8}{row['ratio']:>8}  {row['other_name']}")
    if options.json:
        print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
