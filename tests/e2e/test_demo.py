"""scripts/demo.py as a user runs it: what it promises in its JSON, and nothing left behind by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_network import loopback_environment, wait_until

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    loopback_environment()
    words = [sys.executable, str(DEMO), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_demo_learns_and_the_peer_answers_as_the_model_does_here(found: dict[str, Any]) -> None:
    assert found["test_accuracy"] >= 0.98
    assert found["parity_argmax_equal"] is True
    assert found["parity_max_difference"] < 1e-5
    for name in ("samples_per_s", "submit_to_first_batch_s", "wall_s", "bytes_moved", "infer_p50_ms"):
        assert found[name] > 0
    assert found["submit_to_first_batch_s"] < found["wall_s"]


def test_the_demo_names_what_happened(found: dict[str, Any]) -> None:
    assert len(found["model_blake3"]) == len(found["job_id"]) == 64
    assert found["peer_id"].startswith("12D3KooW")
    signatures = {found["escrow_create_signature"], found["escrow_settle_signature"]}
    assert len(signatures) == 2 and all(len(signature) >= 86 for signature in signatures)


def test_the_demo_pays_exactly_ninety_to_ten(found: dict[str, Any]) -> None:
    money = found["balances"]
    paid = money["user_before"] - money["user_after"]
    assert paid > 0
    assert money["platform_after"] - money["platform_before"] == paid // 10
    assert money["node_after"] - money["node_before"] == paid - paid // 10


def processes_with(text: str) -> list[int]:
    """Processes whose command line or environment names ``text``."""
    return [pid for pid in _pids() if text in _words(pid)]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _words(pid: int) -> str:
    words = b""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            words += Path(f"/proc/{pid}/{name}").read_bytes()
    return words.decode(errors="replace")


MOMENTS = (
    "starting a coordinator",
    "starting a peer",
    "making a wallet",
    "submitted",
    "segment 1 of 4",
    "calling the model",
)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_leaves_no_process_behind(tmp_path: Path, moment: str) -> None:
    """Ctrl-C reaches every process of the terminal's group."""
    interrupt(tmp_path / "kept", moment, lambda demo: os.killpg(demo.pid, signal.SIGINT))


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS[-2:])
def test_an_end_from_outside_leaves_no_process_behind(tmp_path: Path, moment: str) -> None:
    interrupt(tmp_path / "kept", moment, lambda demo: demo.send_signal(signal.SIGTERM))


def interrupt(kept: Path, moment: str, hurt: Callable[[subprocess.Popen[str]], None]) -> None:
    loopback_environment()
    demo = subprocess.Popen(
        [sys.executable, str(DEMO), "--keep", str(kept)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    assert demo.stderr is not None
    assert next(line for line in demo.stderr if moment in line)
    assert processes_with(str(kept))
    hurt(demo)
    try:
        _, rest = demo.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(demo.pid, signal.SIGKILL)
        raise
    assert demo.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "stopped; nothing is left running"
    wait_until(lambda: not processes_with(str(kept)), 30, "the last process to end")
