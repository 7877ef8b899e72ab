"""A store whose process dies at each of its writes, and is opened again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.disk import run_inline
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identity import Identity
from p2p.jobs import FileRef
from p2p.partial import Arrival
from p2p.testing import MemoryNet
from p2p.transfer import encode_manifest, manifest_hash, manifest_of

SOURCE = Identity.from_seed(b"\x01" * 32)
TAKER = Identity.from_seed(b"\x02" * 32)
QUOTA = 1 << 30
CHUNK = 16 << 10
DATA = Random(3).randbytes(4 * CHUNK + 777)
MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))
REF = FileRef(MANIFEST.blake3.hex(), manifest_hash(MANIFEST), MANIFEST.size)

_WRITES = ("write", "pwrite", "ftruncate", "fsync", "replace", "rename", "unlink", "link")


class Killed(BaseException):
    """No handler of errors catches it, as none runs after SIGKILL."""


class DyingProcess:
    """Counts what the process writes below a directory; from one write on, nothing is done any more."""

    def __init__(self, directory: Path, dies_at: int, torn: bool) -> None:
        self._directory = str(directory)
        self._dies_at = dies_at
        self._torn = torn
        self.writes = 0
        self.dead = False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not self._concerns(arguments, options):
                return function(*arguments, **options)
            self.writes += 1
            if self.dead:
                raise Killed
            if self.writes == self._dies_at:
                self.dead = True
                if self._torn and function.__name__ in ("write", "pwrite"):
                    descriptor, data, *rest = arguments
                    function(descriptor, data[: len(data) // 2], *rest)
                raise Killed
            return function(*arguments, **options)

        return wrapped

    def _concerns(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        first = arguments[0]
        if isinstance(first, int):
            return os.path.realpath(f"/proc/self/fd/{first}").startswith(self._directory)
        return str(first).startswith(self._directory) or any(
            str(other).startswith(self._directory) for other in arguments[1:2]
        )


@contextmanager
def dying(directory: Path, dies_at: int, torn: bool) -> Iterator[DyingProcess]:
    process = DyingProcess(directory, dies_at, torn)
    with pytest.MonkeyPatch.context() as patch:
        real_open = os.open
        for name in _WRITES:
            patch.setattr(os, name, process.wrap(getattr(os, name)))

        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            # Only what creates a file is a write.
            function = process.wrap(real_open) if flags & os.O_CREAT else real_open
            return int(function(path, flags, *arguments, **options))

        patch.setattr(os, "open", opened)
        yield process


def killed_in(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(killed_in(inner) for inner in error.exceptions)
    return isinstance(error, Killed)


async def lives(work: Callable[[], Awaitable[object]]) -> bool:
    """False if the process died of it."""
    try:
        await work()
    except BaseException as error:
        if killed_in(error):
            return False
        raise
    return True


async def small_chunk_store(directory: Path) -> FileStore:
    store = FileStore(directory, QUOTA, run_inline)
    async with store.receiving(REF) as incoming:
        await incoming.begin(encode_manifest(MANIFEST))
        await incoming.write([Arrival(0, DATA)])
        await incoming.finish()
    return store


async def hold_the_middle(store: FileStore) -> int:
    """A file that has two chunks in common with the one to fetch."""
    data = DATA[CHUNK : 3 * CHUNK]
    manifest = manifest_of(data, borders=[CHUNK])
    async with store.receiving(
        FileRef(manifest.blake3.hex(), manifest_hash(manifest), len(data))
    ) as incoming:
        await incoming.begin(encode_manifest(manifest))
        await incoming.write([Arrival(0, data)])
        await incoming.finish()
    return len(data)


@pytest.mark.parametrize("window", [CHUNK, 3 * CHUNK])
@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("torn", [False, True])
async def test_a_fetch_killed_at_any_write_goes_on_and_resends_a_window_at_most(
    tmp_path: Path, torn: bool, is_held: bool, window: int
) -> None:
    theirs = await small_chunk_store(tmp_path / "theirs")
    for dies_at in itertools.count(1):
        theirs.bytes_sent = 0
        directory = tmp_path / f"ours-{dies_at}"
        ours = FileStore(directory, QUOTA, run_inline)
        held_bytes = await hold_the_middle(ours) if is_held else 0
        async with MemoryNet(seed=dies_at) as net:
            source, taker = net.join(SOURCE), net.join(TAKER)
            serve_transfers(source, theirs, lambda caller, manifest: True)
            await taker.connect(source.peer_id, source.addresses())

            async def work(store: FileStore) -> Path:
                return await fetch(
                    taker,  # noqa: B023
                    SOURCE.peer_id,
                    REF,
                    store,
                    max_bytes=QUOTA,
                    max_window_bytes=window,
                )

            with dying(directory, dies_at, torn) as process:
                finished = await lives(lambda: work(ours))  # noqa: B023
            assert finished == (not process.dead)
            again = FileStore(directory, QUOTA, run_inline)
            there = again.path(REF.blake3)
            assert there is None or there.read_bytes() == DATA
            assert (await work(again)).read_bytes() == DATA
        assert again.used_bytes == len(DATA) + held_bytes
        assert FileStore(directory, QUOTA, run_inline).ref(REF.blake3) == REF
        manifest_bytes = len(encode_manifest(MANIFEST))
        assert theirs.bytes_sent <= len(DATA) - held_bytes + window + 2 * manifest_bytes
        if finished:
            assert theirs.bytes_sent == len(DATA) - held_bytes + manifest_bytes
            assert process.writes > 15
            return


@pytest.mark.parametrize("move", [False, True])
async def test_a_file_added_when_the_process_dies_is_never_lost_nor_half_there(
    tmp_path: Path, move: bool
) -> None:
    for dies_at in itertools.count(1):
        directory = tmp_path / f"store-{dies_at}"
        store = FileStore(directory, QUOTA, run_inline)
        path = directory / "new"
        path.write_bytes(DATA)
        with dying(directory, dies_at, torn=True) as process:
            finished = await lives(lambda: store.add(path, move=move))  # noqa: B023
        again = FileStore(directory, QUOTA, run_inline)
        held = again.path(REF.blake3)
        assert held is not None or path.read_bytes() == DATA
        assert held is None or held.read_bytes() == DATA
        assert again.used_bytes in (0, len(DATA))
        if path.exists():
            await again.add(path)
        ref = again.ref(REF.blake3)
        assert ref is not None
        assert again.manifest(ref.manifest) == manifest_of(DATA)
        if finished:
            assert process.writes > 4
            return


async def test_an_eviction_when_the_process_dies_leaves_no_half_file(tmp_path: Path) -> None:
    for dies_at in itertools.count(1):
        directory = tmp_path / f"store-{dies_at}"
        store = FileStore(directory, QUOTA, run_inline)
        ref = await store.add_bytes(DATA)
        store.pin(ref.blake3, "job")
        with dying(directory, dies_at, torn=True):
            finished = await lives(lambda: run_inline(store.remove, ref.blake3))  # noqa: B023
        again = FileStore(directory, QUOTA, run_inline)
        held = again.path(ref.blake3)
        assert held is None or (held.read_bytes() == DATA and again.ref(ref.blake3) == ref)
        if finished:
            assert held is None
            assert again.used_bytes == 0
            return
