"""What counts as a worker's memory."""

from __future__ import annotations

import mmap
from pathlib import Path

from backend.workers.sandbox import held_bytes

SIZE = 64 << 20
SLACK = SIZE // 4
"""Of what the interpreter takes or gives back meanwhile."""
OWN = Path("/proc/self")


def test_memory_is_held_once_it_is_written_and_pages_of_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(SIZE))
    before = held_bytes(OWN)
    with (
        (tmp_path / "model").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped.find(b"\1") == -1  # reads every page
        assert abs(held_bytes(OWN) - before) < SLACK
    with mmap.mmap(-1, SIZE) as shared:
        assert abs(held_bytes(OWN) - before) < SLACK
        shared.write(b"\1" * SIZE)
        assert abs(held_bytes(OWN) - before - SIZE) < SLACK
