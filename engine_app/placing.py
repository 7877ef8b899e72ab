"""Puts a file that a worker made where the user wants it: copied once, checked as copied, then in place.

A worker that a hostile file has taken over may change what it made at any time: nothing is checked in
its directory, and no link in it is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2p.datadir import sync_directory

_PIECE_BYTES = 1 << 20


@contextmanager
def placing(source: Path, target: Path) -> Iterator[Path]:
    """A private copy beside the target, which takes its place at the end of the block, whole or not at all.

    Raises OSError for anything but a regular file.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        copy_regular(source, temporary, follow=False)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        yield temporary
        temporary.replace(target)
        sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def install(source: Path, target: Path) -> None:
    """Raises OSError."""
    with placing(source, target):
        pass


def copy_regular(source: Path, target: Path, *, follow: bool = True) -> None:
    """As many bytes as the file has when it is opened: no device, no pipe and no growing file is read on.

    ``follow``: a link stands for what it points to. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with os.fdopen(os.open(source, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "is not a regular file", str(source))
        left = found.st_size
        # A new file: nobody may have put a link of that name there.
        target.unlink(missing_ok=True)
        with target.open("xb") as copy:
            while left and (piece := file.read(min(_PIECE_BYTES, left))):
                copy.write(piece)
                left -= len(piece)
            if left:
                raise OSError(0, f"became {left} bytes shorter while it was read", str(source))
