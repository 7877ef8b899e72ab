"""Files that a worker made: no link in its directory is followed, and what is checked is what is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import ArchiveError, DatasetError
from backend.facts import read_data_header
from backend.parity import Certificate, InputFacts
from engine_app.exporting import _check_copy
from engine_app.placing import copy_regular, install, placing


def test_a_file_is_placed_whole(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"x" * 3_000_000)
    install(tmp_path / "made", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x" * 3_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out"]


def test_a_link_that_a_worker_left_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "made").symlink_to(tmp_path / "secret")
    (tmp_path / "out").write_text("before")
    with pytest.raises(OSError, match="symbolic link"):
        install(tmp_path / "made", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "before"
    copy_regular(tmp_path / "made", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"


@pytest.mark.parametrize("make", ["pipe", "device", "folder"])
def test_what_never_ends_is_not_waited_for(make: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    if make == "pipe":
        os.mkfifo(made)
    elif make == "folder":
        made.mkdir()
    else:
        made.symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        copy_regular(made, tmp_path / "out")


def test_what_fails_its_check_is_not_placed(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("bad")
    (tmp_path / "out").write_text("before")
    with pytest.raises(ArchiveError), placing(tmp_path / "made", tmp_path / "out") as copy:
        raise ArchiveError(copy.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out"]
    assert (tmp_path / "out").read_text() == "before"


def test_a_change_after_the_check_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("good")
    with placing(tmp_path / "made", tmp_path / "out") as copy:
        assert copy.read_text() == "good"
        (tmp_path / "made").write_text("evil")
    assert (tmp_path / "out").read_text() == "good"


def test_a_certificate_of_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("other")
    facts = InputFacts("drawn", 1, "")
    certificate = Certificate(
        1, "onnx", "", "", {}, "", "0" * 64, facts, (1,), (), 0.0, 0.0, None, 0.0, "equal"
    )
    with pytest.raises(ArchiveError, match="not the one that was run"):
        _check_copy(tmp_path / "file", certificate)


def test_a_link_at_the_place_of_the_copy_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("new")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "copy").symlink_to(tmp_path / "victim")
    copy_regular(tmp_path / "made", tmp_path / "copy")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "copy").read_text() == "new"


def test_a_pipe_that_is_called_a_dataset_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(DatasetError, match="no regular file"):
        read_data_header(tmp_path / "x.safetensors")
