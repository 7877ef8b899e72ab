"""Submits a job and stays until a peer trains it.

usage: submit_job.py DATA_DIR COORDINATOR GRAPH DATA BUDGET

DATA_DIR holds the wallet (`cyxwiz --data-dir DATA_DIR wallet new`), DATA is .safetensors, .npz or .csv,
BUDGET is in CYXWIZ. Prints the job's id; follow_job.py goes on with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from p2p.api import open_engine, tokens


async def main(data_dir: str, coordinator: str, graph: str, data: str, budget: str) -> None:
    async with open_engine(data_dir, coordinator=coordinator) as engine:
        job = await engine.submit(Path(graph), Path(data), tokens(budget))
        async for news in engine.follow(job):
            if news.metrics is not None:  # the peer has the data and trains
                break
            print(news.text, file=sys.stderr)
    print(job)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:6])
