"""Reading and writing the files that transfers move. Blocking; call it in a thread.

Follows no symbolic link and opens nothing but plain files: a path may come from a process that
is not trusted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

import trio

from p2p.errors import TransferError
from p2p.transfer import Manifest, ManifestBuilder
from p2p.transfer_cuts import find_borders

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_READ_BYTES = 4 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RunBlocking(Protocol):
    """How blocking disk work is run: ``run_in_thread``, or ``run_inline`` in simulations."""

    async def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T: ...


async def run_in_thread(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    return await trio.to_thread.run_sync(function, *arguments)


async def run_inline(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Runs it here and now: a virtual clock cannot see that a thread is still at work."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


def plain_file_size(path: Path) -> int:
    """Raises TransferError for anything but a plain file, FileNotFoundError."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise TransferError(f"{path} is no plain file ({stat.filemode(found.st_mode)})")
    return found.st_size


def allocated_bytes(path: Path) -> int:
    """What a file that may have holes takes on disk."""
    found = path.stat()
    return min(found.st_size, found.st_blocks * 512)


def same_filesystem(path: Path, other: Path) -> bool:
    """Whether a file can be moved from one to the other by renaming it."""
    return path.lstat().st_dev == other.lstat().st_dev


def hash_file(path: Path, size: int) -> Manifest:
    """Also makes the file durable. Raises TransferError for anything but a plain file of ``size`` bytes."""
    source = _open_plain(path)
    try:
        manifest = _read_all(source, path, size, lambda data: None)
        os.fsync(source)
    finally:
        os.close(source)
    return manifest


def copy_file(path: Path, copy: Path, size: int) -> Manifest:
    """A durable copy; the manifest is that of the copy, whatever happens to the file meanwhile."""
    source = _open_plain(path)
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            manifest = _read_all(source, path, size, lambda data: write_all(target, data))
            os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)
    return manifest


def write_file(path: Path, data: bytes) -> None:
    """A new, durable file."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(target, data)
        os.fsync(target)
    finally:
        os.close(target)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Raises OSError unless there are so many bytes."""
    descriptor = _open_plain(path)
    try:
        data = os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise OSError(errno.EIO, f"{len(data)} bytes at {offset} instead of {length}", str(path))
    return data


def read_part(path: Path, offset: int, length: int) -> tuple[int, bytes]:
    """The size of a file, and as many of the bytes as there are."""
    descriptor = _open_plain(path)
    try:
        size = os.fstat(descriptor).st_size
        return size, os.pread(descriptor, length, offset) if offset < size else b""
    finally:
        os.close(descriptor)


def _open_plain(path: Path) -> int:
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TransferError(f"{path} is a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TransferError(f"{path} is no plain file")
    return descriptor


def _read_all(descriptor: int, path: Path, size: int, keep: Callable[[bytes], None]) -> Manifest:
    builder = ManifestBuilder(
        size, find_borders(lambda offset, length: os.pread(descriptor, length, offset), size)
    )
    left = size
    while data := os.read(descriptor, _READ_BYTES):
        left -= len(data)
        if left < 0:
            break
        builder.update(data)
        keep(data)
    if left != 0:
        raise TransferError(f"{path} is not {size} bytes long any more: it changed while it was read")
    return builder.finish()
