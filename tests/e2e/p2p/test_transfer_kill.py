"""A real process is killed while it fetches over a real connection, and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import trio

from p2p.files import FileStore, serve_transfers
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import FileRef
from p2p.transfer import DEFAULT_CHUNK_BYTES, max_manifest_bytes

DATA = Random(11).randbytes(24 * DEFAULT_CHUNK_BYTES + 12_345)
QUOTA = 1 << 30
FETCHER = """
import sys
from pathlib import Path
import trio
from p2p.files import FileStore, fetch
from p2p.host import open_host
from p2p.identity import Identity
from p2p.jobs import FileRef

async def main(directory, source, address, blake3, manifest, size):
    store = FileStore(Path(directory), 1 << 30)
    async with open_host(Identity.generate(), ()) as network:
        ref = FileRef(blake3, manifest, int(size))
        path = await fetch(network, source, ref, store, max_bytes=1 << 30, addresses=[address])
        print(store.bytes_received, path)

trio.run(main, *sys.argv[1:])
"""


class Fetcher:
    """The process that fetches; killed as soon as the source has been asked past ``dies_at`` bytes."""

    def __init__(self, directory: Path, source: PeerId, address: str, ref: FileRef, store: FileStore) -> None:
        self._arguments = [str(directory), source, address, ref.blake3, ref.manifest, str(ref.size)]
        self._store = store
        self._process: subprocess.Popen[str] | None = None
        self._dies_at = 0

    def authorize(self, caller: PeerId, manifest: str) -> bool:
        if self._process is not None and self._store.bytes_sent >= self._dies_at:
            self._process.kill()
        return True

    async def run(self, dies_at: int) -> tuple[int, str]:
        """Exit code and output."""
        self._dies_at = dies_at
        command = [sys.executable, "-c", FETCHER, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        output, _ = await trio.to_thread.run_sync(self._process.communicate)
        return self._process.returncode, output


@pytest.mark.e2e
async def test_a_fetch_killed_again_and_again_resends_a_chunk_each_time_at_most(tmp_path: Path) -> None:
    theirs = FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(DATA)
    async with open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network:
        fetcher = Fetcher(tmp_path / "ours", network.peer_id, network.addresses()[0], ref, theirs)
        serve_transfers(network, theirs, fetcher.authorize)
        kills = (300_000, 9 * DEFAULT_CHUNK_BYTES + 70_000, 17 * DEFAULT_CHUNK_BYTES)
        for number, dies_at in enumerate(kills, start=1):
            code, _ = await fetcher.run(dies_at)
            assert code == -9
            left = (tmp_path / "ours" / "partial" / ref.manifest).stat().st_size
            assert theirs.bytes_sent <= left + number * DEFAULT_CHUNK_BYTES + max_manifest_bytes(len(DATA))
        code, output = await fetcher.run(dies_at=QUOTA)
    assert code == 0
    received, path = output.splitlines()[-1].split()
    assert await trio.Path(path).read_bytes() == DATA
    assert int(received) == len(DATA) - left, "the last run fetched the rest only"
    assert theirs.bytes_sent <= len(DATA) + len(kills) * DEFAULT_CHUNK_BYTES + max_manifest_bytes(len(DATA))
