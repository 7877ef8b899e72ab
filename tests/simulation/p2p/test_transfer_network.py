"""Transfers on a network that loses, parts and dies; each seed is one story, the same every time."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio

from p2p.disk import run_inline
from p2p.errors import ConnectionFailedError, DeadlineError, SourceRefusedError, StreamResetError
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import FileRef
from p2p.network import Network
from p2p.partial import Arrival
from p2p.testing import MemoryNet
from p2p.transfer import encode_manifest, manifest_hash, manifest_of

SOURCE = Identity.from_seed(b"\x01" * 32)
TAKER = Identity.from_seed(b"\x02" * 32)
QUOTA = 1 << 30
CHUNK = 16 << 10
WINDOW = 2 * CHUNK
DATA = Random(5).randbytes(80 * CHUNK + 4321)
MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))
REF = FileRef(MANIFEST.blake3.hex(), manifest_hash(MANIFEST), MANIFEST.size)
MANIFEST_BYTES = len(encode_manifest(MANIFEST))
LOST = (StreamResetError, ConnectionFailedError, DeadlineError)


def everybody(caller: PeerId, manifest: str) -> bool:
    return True


async def source_store(directory: Path) -> FileStore:
    store = FileStore(directory, QUOTA, run_inline)
    async with store.receiving(REF) as incoming:
        await incoming.begin(encode_manifest(MANIFEST))
        await incoming.write([Arrival(0, DATA)])
        await incoming.finish()
    return store


class Taker:
    """A program that wants the file and does not give up; ``interruptions`` counts what cut it."""

    def __init__(self, net: MemoryNet, directory: Path, source: Network) -> None:
        self.interruptions = 0
        self.source_addresses = source.addresses()
        self._net = net
        self._directory = directory
        self.open_store()
        self.network: Network = net.join(TAKER)

    def open_store(self) -> None:
        self.store = FileStore(self._directory, QUOTA, run_inline)

    async def fetch(self) -> Path:
        while True:
            try:
                return await fetch(
                    self.network,
                    SOURCE.peer_id,
                    REF,
                    self.store,
                    max_bytes=QUOTA,
                    addresses=self.source_addresses,
                    timeout_s=10.0,
                    attempts=1,
                    max_window_bytes=WINDOW,
                )
            except LOST:
                self.interruptions += 1
                await trio.sleep(1.0)

    async def live(self, seconds: float) -> None:
        """Fetches for so long, then dies as of kill -9, and is started again."""
        with trio.move_on_after(seconds):
            await self.fetch()
        self._net.crash(TAKER.peer_id)
        self.interruptions += 1
        await trio.sleep(0.5)
        self.open_store()
        self.network = self._net.join(TAKER)


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seed", range(12))
async def test_a_file_arrives_over_a_network_that_loses_connections(tmp_path: Path, seed: int) -> None:
    theirs = await source_store(tmp_path / "theirs")
    async with MemoryNet(seed, latency_s=(0.001, 0.05), loss=0.02) as net:
        source = net.join(SOURCE)
        serve_transfers(source, theirs, everybody)
        taker = Taker(net, tmp_path / "ours", source)
        path = await taker.fetch()
    assert path.read_bytes() == DATA
    # A manifest is asked for again while none has arrived; a window of chunks once for each interruption.
    allowed = len(DATA) + taker.interruptions * WINDOW + (taker.interruptions + 1) * MANIFEST_BYTES
    assert theirs.bytes_sent <= allowed


async def test_the_losses_of_these_seeds_do_interrupt(tmp_path: Path) -> None:
    theirs = await source_store(tmp_path / "theirs")
    async with MemoryNet(0, loss=0.1) as net:
        source = net.join(SOURCE)
        serve_transfers(source, theirs, everybody)
        taker = net.join(TAKER)
        await taker.connect(SOURCE.peer_id, source.addresses())
        with pytest.raises(LOST):
            await fetch(
                taker, SOURCE.peer_id, REF, FileStore(tmp_path / "ours", QUOTA), max_bytes=QUOTA, attempts=1
            )


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seed", range(12))
async def test_a_taker_that_dies_and_returns_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    draws = Random(seed)
    theirs = await source_store(tmp_path / "theirs")
    deaths = 4
    async with MemoryNet(seed, latency_s=(0.01, 0.02)) as net:
        source = net.join(SOURCE)
        serve_transfers(source, theirs, everybody)
        taker = Taker(net, tmp_path / "ours", source)
        for _ in range(deaths):
            await taker.live(draws.uniform(0.1, 0.28))
            assert taker.store.path(REF.blake3) is None
        path = await taker.fetch()
    assert path.read_bytes() == DATA
    assert theirs.bytes_sent <= len(DATA) + taker.interruptions * WINDOW + 2 * MANIFEST_BYTES


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seed", range(6))
async def test_a_partition_or_a_dead_source_only_delays(tmp_path: Path, seed: int) -> None:
    draws = Random(seed)
    theirs = await source_store(tmp_path / "theirs")
    async with MemoryNet(seed, latency_s=(0.01, 0.02)) as net:
        source = net.join(SOURCE)
        serve_transfers(source, theirs, everybody)
        taker = Taker(net, tmp_path / "ours", source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taker.fetch)
            await trio.sleep(draws.uniform(0.05, 0.5))
            net.partition(SOURCE.peer_id, TAKER.peer_id)
            await trio.sleep(draws.uniform(0.5, 5))
            net.heal(SOURCE.peer_id, TAKER.peer_id)
            await trio.sleep(draws.uniform(1.05, 1.3))
            net.crash(SOURCE.peer_id)
            await trio.sleep(draws.uniform(0.5, 5))
            source = net.join(SOURCE)
            taker.source_addresses = source.addresses()
            serve_transfers(source, FileStore(tmp_path / "theirs", QUOTA, run_inline), everybody)
    assert taker.interruptions >= 2
    path = taker.store.path(REF.blake3)
    assert path is not None
    assert path.read_bytes() == DATA


@pytest.mark.virtual_clock
async def test_a_source_that_loses_the_file_midway_is_named(tmp_path: Path) -> None:
    theirs = await source_store(tmp_path / "theirs")
    async with MemoryNet(0, latency_s=(0.01, 0.02)) as net:
        source = net.join(SOURCE)
        serve_transfers(source, theirs, everybody)
        taker = Taker(net, tmp_path / "ours", source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_it, theirs)
            with pytest.raises(SourceRefusedError, match=f"{SOURCE.peer_id} does not give.*not_found"):
                await taker.fetch()
    assert taker.store.path(REF.blake3) is None
    assert 0 < taker.store.used_bytes < len(DATA), "what came stays, for another source"


async def lose_it(store: FileStore) -> None:
    await trio.sleep(0.3)
    store.remove(REF.blake3)
