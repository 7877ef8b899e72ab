"""Real processes are killed while they fetch, or give, over a real connection, and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from p2p.files import FileStore, serve_transfers
from p2p.host import open_host
from p2p.identity import Identity, load_or_create_identity
from p2p.jobs import FileRef
from p2p.transfer import max_manifest_bytes
from p2p.transfer_plan import MIN_SPAN_BYTES

DATA = Random(11).randbytes(48 << 20)
QUOTA = 1 << 30
WINDOW = 1 << 20
BOUND = WINDOW + MIN_SPAN_BYTES + max_manifest_bytes(len(DATA))
"""What one kill may cost: what is on the way, the span that fills the window, and the manifest again."""

FETCHER = f"""
import json, sys
from pathlib import Path
import trio
from p2p.files import FileStore, fetch
from p2p.host import open_host
from p2p.identity import Identity
from p2p.jobs import FileRef

async def main(directory, source, address, blake3, manifest, size):
    store = FileStore(Path(directory), 1 << 30)
    def progress(done, total):
        print(json.dumps({{"done": done, "received": store.bytes_received}}), flush=True)
    async with open_host(Identity.generate(), ()) as network:
        ref = FileRef(blake3, manifest, int(size))
        path = await fetch(
            network, source, ref, store, max_bytes=1 << 30, addresses=[address], progress=progress,
            attempts=50, max_window_bytes={WINDOW},
        )
        print(json.dumps({{"path": str(path), "received": store.bytes_received}}), flush=True)

trio.run(main, *sys.argv[1:])
"""
SOURCE = """
import sys
from pathlib import Path
import trio
from p2p.files import FileStore, serve_transfers
from p2p.host import open_host
from p2p.identity import load_or_create_identity

async def main(directory, port):
    store = FileStore(Path(directory) / "store", 1 << 30)
    identity = load_or_create_identity(Path(directory) / "key")
    async with open_host(identity, [f"/ip4/127.0.0.1/tcp/{port}"]) as network:
        serve_transfers(network, store, lambda caller, manifest: True)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lines_of(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return (json.loads(line) for line in process.stdout if line.startswith("{"))


def fetch_until(arguments: list[object], done: int) -> int:
    """Kills the fetching process once so many bytes are on its disk; the bytes of it that came."""
    process = start(FETCHER, *arguments)
    received = 0
    for line in lines_of(process):
        received = line["received"]
        if line["done"] >= done:
            process.kill()
            break
    process.kill()
    process.wait()
    return int(received)


@pytest.mark.e2e
async def test_a_fetch_killed_again_and_again_resends_a_window_each_time_at_most(tmp_path: Path) -> None:
    theirs = FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(DATA)
    kills = (1, 12 << 20, 24 << 20)
    async with open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network:
        serve_transfers(network, theirs, lambda caller, manifest: True)
        arguments: list[object] = [tmp_path / "ours", network.peer_id, network.addresses()[0]]
        arguments += [ref.blake3, ref.manifest, ref.size]
        for number, done in enumerate(kills, start=1):
            await trio.to_thread.run_sync(fetch_until, arguments, done)
            assert not (tmp_path / "ours" / "files" / ref.blake3).exists()
            left = FileStore(tmp_path / "ours", QUOTA)
            async with left.receiving(ref) as incoming:
                assert incoming.stored >= done
                assert theirs.bytes_sent <= incoming.stored + number * BOUND
        *_, last = await trio.to_thread.run_sync(lambda: list(lines_of(start(FETCHER, *arguments))))
    assert await trio.Path(last["path"]).read_bytes() == DATA
    assert theirs.bytes_sent <= len(DATA) + len(kills) * BOUND


@pytest.mark.e2e
def test_a_source_killed_and_started_again_sends_a_window_twice_at_most(tmp_path: Path) -> None:
    home = tmp_path / "theirs"
    home.mkdir()
    ref: FileRef = trio.run(FileStore(home / "store", QUOTA).add_bytes, DATA)
    peer_id = load_or_create_identity(home / "key").peer_id
    source = start(SOURCE, home, 0)
    assert source.stdout is not None
    address = source.stdout.readline().strip()
    port = address.split("/")[4]
    fetcher = start(FETCHER, tmp_path / "ours", peer_id, address, ref.blake3, ref.manifest, ref.size)
    kills = [8 << 20, 24 << 20]
    last: dict[str, Any] = {}
    try:
        for last in lines_of(fetcher):
            if kills and last.get("done", 0) >= kills[0]:
                kills.pop(0)
                source.kill()
                source.wait()
                source = start(SOURCE, home, port)
    finally:
        for process in (source, fetcher):
            process.kill()
            process.wait()
    assert kills == []
    assert Path(last["path"]).read_bytes() == DATA
    # What was received whole is all that counts here: nothing of it is fetched again.
    assert last["received"] <= len(DATA) + 2 * BOUND
