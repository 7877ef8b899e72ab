"""The ZIP around a .cyxmodel, written and read in one narrow form. Extracts nothing to disk.

Members are stored, not compressed, so no archive can unfold into more than its own size; they lie
back to back from the first byte to the directory, so nothing hides between them; names must be
known ones, each at most once. Whatever deviates is refused, also where ZIP would allow it.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from backend.errors import ArchiveError

_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_SIGNATURE, _LOCAL_SIGNATURE = b"PK\x05\x06", b"PK\x03\x04"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16
_MAX_NAMES_BYTES = 1 << 16
MAX_ARCHIVE_BYTES = (1 << 32) - (1 << 16)
"""What fits without ZIP64, which is refused."""


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes atomically: afterwards ``path`` holds all of it or what it held before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
                for name, data in members.items():
                    information = zipfile.ZipInfo(name, _EPOCH)
                    information.external_attr = _MODE
                    information.create_system = 3
                    archive.writestr(information, data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except zipfile.LargeZipFile as error:
        raise ArchiveError(f"archive over {MAX_ARCHIVE_BYTES} bytes: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_archive(path: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """All members. ``limits`` names the members that may be there and their largest size.

    Raises ArchiveError.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return {name: _read(file, at, length) for name, at, length in _layout(file, size, limits)}
    except OSError as error:
        raise ArchiveError(f"archive cannot be read: {error.strerror}") from error


def _layout(file: BinaryIO, size: int, limits: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Name, position and length of each member, checked."""
    directory_at = _find_directory(file, size, len(limits))
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"not a readable archive: {error}") from error
    layout: list[tuple[str, int, int]] = []
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        _check_entry(entry, limits)
        if any(entry.filename == name for name, _, _ in layout):
            raise ArchiveError(f"member {entry.filename!r} appears twice")
        if entry.header_offset != position:
            raise ArchiveError(f"member {entry.filename!r} at {entry.header_offset}, expected {position}")
        data_at = position + _check_local_header(file, entry)
        position = data_at + entry.file_size
        layout.append((entry.filename, data_at, entry.file_size))
    if position != directory_at:
        raise ArchiveError(f"members end at {position}, the directory begins at {directory_at}")
    return layout


def _find_directory(file: BinaryIO, size: int, max_members: int) -> int:
    """Position of the central directory, from the end record, which must be the last thing."""
    if not _END.size <= size <= MAX_ARCHIVE_BYTES:
        raise ArchiveError(f"archive of {size} bytes, allowed are {_END.size} to {MAX_ARCHIVE_BYTES}")
    file.seek(size - _END.size)
    signature, disk, first_disk, here, total, length, at, comment = _END.unpack(file.read(_END.size))
    if signature != _END_SIGNATURE or comment or disk or first_disk:
        raise ArchiveError("no archive end record where it must be")
    if here != total or total > max_members:
        raise ArchiveError(f"archive of {total} members, limit {max_members}")
    if length > _MAX_NAMES_BYTES or at + length != size - _END.size:
        raise ArchiveError(f"archive directory of {length} bytes at {at} does not end at the end record")
    return int(at)


def _check_entry(entry: zipfile.ZipInfo, limits: Mapping[str, int]) -> None:
    name = entry.orig_filename
    if name not in limits or entry.filename != name:
        raise ArchiveError(f"member {name[:80]!r}, allowed are {', '.join(limits)}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ArchiveError(f"member {name!r} is compressed, allowed is stored")
    if entry.flag_bits or entry.extra or entry.comment:
        raise ArchiveError(f"member {name!r} has flags {entry.flag_bits} or extra fields, allowed is neither")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ArchiveError(f"member {name!r} is a link or no regular file")
    if entry.file_size > limits[name]:
        raise ArchiveError(f"member {name!r} of {entry.file_size} bytes, limit {limits[name]}")


def _check_local_header(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """The length of the member's own header, which must say what the directory says."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise ArchiveError(f"member {entry.filename!r} is cut off")
    signature, _, flags, method, _, _, _, packed, size, name_length, extra = _LOCAL.unpack(header)
    name = file.read(name_length)
    same = (flags, method, packed, size, extra) == (0, 0, entry.file_size, entry.file_size, 0)
    if signature != _LOCAL_SIGNATURE or not same or name != entry.filename.encode():
        raise ArchiveError(f"member {entry.filename!r}: header and directory disagree")
    return int(_LOCAL.size + name_length)


def _read(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    data = file.read(length)
    if len(data) != length:
        raise ArchiveError(f"archive cut off at {position + len(data)} bytes")
    return data


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
