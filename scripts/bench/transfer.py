"""Moving files: against scp and rsync over a loopback sshd of its own; what kills and changes cost.

A file counts as moved when it is hashed and on disk (fsync) on both sides. Ours begins with a plain file that
no store has seen: it is cut, hashed and made durable, a connection is opened, and the receiver checks every
chunk and the whole. Programs that serve (ours, sshd) run already; scp and rsync are started, as they always
are. The ratio of a speed row is our MB/s by theirs: above 1 is faster. Other modules add rows by adding to
``MEASURES``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from p2p.files import FileStore, fetch, serve_transfers
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity, load_or_create_identity
from p2p.jobs import FileRef

MB = 1 << 20
QUOTA = 1 << 40
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SSH_SETTINGS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
GRAPH = Path(__file__).parents[1] / "examples" / "digits_cnn.json"
FILTERS = {"conv1": 256, "conv2": 512, "conv3": 512}
"""Of the example's layers, for a model of a size worth deduplicating."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    file_bytes: int
    rounds: int


def row(what: str, ours: float, other: float | None = None, other_name: str | None = None) -> Row:
    ratio = None if other is None else round(ours / other, 3)
    rounded = None if other is None else round(other, 4)
    return {"what": what, "ours": round(ours, 4), "other": rounded, "other_name": other_name, "ratio": ratio}


# -- the processes at the other end --------------------------------------------------------------------------


async def _serve(directory: Path, port: int) -> None:
    """A source: takes in the files named on stdin, one a line, and says how they are asked for."""
    store = FileStore(directory / "store", QUOTA)
    async with open_host(
        load_or_create_identity(directory / "key"), [f"/ip4/127.0.0.1/tcp/{port}"]
    ) as network:
        serve_transfers(network, store, lambda caller, manifest: True)
        say({"peer_id": network.peer_id, "address": network.addresses()[0]})
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line.strip():
                ref = await store.add(Path(line.strip()), move=True)
                say({"blake3": ref.blake3, "manifest": ref.manifest, "size": ref.size})
            else:
                say({"sent": store.bytes_sent})


async def _take(directory: Path, peer_id: str, address: str, blake3: str, manifest: str, size: int) -> None:
    """A receiver, which says how far it is."""
    store = FileStore(directory, QUOTA)
    async with open_host(Identity.generate(), ()) as network:
        await fetch(
            network,
            PeerId(peer_id),
            FileRef(blake3, manifest, size),
            store,
            max_bytes=size,
            addresses=[address],
            attempts=100,
            progress=lambda done, total: say({"done": done, "received": store.bytes_received}),
        )
    say({"done": size, "received": store.bytes_received})


def say(news: dict[str, Any]) -> None:
    print(json.dumps(news), flush=True)


class Process:
    """This program, in another role."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        news = self.hear_or_none()
        if news is None:
            raise SystemExit(f"process ended with {self._process.wait()}")
        return news

    def hear_or_none(self) -> dict[str, Any] | None:
        """What it says next; None at its end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                news: dict[str, Any] = json.loads(line)
                return news
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def source(directory: Path, port: int = 0) -> Iterator[tuple[Process, str, str]]:
    """A source process, its peer id and its address."""
    directory.mkdir(exist_ok=True)
    process = Process("--serve", directory, port)
    try:
        news = process.hear()
        yield process, news["peer_id"], news["address"]
    finally:
        process.kill()


def new_file(path: Path, size: int) -> Path:
    """Random bytes, on disk."""
    with path.open("wb") as file:
        for _ in range(0, size, MB):
            file.write(os.urandom(min(MB, size)))
        file.flush()
        os.fsync(file.fileno())
    return path


# -- speed ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ssh_server(directory: Path) -> Iterator[list[str]]:
    """An sshd on a free loopback port, with keys of its own; yields ssh's options."""
    for name in ("host", "user"):
        key = str(directory / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {directory}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    log = (directory / "log").open("wb")
    server = subprocess.Popen([SSHD or "sshd", "-D", "-e", "-f", str(directory / "config")], stderr=log)
    try:
        _await_port(port)
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
        ]
        yield [
            "-o",
            f"Port={port}",
            "-i",
            f"{directory}/user",
            *(word for o in options for word in ("-o", o)),
        ]
    finally:
        server.kill()
        server.wait()
        log.close()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def _fetch_ours(process: Process, peer_id: str, address: str, path: Path, directory: Path) -> float:
    """Seconds, from a file that no store has seen to one that is on disk here."""
    store = FileStore(directory, QUOTA)
    async with open_host(Identity.generate(), ()) as network:
        began = time.perf_counter()
        ref = FileRef(**await trio.to_thread.run_sync(process.ask, str(path)))
        await fetch(network, PeerId(peer_id), ref, store, max_bytes=ref.size, addresses=[address])
        return time.perf_counter() - began


def _timed_copy(command: list[str], target: Path, *, sync: bool) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    if sync:
        with target.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def measure_speed(options: Options) -> list[Row]:
    """Rows ``file_of_scp`` and ``file_of_rsync``."""
    missing = [name for name in ("scp", "rsync", "ssh-keygen") if shutil.which(name) is None]
    if SSHD is None or missing:
        print(f"no {', '.join(missing) or 'sshd'} here: file_of_scp and file_of_rsync are left out")
        return []
    seconds: dict[str, list[float]] = {"ours": [], "scp": [], "rsync": []}
    user = os.environ.get("USER") or ("root" if os.geteuid() == 0 else "")
    with tempfile.TemporaryDirectory() as name, ssh_server(Path(name)) as ssh:
        home = Path(name)
        place = f"{user}@127.0.0.1" if user else "127.0.0.1"
        with source(home / "source") as (process, peer_id, address):
            for number in range(options.rounds):
                path, target = new_file(home / "file", options.file_bytes), home / "copy"
                scp = ["scp", "-q", *ssh, f"{place}:{path}", str(target)]
                rsync = ["rsync", "--fsync", "-e", " ".join(["ssh", *ssh]), f"{place}:{path}", str(target)]
                copies = [("scp", scp), ("rsync", rsync)]
                for what, command in copies if number % 2 else copies[::-1]:
                    seconds[what].append(_timed_copy(command, target, sync=what == "scp"))
                    target.unlink()
                ours = home / f"ours-{number}"
                seconds["ours"].append(trio.run(_fetch_ours, process, peer_id, address, path, ours))
                shutil.rmtree(ours)
    speed = {what: options.file_bytes / 1e6 / statistics.median(times) for what, times in seconds.items()}
    return [
        row("file_of_scp", speed["ours"], speed["scp"], "scp (fsync)"),
        row("file_of_rsync", speed["ours"], speed["rsync"], "rsync --fsync over ssh"),
    ]


# -- kills ---------------------------------------------------------------------------------------------------


def measure_kills(options: Options) -> list[Row]:
    """Row ``resend_after_kill_bytes``: the worst of kills of the receiver, of what the source sent twice;
    row ``resend_after_source_kill_bytes``: of what the receiver got twice when the source was killed."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        with source(home / "source") as (process, peer_id, address):
            ref = process.ask(str(new_file(home / "file", options.file_bytes)))
            sent = [process.ask("")["sent"]]
            for tenth in range(2, 10, 2):
                _take_until(ref["size"] * tenth // 10, home / "ours", peer_id, address, ref).kill()
            _take_until(ref["size"], home / "ours", peer_id, address, ref).kill()
            resent = process.ask("")["sent"] - sent[0] - ref["size"] - _manifest_bytes(home / "ours", ref)
            per_kill = resent / 4
        twice = _kill_source(home, ref)
    return [row("resend_after_kill_bytes", per_kill), row("resend_after_source_kill_bytes", twice)]


def _take_until(done: int, directory: Path, peer_id: str, address: str, ref: dict[str, Any]) -> Process:
    taker = Process("--take", directory, peer_id, address, ref["blake3"], ref["manifest"], ref["size"])
    while (news := taker.hear_or_none()) is not None and news["done"] < done:
        pass
    if done == ref["size"]:
        while taker.hear_or_none() is not None:
            pass
    return taker


def _kill_source(home: Path, ref: dict[str, Any]) -> int:
    """Bytes received beyond the file and its manifest, when the source dies halfway and returns."""
    with source(home / "source") as (_, peer_id, address):
        taker = _take_until(ref["size"] // 2, home / "again", peer_id, address, ref)
    received = 0
    with source(home / "source", int(address.split("/")[4])):
        while (news := taker.hear_or_none()) is not None:
            received = news["received"]
    taker.kill()
    return int(received - ref["size"] - _manifest_bytes(home / "again", ref))


def _manifest_bytes(store: Path, ref: dict[str, Any]) -> int:
    return (store / "manifests" / ref["manifest"]).stat().st_size


# -- deduplication -------------------------------------------------------------------------------------------


def fine_tuned_pair(directory: Path) -> tuple[Path, Path]:
    """Two real models: the example's graph with more filters, before and after training its head alone."""
    import torch
    from torch.nn import functional

    from backend.checkpoint import capture_weights
    from backend.compiler import compile_graph
    from backend.formats.cyxmodel import CyxModel, TrainingState, write_cyxmodel
    from backend.serialize import dump_graph, load_graph

    torch.manual_seed(0)
    document = json.loads(GRAPH.read_bytes())
    for node in document["nodes"]:
        if node["id"] in FILTERS:
            node["parameters"]["filters"] = FILTERS[node["id"]]
    graph = load_graph(json.dumps(document).encode())
    module = compile_graph(graph).module
    head = [p for name, p in module.named_parameters() if name.startswith("dense")]
    optimizer = torch.optim.Adam(head, lr=1e-3)
    paths = directory / "base.cyxmodel", directory / "tuned.cyxmodel"
    for step, path in enumerate(paths):
        if step:
            module.eval()
            for _ in range(3):
                optimizer.zero_grad()
                x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
                functional.cross_entropy(module(x), y).backward()
                optimizer.step()
        state = TrainingState(step, 1, 1, step, 0, 1797, (1, 8, 8), 10)
        write_cyxmodel(path, CyxModel(dump_graph(graph), capture_weights(module), state))
    return paths


async def _fetch_changed(home: Path, base: Path, tuned: Path) -> tuple[int, int]:
    """Bytes received for a model of which an earlier one is here, manifest included, and its size."""
    theirs, ours = FileStore(home / "theirs", QUOTA), FileStore(home / "ours", QUOTA)
    await ours.add(base)
    ref = await theirs.add(tuned)
    async with (
        open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as giver,
        open_host(Identity.generate(), ()) as taker,
    ):
        serve_transfers(giver, theirs, lambda caller, manifest: True)
        await fetch(taker, giver.peer_id, ref, ours, max_bytes=ref.size, addresses=giver.addresses())
    return ours.bytes_received, ref.size


def measure_changed_head(options: Options) -> list[Row]:
    """Row ``changed_head_bytes_ratio``: of a .cyxmodel of which all but the head is held already."""
    with tempfile.TemporaryDirectory() as name:
        base, tuned = fine_tuned_pair(Path(name))
        received, size = trio.run(_fetch_changed, Path(name), base, tuned)
    print(f"changed head: {received} of {size} bytes moved, manifest included")
    return [row("changed_head_bytes_ratio", received / size)]


def measure_streamed_training(options: Options) -> list[Row]:
    import streamed_training  # its own program too; beside this file

    return streamed_training.measure(min(options.rounds, 3))


MEASURES: list[Callable[[Options], list[Row]]] = [
    measure_speed,
    measure_kills,
    measure_changed_head,
    measure_streamed_training,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, metavar=("DIRECTORY", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--take", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if arguments.serve:
        directory, port = arguments.serve
        trio.run(_serve, Path(directory), int(port))
    elif arguments.take:
        directory, *names, size = arguments.take
        trio.run(_take, Path(directory), *names, int(size))
    else:
        options = Options(arguments.megabytes * MB, arguments.rounds)
        report([found for measure in MEASURES for found in measure(options)], as_json=arguments.json)


def report(rows: list[Row], *, as_json: bool) -> None:
    print(f"{'':32}{'ours':>14}{'other':>12}{'ratio':>8}")
    for found in rows:
        other, ratio = found["other"] or "", found["ratio"] or ""
        print(f"{found['what']:32}{found['ours']:>14}{other:>12}{ratio:>8}  {found['other_name'] or ''}")
    if as_json:
        print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
