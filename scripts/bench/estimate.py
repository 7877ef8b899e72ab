"""Is a training over when `cyxwiz check --measure cpu` says? Ours: seconds predicted; other: taken.

Both run in the sandboxed worker of `cyxwiz train`; the time taken is that of the steps, without its start.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from backend.estimate import estimate, training_seconds
from backend.readers import convert
from backend.reports import AllowSegments, Failed, Finished, Train, TrainingPrepared
from backend.serialize import load_graph
from backend.workers.supervisor import PoolConfig, open_pool
from engine_app.checks import DATA_FILE
from engine_app.rehearsal import measured_rate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DATA = Path("bundled:digits")


async def _taken(graph: bytes) -> float:
    """Seconds from the first step to the end of the last."""
    with TemporaryDirectory() as name:
        async with open_pool(PoolConfig(directory=Path(name))) as pool:
            worker = await pool.acquire()
            await trio.to_thread.run_sync(convert, DATA, worker.directory / DATA_FILE)
            await worker.send(Train(DATA_FILE, None, 1, 0, 0, "cpu", prepare_only=True), graph)
            began = 0.0
            while True:
                event, _ = await worker.receive(timeout_s=300)
                match event:
                    case TrainingPrepared():
                        began = time.monotonic()
                        await worker.send(AllowSegments(1))
                    case Finished():
                        return time.monotonic() - began
                    case Failed(code, text):
                        raise SystemExit(f"{code}: {text}")
                    case _:
                        pass


def measure(name: str) -> dict[str, Any]:
    data = (EXAMPLES / f"{name}.json").read_bytes()
    graph = load_graph(data)
    with TemporaryDirectory() as directory:
        facts = convert(DATA, Path(directory) / DATA_FILE)
    size = estimate(graph, facts.samples, facts.sample_shape)
    predicted = training_seconds(size, measured_rate(graph, DATA, size, "cpu"))
    taken = trio.run(_taken, data)
    row = {"what": f"seconds_of_{name}", "ours": predicted, "other": taken, "other_name": "taken"}
    return row | {"ratio": predicted / taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    arguments = parser.parse_args()
    results = [measure(name) for name in ("digits_cnn", "digits_mlp")]
    print(f"{'':28}{'predicted s':>12}{'taken s':>10}{'ratio':>8}")
    for row in results:
        print(f"{row['what']:28}{row['ours']:12.2f}{row['other']:10.2f}{row['ratio']:8.2f}")
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
