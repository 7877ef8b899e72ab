"""Calls a trained model on the peer that made it and prints the class of each sample.

usage: call_model.py DATA_DIR COORDINATOR PEER MODEL INPUT

MODEL is the hash that follow_job.py prints, INPUT a .npy whose first dimension is the batch.
"""

from __future__ import annotations

import sys

import numpy
import trio

from p2p.api import open_engine


async def main(data_dir: str, coordinator: str, peer: str, model: str, source: str) -> None:
    samples = numpy.load(source, allow_pickle=False)
    async with open_engine(data_dir, coordinator=coordinator) as engine:
        scores = await engine.infer(peer, model, samples)
    print(*scores.argmax(axis=1))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:6])
