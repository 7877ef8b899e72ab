"""What the one-file program needs of its workers: they find what it has unpacked, and may read it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.workers.process import _environment
from backend.workers.sandbox import library_places


def test_a_worker_of_the_one_file_program_may_read_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "cyxwiz"
    program.touch()
    monkeypatch.setattr(sys, "_MEIPASS", str(tmp_path), raising=False)
    monkeypatch.setattr(sys, "executable", str(program))
    assert {program, tmp_path} <= set(library_places())


def test_a_worker_of_an_installed_program_may_not_read_the_interpreters_folder() -> None:
    assert Path(sys.executable) not in library_places()


def test_what_the_one_file_program_unpacked_is_told_to_its_workers_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_PYI_APPLICATION_HOME_DIR", "/somewhere")
    monkeypatch.setenv("SECRET", "x")
    environment = _environment(tmp_path)
    assert environment["_PYI_APPLICATION_HOME_DIR"] == "/somewhere"
    assert "SECRET" not in environment
