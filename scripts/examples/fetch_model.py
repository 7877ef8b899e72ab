"""Writes the trained model of a job to a file, without async: as in a notebook.

usage: fetch_model.py DATA_DIR COORDINATOR JOB OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from p2p.api import Engine


def main(data_dir: str, coordinator: str, job: str, output: str) -> None:
    with Engine(data_dir, coordinator=coordinator) as engine:
        path = engine.fetch(job, Path(output))
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:5])
