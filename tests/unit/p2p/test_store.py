from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from blake3 import blake3

from p2p.errors import LocalProtocolError, TransferError
from p2p.jobs import FileRef
from p2p.partial import Arrival
from p2p.store import FileStore
from p2p.transfer import encode_manifest, manifest_hash, manifest_of

KB = 1024
MANIFEST = manifest_of(b"x" * KB)


def content(number: int, size: int = 10 * KB) -> bytes:
    return Random(number).randbytes(size)


async def test_a_file_is_found_by_its_content(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    ref = await store.add_bytes(content(1))
    manifest = manifest_of(content(1))
    assert ref == FileRef(blake3(content(1)).hexdigest(), manifest_hash(manifest), 10 * KB)
    path = store.path(ref.blake3)
    assert path is not None
    assert path.read_bytes() == content(1)
    assert store.manifest(ref.manifest) == manifest
    assert (store.path("0" * 64), store.ref("0" * 64), store.manifest("0" * 64)) == (None, None, None)


async def test_adding_a_file_copies_or_moves_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store", 100 * KB)
    copied, moved = tmp_path / "copied", tmp_path / "moved"
    copied.write_bytes(content(1))
    moved.write_bytes(content(2))
    await store.add(copied)
    ref = await store.add(moved, move=True)
    assert copied.read_bytes() == content(1)
    assert not moved.exists()
    assert store.path(ref.blake3).read_bytes() == content(2)  # type: ignore[union-attr]
    copied.write_bytes(b"changed later")
    assert store.path(blake3(content(1)).hexdigest()).read_bytes() == content(1)  # type: ignore[union-attr]


async def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    assert await store.add_bytes(content(1)) == await store.add_bytes(content(1))
    assert store.used_bytes == 10 * KB


async def test_only_plain_files_are_taken_in(tmp_path: Path) -> None:
    """The path may come from a process that would like us to hand out something else."""
    store = FileStore(tmp_path / "store", 100 * KB)
    (tmp_path / "secret").write_bytes(b"a key")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        for move in (True, False):
            with pytest.raises(TransferError, match=f"{name} is no plain file"):
                await store.add(tmp_path / name, move=move)
    assert store.used_bytes == 0
    with pytest.raises(FileNotFoundError):
        await store.add(tmp_path / "nothing")


async def test_a_store_survives_a_restart(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    refs = [await store.add_bytes(content(number)) for number in range(3)]
    again = FileStore(tmp_path, 100 * KB)
    assert again.used_bytes == store.used_bytes == 30 * KB
    for ref in refs:
        assert again.ref(ref.blake3) == ref
        assert again.path(ref.blake3) == store.path(ref.blake3)
        assert again.manifest(ref.manifest) == store.manifest(ref.manifest)


async def test_the_least_recently_used_unpinned_file_gives_way(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 40 * KB)
    first, second, third, fourth = [await store.add_bytes(content(number)) for number in range(4)]
    store.pin(first.blake3)
    assert store.path(second.blake3) is not None, "used: now the youngest"
    fifth = await store.add_bytes(content(5))
    assert store.path(third.blake3) is None
    assert store.manifest(third.manifest) is None
    held = [store.path(ref.blake3) for ref in (first, second, fourth, fifth)]
    assert all(path is not None and path.exists() for path in held)
    assert store.used_bytes == 40 * KB


async def test_a_file_that_fits_only_in_place_of_pinned_ones_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 25 * KB)
    for number in range(2):
        store.pin((await store.add_bytes(content(number))).blake3)
    with pytest.raises(
        TransferError, match="file of 10240 bytes does not fit: quota of 25600 bytes, 20480 of them pinned"
    ):
        await store.add_bytes(content(2))
    path = tmp_path / "third"
    path.write_bytes(content(2))
    with pytest.raises(TransferError, match="does not fit"):
        await store.add(path, move=True)
    assert path.exists()


async def test_for_a_file_that_cannot_fit_no_other_is_given_up(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 35 * KB)
    pinned, other = [await store.add_bytes(content(number)) for number in range(2)]
    store.pin(pinned.blake3)
    with pytest.raises(TransferError, match="does not fit: quota of 35840 bytes, 10240 of them"):
        await store.add_bytes(b"".join(content(number) for number in range(2, 5)))
    assert store.path(other.blake3) is not None


async def test_a_pin_holds_over_a_restart_until_its_last_owner_lets_go(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 15 * KB)
    ref = await store.add_bytes(content(1))
    store.pin(ref.blake3, "one")
    store.pin(ref.blake3, "other")
    store.pin(ref.blake3, "other")
    store.unpin(ref.blake3, "one")
    store.unpin(ref.blake3, "one")
    store = FileStore(tmp_path, 15 * KB)
    with pytest.raises(TransferError, match="does not fit"):
        await store.add_bytes(content(2))
    store.unpin(ref.blake3, "other")
    await store.add_bytes(content(2))
    assert FileStore(tmp_path, 15 * KB).path(ref.blake3) is None


async def test_a_pin_of_nothing_or_by_a_strange_owner_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 15 * KB)
    with pytest.raises(LocalProtocolError, match="nothing to pin"):
        store.pin("0" * 64)
    ref = await store.add_bytes(content(1))
    with pytest.raises(LocalProtocolError, match=r"pin owner '\.\./x'"):
        store.pin(ref.blake3, "../x")


async def test_a_removed_file_is_gone_with_its_manifest_and_pins(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    ref = await store.add_bytes(content(1))
    store.pin(ref.blake3)
    store.remove(ref.blake3)
    store.remove(ref.blake3)
    assert store.path(ref.blake3) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # noqa: ASYNC240
    assert store.used_bytes == 0


async def test_what_a_crash_left_is_cleared_at_the_start(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    ref = await store.add_bytes(content(1))
    (tmp_path / "tmp" / "half a copy").write_bytes(b"x")
    (tmp_path / "files" / ("1" * 64)).write_bytes(b"no manifest")
    (tmp_path / "manifests" / manifest_hash(MANIFEST)).write_bytes(encode_manifest(MANIFEST))
    (tmp_path / "manifests" / ".name.tmp").write_bytes(encode_manifest(MANIFEST))
    (tmp_path / "manifests" / ("2" * 64)).write_bytes(b"torn")
    (tmp_path / "partial" / ("3" * 64)).write_bytes(b"no manifest")
    (tmp_path / "partial" / f"{'4' * 64}.manifest").write_bytes(b"no data")
    (tmp_path / "pins" / f"{'5' * 64}.job").touch()
    again = FileStore(tmp_path, 100 * KB)
    assert again.ref(ref.blake3) == ref
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())  # noqa: ASYNC240
    assert left == sorted([ref.blake3, ref.manifest])


async def test_a_file_of_the_wrong_length_is_not_offered_after_a_restart(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    ref = await store.add_bytes(content(1))
    store.path(ref.blake3).write_bytes(b"short")  # type: ignore[union-attr]
    assert FileStore(tmp_path, 100 * KB).path(ref.blake3) is None


async def test_a_half_arrived_file_counts_and_gives_way_first(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 50 * KB)
    held = await store.add_bytes(content(1))
    manifest = manifest_of(content(2, 40 * KB), borders=[20 * KB])
    ref = FileRef(manifest.blake3.hex(), manifest_hash(manifest), manifest.size)
    async with store.receiving(ref) as incoming:
        assert store.used_bytes == 50 * KB, "reserved as a whole"
        await incoming.begin(encode_manifest(manifest))
        await incoming.write([Arrival(0, content(2, 40 * KB)[: 20 * KB])])
    assert store.used_bytes == FileStore(tmp_path, 50 * KB).used_bytes == 30 * KB
    await store.add_bytes(content(3, 30 * KB))
    assert store.used_bytes == 40 * KB
    assert store.path(held.blake3) is not None
    async with store.receiving(ref) as incoming:
        assert incoming.stored == 0


async def test_a_reference_that_is_no_hash_never_becomes_a_path(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    for bad in ("../../evil", "A" * 64, "0" * 64 + "\n"):
        with pytest.raises(LocalProtocolError, match="no BLAKE3 hashes"):
            async with store.receiving(FileRef("0" * 64, bad, 5)):
                pass


async def test_a_lying_partial_file_gives_its_manifest_to_nobody(tmp_path: Path) -> None:
    """A manifest that claims to be of a file that is held, though its chunks are not, stays unproven."""
    store = FileStore(tmp_path, 100 * KB)
    honest = manifest_of(content(1))
    lie = type(honest)(honest.sizes, (b"\x66" * 32,), honest.blake3)
    ref = FileRef(lie.blake3.hex(), manifest_hash(lie), lie.size)
    async with store.receiving(ref) as incoming:
        await incoming.begin(encode_manifest(lie))
    await store.add_bytes(content(1))
    for _ in range(2):
        store = FileStore(tmp_path, 100 * KB)
        assert store.path(ref.blake3) is not None
        assert store.manifest(ref.manifest) is None
        assert await store.read_range(ref.manifest, 0, 1) is None


async def test_a_partial_file_that_nobody_came_back_for_is_dropped(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    refs = []
    for number in (1, 2):
        manifest = manifest_of(content(number, 40 * KB), borders=[20 * KB])
        refs.append(FileRef(manifest.blake3.hex(), manifest_hash(manifest), manifest.size))
        async with store.receiving(refs[-1]) as incoming:
            await incoming.begin(encode_manifest(manifest))
            await incoming.write([Arrival(0, content(number, 40 * KB)[: 20 * KB])])
    os.utime(tmp_path / "partial" / refs[0].manifest, (1000, 1000))
    async with store.receiving(refs[0]):
        store.drop_old_partials(before=5000)
    assert store.used_bytes == 40 * KB, "it was being fetched"
    store.drop_old_partials(before=5000)
    assert store.used_bytes == FileStore(tmp_path, 100 * KB).used_bytes == 20 * KB
    async with store.receiving(refs[1]) as incoming:
        assert incoming.stored == 20 * KB


async def test_a_sparse_partial_file_counts_with_what_it_takes_on_disk(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 10 << 20)
    data = content(1, 4 << 20)
    manifest = manifest_of(data, borders=range(64 * KB, 4 << 20, 64 * KB))
    ref = FileRef(manifest.blake3.hex(), manifest_hash(manifest), manifest.size)
    async with store.receiving(ref) as incoming:
        await incoming.begin(encode_manifest(manifest))
        last = len(manifest.sizes) - 1
        await incoming.write([Arrival(last, data[-manifest.sizes[last] :])])
    assert 0 < store.used_bytes <= 256 * KB
    async with FileStore(tmp_path, 10 << 20).receiving(ref) as incoming:
        assert incoming.stored == manifest.sizes[last]


async def test_a_held_file_that_may_not_be_used_is_asked_for_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    ref = await store.add_bytes(content(1))
    store.pin(ref.blake3, "job")
    manifest = store.manifest(ref.manifest)
    assert manifest is not None
    async with store.receiving(ref, lambda file_hash: False) as incoming:
        assert incoming.whole is None
        await incoming.begin(encode_manifest(manifest))
        assert incoming.missing() == list(range(len(manifest.chunks)))
        await incoming.write([Arrival(0, content(1))])
        await incoming.finish()
    path = store.path(ref.blake3)
    assert path is not None
    assert path.read_bytes() == content(1)
    assert store.used_bytes == 10 * KB


async def test_a_file_under_another_files_manifest_is_not_here(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    mine, secret = await store.add_bytes(content(1)), await store.add_bytes(content(2))
    mixed = FileRef(mine.blake3, secret.manifest, mine.size)
    assert store.holds(mine) and not store.holds(mixed)
    async with store.receiving(mixed) as incoming:
        assert incoming.whole is None


async def test_half_a_file_is_gone_on_with_only_for_whom_it_came(tmp_path: Path) -> None:
    data = b"".join(content(number) for number in range(20))
    manifest = manifest_of(data)
    ref = FileRef(manifest.blake3.hex(), manifest_hash(manifest), len(data))
    assert len(manifest.chunks) > 1
    store = FileStore(tmp_path, 1 << 20)
    async with store.receiving(ref, owner="first") as incoming:
        await incoming.begin(encode_manifest(manifest))
        await incoming.write([Arrival(0, data)])
    store = FileStore(tmp_path, 1 << 20)
    async with store.receiving(ref, owner="second") as incoming:
        assert incoming.manifest is None
        await incoming.begin(encode_manifest(manifest))
        assert incoming.missing() == list(range(len(manifest.chunks)))
    async with store.receiving(ref, owner="first") as incoming:
        assert incoming.missing() == []


async def test_what_turned_out_bad_is_dropped_unless_somebody_needs_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 100 * KB)
    bad, data = await store.add_bytes(content(1)), await store.add_bytes(content(2))
    store.pin(data.blake3, "job")
    for ref in (bad, data):
        store.discard(ref.blake3)
    assert store.path(bad.blake3) is None
    assert store.path(data.blake3) is not None


async def test_a_file_keeps_few_manifests_however_many_ways_it_is_cut(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 1 << 20)
    data = b"".join(content(number) for number in range(20))
    for cut in range(20):
        manifest = manifest_of(data, [(5 + cut) << 12])
        ref = FileRef(manifest.blake3.hex(), manifest_hash(manifest), len(data))
        async with store.receiving(ref) as incoming:
            await incoming.begin(encode_manifest(manifest))
            await incoming.write([Arrival(0, data)])
            await incoming.finish()
        assert store.has_manifest(ref.manifest)
    assert 1 < len(list((tmp_path / "manifests").iterdir())) <= 8
    assert FileStore(tmp_path, 1 << 20).holds(ref)
