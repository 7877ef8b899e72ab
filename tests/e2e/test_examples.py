"""The example scripts, each run as a user would, one after the other on one job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_network import LocalNetwork, wait_until

from backend.datasets import load_dataset

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


def run(script: str, *arguments: str) -> str:
    """The last line of stdout."""
    words = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def jobs_that_run(network: LocalNetwork) -> list[str]:
    return [job["job_id"] for job in network.ask("coordinator", "jobs") if job["state"] == "running"]


@pytest.mark.e2e
def test_the_examples_submit_follow_fetch_and_call(
    network: LocalNetwork, graph: Path, stripes: Path, tmp_path: Path
) -> None:
    peer = network.start_peer("peer", "10", "--gpus", "none")
    here = (str(network.engine_home), network.address)
    job = run("submit_job.py", *here, str(graph), str(stripes), "5")
    assert wait_until(lambda: jobs_that_run(network), 60, "the job to run") == [job]
    model = run("follow_job.py", *here, job[:12])
    assert network.ask_engine("jobs")[0]["result"]["blake3"] == model
    target = tmp_path / "stripes.cyxmodel"
    assert run("fetch_model.py", *here, job, str(target)) == str(target)
    data = load_dataset(stripes)
    np.save(tmp_path / "x.npy", data.x[:100])
    classes = run("call_model.py", *here, peer["peer_id"], model, str(tmp_path / "x.npy"))
    assert (np.array(classes.split(), int) == data.y[:100]).mean() > 0.9
