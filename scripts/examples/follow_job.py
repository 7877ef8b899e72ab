"""Goes on with a job until it is over: checks and pays what the peer delivers. Prints the model's hash.

usage: follow_job.py DATA_DIR COORDINATOR JOB

JOB is an id, or the beginning of one.
"""

from __future__ import annotations

import sys

import trio

from p2p.api import open_engine


async def main(data_dir: str, coordinator: str, job: str) -> None:
    async with open_engine(data_dir, coordinator=coordinator) as engine:
        async for news in engine.follow(job):
            if news.text:
                print(f"{news.kind.value:<10} {news.text}", file=sys.stderr)
        summary = engine.job(job)
    if summary["result"] is None:
        sys.exit(f"the job is {summary['state']}: {summary['text']}")
    print(summary["result"]["blake3"])


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:4])
