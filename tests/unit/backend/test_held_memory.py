"""What counts as a worker's memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch

from backend.workers.sandbox import held_bytes

SIZE = 64 << 20
SLACK = SIZE // 4
"""Of what the interpreter takes or gives back meanwhile."""
OWN = Path("/proc/self")


def test_memory_is_held_once_it_is_written_and_pages_of_files_are_not() -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"  # on a disk, as tmp_path need not be
    before = held_bytes(OWN)
    with library.open("rb") as file, mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0  # reads every page
        assert abs(held_bytes(OWN) - before) < SLACK
    with mmap.mmap(-1, SIZE) as shared:
        assert abs(held_bytes(OWN) - before) < SLACK
        shared.write(b"\1" * SIZE)
        assert abs(held_bytes(OWN) - before - SIZE) < SLACK
