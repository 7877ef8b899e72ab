"""The file of API keys: damage to it neither opens a server nor ends one."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.serving.keys import make_key
from engine_app.entry import CommandError
from engine_app.key_file import FILE, MAX_BYTES, Keys, read_keys, write_keys


def test_keys_that_were_good_stay_in_force_while_the_file_is_damaged(tmp_path: Path) -> None:
    kept = tuple(make_key(name, ("predict",), 0, (name, "secret"), "now")[1] for name in "ab")
    told: list[str] = []
    write_keys(tmp_path, kept)
    keys = Keys(tmp_path, told.append)
    assert (keys(), told) == (kept, [])
    (tmp_path / FILE).write_bytes(b"[{")
    assert (keys(), keys(), len(told)) == (kept, kept, 1)
    assert FILE in told[0]
    write_keys(tmp_path, kept[:1])
    assert (keys(), len(told)) == (kept[:1], 1)
    (tmp_path / FILE).write_bytes(b"[{")
    assert (keys(), len(told)) == (kept[:1], 2)
    # No file is no damage: all keys have been taken back.
    (tmp_path / FILE).unlink()
    assert keys() == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b'[{"id": "a"}]',
        b"[" + b" " * MAX_BYTES + b"]",
        '[{"id":"a","name":"a","sha256":"\u00e9","scopes":[],"per_minute":0,"created":""}]'.encode(),
    ],
)
def test_a_server_does_not_start_with_damaged_keys(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(CommandError, match="is damaged"):
        Keys(tmp_path, print)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(CommandError, match=f"{FILE} cannot be read"):
        read_keys(tmp_path)
