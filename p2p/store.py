"""Files by content, on disk, within a quota: what a program has and may give to others.

    files/HASH        whole files, by the BLAKE3 of their content
    manifests/HASH    their manifests, by the BLAKE3 of the manifest
    partial/HASH      files that are still arriving, by manifest and whom they are for, with HASH.manifest
    pins/HASH.OWNER   empty: the file must not be evicted
    tmp/              what a crash may leave behind; emptied at the start

A name is given only to what has been checked, by a rename, so whatever a crash leaves in
``files`` is whole. Long disk work runs in threads; indexes change on the trio thread only, in the
same step as the rename they stand for. Two programs never share a directory: their data
directory's lock sees to that.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import trio
from blake3 import blake3

from p2p.datadir import sync_directory, write_atomic
from p2p.disk import (
    RunBlocking,
    allocated_bytes,
    copy_file,
    hash_file,
    plain_file_size,
    read_at,
    read_part,
    run_in_thread,
    same_filesystem,
    write_file,
)
from p2p.errors import LocalProtocolError, TransferError
from p2p.incoming import MANIFEST_SUFFIX, Copies, Incoming
from p2p.jobs import FileRef
from p2p.rates import Rates
from p2p.transfer import Manifest, decode_manifest, encode_manifest, manifest_of
from p2p.transfer_cuts import find_borders

log = structlog.get_logger(__name__)

Reuse = Callable[[str], bool]
"""Whether chunks of the file with this BLAKE3 may be used for another. Called in a thread."""

_MAX_SCANNED_CHUNKS = 4 << 20
_MAX_MANIFESTS = 8
"""Of one file, whose chunks anybody may cut as they like; the oldest go beyond that."""
_HASH = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"[0-9A-Za-z_-]{0,64}")


@dataclass(slots=True)
class _Held:
    """A whole file; ``manifests`` are the hashes under which it can be served."""

    size: int
    manifests: list[str] = field(default_factory=list)


class FileStore:
    """Content-addressed files. ``bytes_sent`` and ``bytes_received`` count what transfers moved."""

    def __init__(
        self,
        directory: Path,
        quota_bytes: int,
        run_blocking: RunBlocking = run_in_thread,
        rates: Rates | None = None,
    ) -> None:
        """Opens or makes the store; blocking, and quick: no content is read.

        ``rates`` limit all transfers of the store together.
        """
        self._run = run_blocking
        self.rates = rates or Rates.of()
        self.quota_bytes = quota_bytes
        self.bytes_sent = 0
        self.bytes_received = 0
        self._files = directory / "files"
        self._manifests = directory / "manifests"
        self._partial = directory / "partial"
        self._pin_files = directory / "pins"
        self._temporary = directory / "tmp"
        self._held: dict[str, _Held] = {}
        """By BLAKE3, least recently used first."""
        self._by_manifest: dict[str, str] = {}
        self._pins: dict[str, set[str]] = {}
        self._used: dict[str, set[str]] = {}
        """Files by who needs them for now."""
        self._resting: dict[str, int] = {}
        """Partial files that nobody is fetching, by name, oldest first, with their sizes."""
        self._reserved = 0
        self._settling: list[str] = []
        """Files that their bringer has had no chance to pin yet."""
        self._locks: dict[str, trio.Lock] = {}
        self._scan()

    # -- looking ---------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, and those that running transfers will need."""
        return sum(held.size for held in self._held.values()) + sum(self._resting.values()) + self._reserved

    def path(self, blake3: str) -> Path | None:
        """Where the whole file is, or None. Valid until the file is evicted: pin it first."""
        held = self._held.pop(blake3, None)
        if held is None:
            return None
        self._held[blake3] = held  # most recently used
        return self._files / blake3

    def ref(self, blake3: str) -> FileRef | None:
        """How others can ask for the file."""
        held = self._held.get(blake3)
        return FileRef(blake3, next(iter(held.manifests)), held.size) if held else None

    def holds(self, ref: FileRef) -> bool:
        """Whether the whole file is here by this very manifest."""
        held = self._held.get(ref.blake3)
        return held is not None and held.size == ref.size and ref.manifest in held.manifests

    def has_manifest(self, manifest_hash: str) -> bool:
        """Whether a whole file is here by this manifest."""
        return manifest_hash in self._by_manifest

    def manifest(self, manifest_hash: str) -> Manifest | None:
        """The manifest of a whole file, or None. Reads a file of some KB."""
        if manifest_hash not in self._by_manifest:
            return None
        return decode_manifest((self._manifests / manifest_hash).read_bytes())

    # -- putting in and taking out -----------------------------------------------------------------

    async def add(self, path: Path, *, move: bool = False) -> FileRef:
        """Takes in a copy of a file; or, with ``move``, the file itself, which nobody may be writing to.

        Raises TransferError when it does not fit the quota or is no plain file.
        """
        size = plain_file_size(path)
        with self._room_for(size):
            if move and same_filesystem(path, self._files):
                return await self._take_in(path, await self._run(hash_file, path, size))
            with self._new_file() as copy:
                manifest = await self._run(copy_file, path, copy, size)
                ref = await self._take_in(copy, manifest)
            if move:
                await self._run(path.unlink)
            return ref

    async def add_bytes(self, data: bytes) -> FileRef:
        """Raises TransferError when ``data`` does not fit the quota."""
        with self._room_for(len(data)), self._new_file() as path:
            await self._run(write_file, path, data)
            return await self._take_in(path, await self._run(_manifest_of_bytes, data))

    def remove(self, blake3: str) -> None:
        """Forgets a file, its manifests and its pins; no error if it is not there."""
        held = self._held.pop(blake3, None)
        if held is None:
            return
        for owner in self._pins.pop(blake3, set()):
            self._pin_file(blake3, owner).unlink(missing_ok=True)
        for manifest in held.manifests:
            self._drop_manifest(manifest)
        (self._files / blake3).unlink(missing_ok=True)

    def discard(self, blake3: str) -> None:
        """Forgets a file that turned out to be of no use, unless somebody has pinned it: whoever names a
        bad file may name the hash of a good one."""
        if not self._is_needed(blake3):
            self.remove(blake3)

    def pin(self, blake3: str, owner: str = "") -> None:
        """Keeps a file from eviction, also over a restart, until each of its owners unpins it.

        ``owner`` is a word, such as a job id. Raises LocalProtocolError for a file not held.
        """
        if blake3 not in self._held:
            raise LocalProtocolError(f"file {blake3} is not in the store: nothing to pin")
        self._pin_file(blake3, owner).touch(0o600)
        self._pins.setdefault(blake3, set()).add(owner)

    def unpin(self, blake3: str, owner: str = "") -> None:
        """No error if it was not pinned."""
        owners = self._pins.get(blake3, set())
        if owner in owners:
            self._pin_file(blake3, owner).unlink(missing_ok=True)
            owners.discard(owner)
        if not owners:
            self._pins.pop(blake3, None)

    def use(self, blake3: str, user: str) -> None:
        """Keeps a file from eviction until ``end_use``, or the end of the program."""
        self._used.setdefault(user, set()).add(blake3)

    def end_use(self, user: str, blake3: str | None = None) -> None:
        """Of one file, or of all that this one used."""
        if blake3 is None:
            self._used.pop(user, None)
        else:
            self._used.get(user, set()).discard(blake3)

    def drop_old_partials(self, before: float) -> None:
        """Those that nobody is fetching and that were last written before this time of day."""
        for name in tuple(self._resting):
            with suppress(FileNotFoundError):
                if (self._partial / name).stat().st_mtime >= before:
                    continue
            log.info("partial file dropped", name=name)
            self._discard_partial(name)

    # -- giving to others ----------------------------------------------------------------------------

    async def read_manifest(self, manifest_hash: str, offset: int, length: int) -> tuple[int, bytes] | None:
        """Size of the encoded manifest of a whole file, and up to ``length`` bytes of it; or None."""
        if manifest_hash not in self._by_manifest:
            return None
        try:
            return await self._run(read_part, self._manifests / manifest_hash, offset, length)
        except FileNotFoundError:  # evicted while the thread was starting
            return None

    def check_range(self, manifest_hash: str, offset: int, length: int) -> bool:
        """Whether the file is here. Raises IndexError for bytes outside of it."""
        file_hash = self._by_manifest.get(manifest_hash)
        if file_hash is None:
            return False
        size = self._held[file_hash].size
        if offset + length > size:
            raise IndexError(f"bytes {offset} to {offset + length} of a file of {size}")
        return True

    async def read_range(self, manifest_hash: str, offset: int, length: int) -> bytes | None:
        """Bytes of a file, or None for one that is not here. Raises IndexError outside of it."""
        if not self.check_range(manifest_hash, offset, length):
            return None
        file_hash = self._by_manifest[manifest_hash]
        try:
            return await self._run(read_at, self._files / file_hash, offset, length)
        except FileNotFoundError:  # evicted while the thread was starting
            return None

    # -- taking from others --------------------------------------------------------------------------

    @asynccontextmanager
    async def receiving(
        self, ref: FileRef, reuse: Reuse | None = None, owner: str = ""
    ) -> AsyncIterator[Incoming]:
        """The file as far as it is here. One at a time for each manifest and owner; others wait.

        Chunks that other files here hold are taken from them. ``reuse`` says which files may be
        used, also whether the very file may: whoever sends the rest can tell from what is not asked
        for what was here, and whoever only knows a hash must not get what is behind it. For the same
        reason half a file is gone on with only by the ``owner`` for whom it came. A file that is here
        by another manifest than the one named does not count: that one may be of another file.
        """
        if not (_HASH.fullmatch(ref.blake3) and _HASH.fullmatch(ref.manifest)):
            raise LocalProtocolError(f"{ref.manifest!r} of {ref.blake3!r} are no BLAKE3 hashes")
        name = _partial_name(ref.manifest, owner)
        async with self._only(name):
            usable = self.holds(ref) and (reuse is None or reuse(ref.blake3))
            whole = self.path(ref.blake3) if usable else None
            find_copies = partial(self._find_copies, reuse or (lambda file_hash: True))
            incoming = Incoming(ref, whole, self._partial / name, self._take_in, find_copies, self._run)
            if whole is not None:
                yield incoming
                return
            self._resting.pop(name, None)
            try:
                with self._room_for(ref.size):
                    await incoming.resume()
                    yield incoming
            finally:
                incoming.close()
                if (left := incoming.bytes_left()) is not None:
                    self._resting[name] = left

    # -- inside --------------------------------------------------------------------------------------

    def _find_copies(self, reuse: Reuse, manifest: Manifest, missing: Sequence[int]) -> Copies:
        """Where files here should hold these chunks; the stored manifests are the index."""
        wanted = {manifest.chunks[index]: index for index in missing}
        found: Copies = {}
        scanned = 0
        for file_hash, held in reversed(tuple(self._held.items())):
            if scanned > _MAX_SCANNED_CHUNKS or len(found) == len(wanted) or not reuse(file_hash):
                continue
            other = _stored_manifest(self._manifests / held.manifests[0])
            if other is None:
                continue
            scanned += len(other.chunks)
            for chunk, offset in zip(other.chunks, other.offsets(), strict=False):
                if (index := wanted.get(chunk)) is not None:
                    found.setdefault(index, (self._files / file_hash, offset))
        return found

    async def _take_in(self, path: Path, manifest: Manifest) -> FileRef:
        """Gives a durable file of checked content its name."""
        encoded = encode_manifest(manifest)
        ref = FileRef(manifest.blake3.hex(), blake3(encoded).hexdigest(), manifest.size)
        await self._run(write_atomic, self._manifests / ref.manifest, encoded)
        path.replace(self._files / ref.blake3)  # noqa: ASYNC240 - in one step with the index
        held = self._held.pop(ref.blake3, None) or _Held(manifest.size)
        if ref.manifest not in held.manifests:
            held.manifests.append(ref.manifest)
            if len(held.manifests) > _MAX_MANIFESTS:
                self._drop_manifest(held.manifests.pop(0))
        self._held[ref.blake3] = held
        self._by_manifest[ref.manifest] = ref.blake3
        self._settling.append(ref.blake3)
        try:
            await self._run(sync_directory, self._files)
        finally:
            self._settling.remove(ref.blake3)
        return ref

    def _drop_manifest(self, manifest_hash: str) -> None:
        del self._by_manifest[manifest_hash]
        (self._manifests / manifest_hash).unlink(missing_ok=True)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        held = sum(held.size for file_hash, held in self._held.items() if self._is_needed(file_hash))
        needed = held + self._reserved
        if needed + size > self.quota_bytes:  # nothing is given up for what cannot fit
            raise TransferError(
                f"file of {size} bytes does not fit: quota of {self.quota_bytes} bytes, "
                f"{needed} of them pinned or in use"
            )
        while self.used_bytes + size > self.quota_bytes:
            self._evict_one()
        self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size

    @contextmanager
    def _new_file(self) -> Iterator[Path]:
        path = self._temporary / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _evict_one(self) -> None:
        """Something is there that is not needed."""
        if self._resting:
            self._discard_partial(next(iter(self._resting)))
            return
        file_hash = next(file_hash for file_hash in self._held if not self._is_needed(file_hash))
        log.info("file evicted", blake3=file_hash, size_bytes=self._held[file_hash].size)
        self.remove(file_hash)

    def _is_needed(self, file_hash: str) -> bool:
        if file_hash in self._pins or file_hash in self._settling:
            return True
        return any(file_hash in files for files in self._used.values())

    def _discard_partial(self, name: str) -> None:
        del self._resting[name]
        (self._partial / name).unlink(missing_ok=True)
        (self._partial / (name + MANIFEST_SUFFIX)).unlink(missing_ok=True)

    @asynccontextmanager
    async def _only(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(name, None)

    def _pin_file(self, file_hash: str, owner: str) -> Path:
        if not _OWNER.fullmatch(owner):
            raise LocalProtocolError(f"pin owner {owner!r}, must be up to 64 letters, digits, - or _")
        return self._pin_files / f"{file_hash}.{owner}"

    def _scan(self) -> None:
        for directory in (self._files, self._manifests, self._partial, self._pin_files, self._temporary):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._temporary.iterdir():
            leftover.unlink()
        self._scan_files()
        self._scan_partials()
        for pin in self._pin_files.iterdir():
            file_hash, _, owner = pin.name.partition(".")
            if file_hash in self._held:
                self._pins.setdefault(file_hash, set()).add(owner)
            else:
                pin.unlink()

    def _scan_files(self) -> None:
        for path in sorted(self._files.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            self._held[path.name] = _Held(path.stat().st_size)
        for path in self._manifests.iterdir():
            manifest = _stored_manifest(path)
            held = self._held.get(manifest.blake3.hex()) if manifest else None
            if manifest is None or held is None or held.size != manifest.size:
                path.unlink()
                continue
            held.manifests.append(path.name)
            self._by_manifest[path.name] = manifest.blake3.hex()
        for file_hash in [name for name, held in self._held.items() if not held.manifests]:
            self.remove(file_hash)

    def _scan_partials(self) -> None:
        for path in sorted(self._partial.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            name = path.name.removesuffix(MANIFEST_SUFFIX)
            data, manifest = self._partial / name, self._partial / (name + MANIFEST_SUFFIX)
            if not (_HASH.fullmatch(name) and data.exists() and manifest.exists()):
                path.unlink(missing_ok=True)
            elif path == data:
                self._resting[name] = allocated_bytes(path)


def _partial_name(manifest_hash: str, owner: str) -> str:
    return blake3(f"{owner} {manifest_hash}".encode()).hexdigest() if owner else manifest_hash


def _stored_manifest(path: Path) -> Manifest | None:
    """None for anything that a crash left."""
    if not _HASH.fullmatch(path.name):
        return None
    try:
        return decode_manifest(path.read_bytes())
    except (TransferError, FileNotFoundError):
        return None


def _manifest_of_bytes(data: bytes) -> Manifest:
    return manifest_of(data, find_borders(lambda offset, length: data[offset : offset + length], len(data)))
