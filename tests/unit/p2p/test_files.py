from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from blake3 import blake3

from p2p.channel import Channel
from p2p.client import open_client
from p2p.disk import run_inline
from p2p.errors import (
    ConnectionFailedError,
    DeadlineError,
    RemoteFailureError,
    SourceRefusedError,
    TransferError,
)
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import FileRef
from p2p.network import Network
from p2p.partial import Arrival
from p2p.protocols import Request
from p2p.protocols.transfer import (
    LIMITS,
    MAX_PART_BYTES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    GetManifest,
    GetRange,
    ManifestPart,
    Range,
    TransferAnswer,
    TransferCall,
)
from p2p.rates import Rates
from p2p.router import serve_calls
from p2p.testing import MemoryNet
from p2p.transfer import Manifest, encode_manifest, manifest_of

SOURCE = Identity.from_seed(b"\x01" * 32)
TAKER = Identity.from_seed(b"\x02" * 32)
QUOTA = 1 << 30
CHUNK = 16 << 10
DATA = Random(7).randbytes(3 * CHUNK + 1000)
Answer = tuple[TransferAnswer, bytes]


def everybody(caller: PeerId, manifest: str) -> bool:
    return True


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[Network, Network]]:
    """The source's network and the taker's, connected."""
    async with MemoryNet(seed=1) as net:
        source, taker = net.join(SOURCE), net.join(TAKER)
        await taker.connect(source.peer_id, source.addresses())
        yield source, taker


def ref_of(manifest: Manifest) -> FileRef:
    return FileRef(manifest.blake3.hex(), blake3(encode_manifest(manifest)).hexdigest(), manifest.size)


MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))
REF = ref_of(MANIFEST)


class HonestSource:
    """Serves one file from memory; a test makes a liar of it by replacing a method."""

    def __init__(self, network: Network, data: bytes = DATA, manifest: bytes | None = None) -> None:
        self.data = data
        self.manifest = manifest or encode_manifest(MANIFEST)
        self.sent_bytes = 0
        serve_calls(network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, self.answer)

    async def answer(self, caller: PeerId, call: TransferCall, body: bytes) -> Answer:
        if isinstance(call, GetManifest):
            return self.give_manifest(call)
        assert isinstance(call, GetRange)
        answer, data = self.give_range(call)
        self.sent_bytes += len(data)
        return answer, data

    def give_manifest(self, call: GetManifest) -> Answer:
        return ManifestPart(len(self.manifest)), self.manifest[call.offset :]

    def give_range(self, call: GetRange) -> Answer:
        return Range(call.offset), self.data[call.offset : call.offset + call.length]


async def never_answer(caller: PeerId, call: TransferCall, body: bytes) -> Answer:
    await trio.sleep_forever()
    raise AssertionError


def files_under(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def refused(taker: Network, store: FileStore, ref: FileRef = REF, **options: object) -> str:
    """The text of the TransferError that a fetch ends with."""
    with pytest.raises(TransferError) as caught:
        await fetch(taker, SOURCE.peer_id, ref, store, max_bytes=QUOTA, **options)  # type: ignore[arg-type]
    assert store.path(ref.blake3) is None
    return str(caught.value)


# -- the ordinary way ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK, (1 << 20) + 1, 5 << 20])
async def test_a_file_arrives_whole_and_can_be_given_on(tmp_path: Path, size: int) -> None:
    data = Random(size).randbytes(size)
    ours, theirs = FileStore(tmp_path / "ours", QUOTA), FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(data)
    seen: list[tuple[int, int]] = []
    async with two_ends() as (source, taker):
        serve_transfers(source, theirs, everybody)
        path = await fetch(
            taker, SOURCE.peer_id, ref, ours, max_bytes=size, progress=lambda *at: seen.append(at)
        )
        assert path.read_bytes() == data
        assert await fetch(taker, SOURCE.peer_id, ref, ours, max_bytes=size) == path
    assert ours.path(ref.blake3) == path
    assert ours.manifest(ref.manifest) == theirs.manifest(ref.manifest)
    assert ours.ref(ref.blake3) == ref
    assert theirs.bytes_sent == ours.bytes_received == size + len(encode_manifest(manifest_of(data)))
    assert size == 0 or seen[-1] == (size, size)
    assert seen == sorted(seen)


async def test_a_file_held_already_needs_no_source(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA)
    ref = await store.add_bytes(DATA)
    async with MemoryNet() as net:
        alone = net.join(TAKER)
        assert await fetch(alone, SOURCE.peer_id, ref, store, max_bytes=QUOTA) == store.path(ref.blake3)


async def test_fetches_of_one_file_at_once_move_it_once(tmp_path: Path) -> None:
    ours, theirs = FileStore(tmp_path / "ours", QUOTA), FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(DATA)
    async with two_ends() as (source, taker):
        serve_transfers(source, theirs, everybody)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: fetch(taker, SOURCE.peer_id, ref, ours, max_bytes=QUOTA))
    assert theirs.bytes_sent < 2 * len(DATA)
    assert (await trio.Path(ours.path(ref.blake3)).read_bytes()) == DATA  # type: ignore[arg-type]


async def test_a_fetch_connects_by_itself_when_it_knows_addresses(tmp_path: Path) -> None:
    ours, theirs = FileStore(tmp_path / "ours", QUOTA), FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(DATA)
    async with MemoryNet() as net:
        source, taker = net.join(SOURCE), net.join(TAKER)
        serve_transfers(source, theirs, everybody)
        addresses = source.addresses()
        path = await fetch(taker, SOURCE.peer_id, ref, ours, max_bytes=QUOTA, addresses=addresses)
        assert path.read_bytes() == DATA


@pytest.mark.virtual_clock
async def test_a_fetch_without_any_way_to_the_source_gives_up(tmp_path: Path) -> None:
    async with MemoryNet() as net:
        taker = net.join(TAKER)
        with pytest.raises(ConnectionFailedError):
            await fetch(taker, SOURCE.peer_id, REF, FileStore(tmp_path, QUOTA), max_bytes=QUOTA)


@pytest.mark.virtual_clock
async def test_a_source_that_never_answers_costs_a_deadline(tmp_path: Path) -> None:
    async with two_ends() as (source, taker):
        serve_calls(source, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, never_answer)
        with pytest.raises(DeadlineError, match="GetManifest"):
            await fetch(
                taker, SOURCE.peer_id, REF, FileStore(tmp_path, QUOTA), max_bytes=QUOTA, timeout_s=5.0
            )


# -- what is refused -----------------------------------------------------------------------------


async def test_an_unauthorised_caller_is_refused_whether_the_file_exists_or_not(tmp_path: Path) -> None:
    ours, theirs = FileStore(tmp_path / "ours", QUOTA), FileStore(tmp_path / "theirs", QUOTA)
    ref = await theirs.add_bytes(DATA)
    asked: list[tuple[PeerId, str]] = []

    def nobody(caller: PeerId, manifest: str) -> bool:
        asked.append((caller, manifest))
        return False

    async with two_ends() as (source, taker):
        serve_transfers(source, theirs, nobody)
        for wanted in (ref, REF):
            with pytest.raises(
                SourceRefusedError, match=f"{SOURCE.peer_id} does not give file {wanted.blake3}"
            ):
                await fetch(taker, SOURCE.peer_id, wanted, ours, max_bytes=QUOTA)
            text = f"unauthorized: {TAKER.peer_id} may not fetch {wanted.manifest}"
            assert text in await refused(taker, ours, wanted)
    assert set(asked) == {(TAKER.peer_id, ref.manifest), (TAKER.peer_id, REF.manifest)}
    assert theirs.bytes_sent == 0


async def test_an_unknown_file_is_refused(tmp_path: Path) -> None:
    async with two_ends() as (source, taker):
        serve_transfers(source, FileStore(tmp_path / "theirs", QUOTA), everybody)
        text = await refused(taker, FileStore(tmp_path / "ours", QUOTA))
    assert SOURCE.peer_id in text
    assert f"not_found: no file with manifest {REF.manifest}" in text


async def test_a_file_over_the_limit_is_refused_before_anything_moves(tmp_path: Path) -> None:
    async with two_ends() as (source, taker):
        HonestSource(source)
        store = FileStore(tmp_path, QUOTA)
        with pytest.raises(
            TransferError, match=f"{SOURCE.peer_id} offers a file of 50152 bytes, limit 50151"
        ):
            await fetch(taker, SOURCE.peer_id, REF, store, max_bytes=len(DATA) - 1)
    assert store.bytes_received == 0


async def test_a_file_over_the_quota_is_refused(tmp_path: Path) -> None:
    async with two_ends() as (source, taker):
        HonestSource(source)
        text = await refused(taker, FileStore(tmp_path, len(DATA) - 1))
    assert "file of 50152 bytes does not fit: quota of 50151 bytes, 0 of them" in text


def replaced(**changes: object) -> Manifest:
    fields = {"sizes": MANIFEST.sizes, "chunks": MANIFEST.chunks, "blake3": MANIFEST.blake3}
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


async def test_a_manifest_of_another_hash_is_refused_before_any_chunk(tmp_path: Path) -> None:
    lie = encode_manifest(replaced(chunks=MANIFEST.chunks[::-1]))
    async with two_ends() as (source, taker):
        liar = HonestSource(source, manifest=lie)
        text = await refused(taker, FileStore(tmp_path, QUOTA))
    assert f"{SOURCE.peer_id} lied about file {REF.blake3}: manifest hashes to" in text
    assert f"asked for {REF.manifest}" in text
    assert liar.sent_bytes == 0


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (replaced(sizes=(*MANIFEST.sizes[:3], 1001)), "manifest of a file of 50153 bytes, expected 50152"),
        (replaced(blake3=b"\x55" * 32), f"manifest of file {'55' * 32}, expected {REF.blake3}"),
        (
            replaced(sizes=(1,) * 50152, chunks=(bytes(32),) * 50152),
            "manifest of 1805524 bytes, limit 520 for",
        ),
        (replaced(sizes=(1, 32767, 16384, 1000)), "with a chunk of 1 bytes, must be 4096"),
        (replaced(chunks=MANIFEST.chunks[:-1]), "with 112 bytes of chunks, 4 chunks need 144"),
        (replaced(chunks=(*MANIFEST.chunks, bytes(32))), "with 176 bytes of chunks, 4 chunks need 144"),
    ],
)
async def test_a_lying_manifest_of_the_right_hash_is_refused(
    tmp_path: Path, lie: Manifest, text: str
) -> None:
    """Whoever made the reference lied: its manifest hash is that of a manifest that cannot hold."""
    encoded = encode_manifest(lie)
    ref = FileRef(REF.blake3, blake3(encoded).hexdigest(), REF.size)
    async with two_ends() as (source, taker):
        liar = HonestSource(source, manifest=encoded)
        found = await refused(taker, FileStore(tmp_path, QUOTA), ref)
    assert SOURCE.peer_id in found
    assert text in found
    assert liar.sent_bytes == 0


async def test_an_endless_manifest_is_refused(tmp_path: Path) -> None:
    async with two_ends() as (source, taker):
        HonestSource(source, manifest=bytes(1 << 20))
        text = await refused(taker, FileStore(tmp_path, QUOTA))
    assert "manifest of 1048576 bytes, limit 520 for 50152 bytes of file" in text


async def test_a_corrupt_chunk_is_refused_and_what_was_right_is_kept(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA)
    corrupt = bytearray(DATA)
    corrupt[2 * CHUNK + 5] ^= 1
    async with two_ends() as (source, taker):
        liar = HonestSource(source, bytes(corrupt), encode_manifest(MANIFEST))
        text = await refused(taker, store)
        assert f"{SOURCE.peer_id} lied about file {REF.blake3}: chunk 2 of 16384 bytes hashes to" in text
        assert f"its manifest says {MANIFEST.chunks[2].hex()}" in text
        liar.data, liar.sent_bytes = DATA, 0
        path = await fetch(taker, SOURCE.peer_id, REF, store, max_bytes=QUOTA)
    assert path.read_bytes() == DATA
    assert liar.sent_bytes == CHUNK, "only the chunk that was bad"


async def test_a_final_hash_that_does_not_hold_leaves_nothing(tmp_path: Path) -> None:
    """Every chunk fits its manifest, and the manifest its reference; only the whole is a lie."""
    lie = encode_manifest(replaced(blake3=b"\x55" * 32))
    ref = FileRef("55" * 32, blake3(lie).hexdigest(), REF.size)
    store = FileStore(tmp_path, QUOTA)
    async with two_ends() as (source, taker):
        HonestSource(source, manifest=lie)
        text = await refused(taker, store, ref)
        assert (
            f"{SOURCE.peer_id} lied about file {ref.blake3}: file of 50152 bytes hashes to {REF.blake3}"
            in text
        )
        assert f"its manifest says 50152 bytes and {'55' * 32}" in text
        assert store.used_bytes == 0
        assert files_under(tmp_path) == []
        assert FileStore(tmp_path, QUOTA).path(ref.blake3) is None


async def test_an_answer_of_the_wrong_size_or_place_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[Callable[[GetRange], Answer], str]] = [
        (lambda call: (Range(call.offset), b""), "0 bytes at 0, asked for 50152"),
        (lambda call: (Range(call.offset), bytes(50153)), "50153 bytes at 0, asked for 50152"),
        (lambda call: (Range(call.offset + 1), bytes(call.length)), "answered Range(offset=1)"),
        (lambda call: (ManifestPart(5), bytes(call.length)), "answered ManifestPart"),
    ]
    async with two_ends() as (source, taker):
        liar = HonestSource(source)
        for number, (give, text) in enumerate(wrong):
            liar.give_range = give  # type: ignore[method-assign]
            found = await refused(taker, FileStore(tmp_path / str(number), QUOTA))
            assert f"{SOURCE.peer_id} lied" in found
            assert text in found


async def test_what_a_liar_left_behind_does_not_spoil_an_honest_source(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA)
    async with store.receiving(REF) as incoming:
        await incoming.begin(encode_manifest(MANIFEST))
        ((bad,),) = await incoming.write([Arrival(0, DATA[:CHUNK] + b"\x66" * CHUNK)])
        assert bad.index == 1
        assert incoming.stored == CHUNK
    async with two_ends() as (source, taker):
        honest = HonestSource(source)
        path = await fetch(taker, SOURCE.peer_id, REF, FileStore(tmp_path, QUOTA), max_bytes=QUOTA)
    assert path.read_bytes() == DATA
    assert honest.sent_bytes == len(DATA) - CHUNK


async def test_a_request_outside_of_the_file_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA)
    ref = await store.add_bytes(DATA)
    bad: list[tuple[TransferCall, str]] = [
        (GetRange(ref.manifest, 50152, 1), "invalid: asked for bytes 50152 to 50153 of a file of 50152"),
        (GetRange(ref.manifest, 2**53, 1), "invalid: asked for bytes 9007199254740992 to "),
        (GetRange(ref.manifest, 0, MAX_PART_BYTES), "invalid: asked for bytes 0 to 4198400 of a file"),
        (GetRange(ref.manifest, 0, MAX_PART_BYTES + 1), "invalid: .*Expected `int` <= 4198400"),
        (GetRange(ref.manifest, 0, 0), "invalid: .*Expected `int` >= 1"),
        (GetManifest(ref.manifest, 88), "invalid: offset 88 in a manifest of 88 bytes"),
        (GetManifest("../../etc/passwd"), "invalid: .*matching regex"),
    ]
    async with two_ends() as (source, taker):
        serve_transfers(source, store, everybody)
        async with open_client(taker, SOURCE.peer_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS) as client:
            for call, text in bad:
                with pytest.raises(RemoteFailureError, match=text):
                    await client.call(call)
    assert store.bytes_sent == 0


@pytest.mark.virtual_clock
async def test_asking_for_what_is_not_there_takes_nothing_from_what_others_may_get(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA, run_inline, Rates.of(upload=1000))
    ref = await store.add_bytes(DATA)
    async with two_ends() as (source, taker):
        serve_transfers(source, store, everybody)
        async with open_client(taker, SOURCE.peer_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS) as client:
            for call in (
                GetRange(ref.manifest, 1 << 40, MAX_PART_BYTES),
                GetRange("f" * 64, 0, MAX_PART_BYTES),
            ):
                with pytest.raises(RemoteFailureError):
                    await client.call(call)
            with trio.fail_after(1):
                await client.call(GetRange(ref.manifest, 0, 100))


async def test_a_receiver_that_asks_and_does_not_read_costs_two_parts_of_memory(tmp_path: Path) -> None:
    store = FileStore(tmp_path, QUOTA)
    ref = await store.add_bytes(Random(1).randbytes(8 << 20))
    part = 2 << 20
    async with two_ends() as (source, taker):
        serve_transfers(source, store, everybody)
        stream = await taker.open_stream(SOURCE.peer_id, PROTOCOL_ID)
        channel: Channel[Request[TransferCall], object] = Channel(stream, REQUESTS, RESPONSES, LIMITS)
        for number in range(50):
            await channel.send(Request(number, GetRange(ref.manifest, 0, part)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert store.bytes_sent <= 2 * part
        await stream.reset()


async def test_a_disk_that_refuses_the_first_byte_ends_a_fetch_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    async with two_ends() as (source, taker):
        HonestSource(source)
        monkeypatch.setattr("p2p.incoming.write_atomic", refuse)
        with pytest.raises(OSError, match="Disk quota exceeded"):
            await fetch(taker, SOURCE.peer_id, REF, FileStore(tmp_path, QUOTA), max_bytes=QUOTA)


async def test_a_full_disk_ends_a_fetch_and_what_came_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real_write = FileStore(tmp_path, QUOTA), os.pwrite

    def little_room(descriptor: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 2 * CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data, offset)

    async with two_ends() as (source, taker):
        honest = HonestSource(source)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", little_room)
            with pytest.raises(OSError, match="No space left on device"):
                await fetch(
                    taker, SOURCE.peer_id, REF, store, max_bytes=QUOTA, max_window_bytes=CHUNK, attempts=1
                )
        assert store.path(REF.blake3) is None
        honest.sent_bytes = 0
        path = await fetch(taker, SOURCE.peer_id, REF, store, max_bytes=QUOTA)
    assert path.read_bytes() == DATA
    assert honest.sent_bytes == len(DATA) - 2 * CHUNK
