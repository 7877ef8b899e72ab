"""How soon a submitted job trains, and what settling costs: real processes, chain and disk on loopback."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "bench")]

import settle  # noqa: E402
from demo import submit_words, write_digits  # noqa: E402
from local_network import LocalNetwork, loopback_environment  # noqa: E402


def first_batch_s(repeats: int) -> float:
    """Median seconds from submitting to the first trained batch, on a peer with pre-warmed workers."""
    loopback_environment()
    with tempfile.TemporaryDirectory(prefix="cyxwiz-bench-") as name:
        network = LocalNetwork(Path(name))
        try:
            network.start_coordinator()
            network.start_peer("peer", "10", "--gpus", "none")
            network.engine("wallet", "new")
            network.engine("wallet", "airdrop", "100", "--coordinator", network.address)
            data = write_digits(Path(name) / "digits.safetensors")
            return statistics.median(one_job(network, data) for _ in range(repeats))
        finally:
            network.stop()


def one_job(network: LocalNetwork, data: Path) -> float:
    run = network.follow(*submit_words(data))
    at = 0.0
    for news in run.news():
        if news["kind"] == "progress" and not at:
            at = news["at"]
    return at - float(run.finish()["created_at"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    seconds = round(first_batch_s(options.repeats), 3)
    first: dict[str, Any] = {"what": "submit_to_first_batch_s", "ours": seconds}
    rows = [{**first, "other": None, "other_name": None, "ratio": None}, *settle.measure()]
    for row in rows:
        print(f"{row['what']:<26}{row['ours']:>12}")
    if options.json:
        print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
