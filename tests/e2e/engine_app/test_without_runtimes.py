"""Where neither torch nor another runtime can be imported: design, wallet and remote jobs work as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_network import LocalNetwork, loopback_environment

pytestmark = pytest.mark.e2e


def test_one_designs_pays_and_submits_without_any_runtime(tmp_path: Path) -> None:
    loopback_environment()
    network = LocalNetwork(tmp_path)
    try:
        network.start_coordinator()
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.engine_app.without_runtimes", str(tmp_path), network.address],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"SDL_VIDEODRIVER": "offscreen"},
        )
    finally:
        network.stop()
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["loaded"] == []
    assert "torch" in told["training"]  # it says why nothing is trained here
    assert not [words for words in told["started"] if "workers" in words]
    assert (told["errors"], told["undone"]) == (0, 1)
    assert told["problems"] == ["", ""] and told["units"] == 100 * 10**9
    assert told["state"] in ("submitted", "matched", "awaiting funds", "waiting for user")
