"""A program's data directory: private, locked while the program runs, with its ready file.

Also home of ``write_atomic``, by which every file of this project is written. Reads no clock
and opens no socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from p2p.errors import DataDirLockedError

LOCK_NAME = "lock"
READY_NAME = "ready.json"


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces ``path`` by ``data``: after a crash it holds the old bytes or the new ones."""
    temporary = write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """As ``write_atomic``, for its owner alone, where no file may be. Raises FileExistsError."""
    temporary = write_temporary(path, data)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def write_temporary(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """A new file beside ``path``, durable, to be renamed or linked to it by the caller."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_directory(directory: Path) -> None:
    """Makes the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DataDir:
    """A locked data directory. Made by ``DataDir.open``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    @contextlib.contextmanager
    def open(path: Path, program: str) -> Iterator[DataDir]:
        """Creates the directory (0700) if need be and holds its lock.

        Raises DataDirLockedError while another process holds it.
        """
        path = path.expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path, program):
            data_dir = DataDir(path)
            data_dir._ready_path.unlink(missing_ok=True)  # of a process that was killed
            try:
                yield data_dir
            finally:
                data_dir._ready_path.unlink(missing_ok=True)

    @property
    def _ready_path(self) -> Path:
        return self.path / READY_NAME

    def write_ready(self, info: dict[str, Any]) -> None:
        """Says to whoever waits that the program listens; ``pid`` is added. Removed at the end."""
        write_atomic(self._ready_path, json.dumps({"pid": os.getpid(), **info}, indent=2).encode() + b"\n")


def read_ready(path: Path) -> dict[str, Any] | None:
    """What the program that runs on the data directory ``path`` wrote, or None before it is ready."""
    try:
        info = json.loads((path.expanduser() / READY_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return info if isinstance(info, dict) else None


@contextlib.contextmanager
def _locked(directory: Path, program: str) -> Iterator[None]:
    # The file stays when the lock goes: removing it would let two processes lock two files.
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b") as file:  # noqa: PTH123
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirLockedError(f"{directory} is in use by {_holder(file)}") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "program": program}).encode())
        file.flush()
        yield


def _holder(file: BinaryIO) -> str:
    try:
        holder = json.loads(file.read())
        return f"{holder['program']} (process {holder['pid']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
