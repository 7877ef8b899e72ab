"""The lock and the ready file of a data directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.datadir import DataDir, read_ready, write_atomic
from p2p.errors import DataDirLockedError

HOLDER = """
import sys
from pathlib import Path
from p2p.datadir import DataDir
with DataDir.open(Path(sys.argv[1]), "cyxholder") as data_dir:
    data_dir.write_ready({})
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_program_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        message = rf"cyxholder \(process {holder.pid}\)"
        with pytest.raises(DataDirLockedError, match=message), DataDir.open(tmp_path, "second"):
            pass
        holder.kill()
    assert read_ready(tmp_path) is not None  # left by the kill
    with DataDir.open(tmp_path, "second"):
        assert read_ready(tmp_path) is None


def test_the_same_process_cannot_open_it_twice(tmp_path: Path) -> None:
    with DataDir.open(tmp_path, "one"), pytest.raises(DataDirLockedError), DataDir.open(tmp_path, "two"):
        pass
    with DataDir.open(tmp_path, "two"):
        pass


def test_the_directory_is_private(tmp_path: Path) -> None:
    with DataDir.open(tmp_path / "deep" / "data", "one") as data_dir:
        assert data_dir.path.stat().st_mode & 0o777 == 0o700


def test_the_ready_file_appears_whole_and_goes_with_the_program(tmp_path: Path) -> None:
    with DataDir.open(tmp_path, "one") as data_dir:
        assert read_ready(tmp_path) is None
        data_dir.write_ready({"addresses": ["/ip4/127.0.0.1/tcp/1"]})
        assert read_ready(tmp_path) == {"pid": os.getpid(), "addresses": ["/ip4/127.0.0.1/tcp/1"]}
    assert read_ready(tmp_path) is None


def test_an_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, b"{}")
    write_atomic(path, json.dumps({"a": 1}).encode())
    assert path.read_bytes() == b'{"a": 1}'
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(target, b"data")
    assert [file.name for file in tmp_path.iterdir()] == ["directory"]
