from __future__ import annotations

from pathlib import Path

import pytest

from engine_app.ui import runs
from engine_app.ui.runs import Run, RunFiles, run_of


def finished(number: int, steps: int = 5000) -> Run:
    run = Run("digits", "bundled:digits", number)
    for step in range(1, steps + 1):
        run.add({"step": step, "total_steps": steps, "loss": 1 / step, "accuracy": None})
    run.outcome = "done"
    return run


def test_a_run_is_kept_with_its_curves_and_shown_again(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "runs")
    assert (files.load(), files.next_number()) == ([], 1)
    files.save(finished(1).saved(ended_at=0))
    (saved,) = files.load()
    assert files.next_number() == 2
    again = run_of(saved)
    assert again.curves["loss"].x[-1] == 5000
    assert len(again.curves["loss"]) <= 2 * runs.KEPT_COLUMNS + 8
    assert len(again.curves["accuracy"]) == 0
    assert again.metrics["loss"] == 1 / 5000


def test_the_oldest_runs_give_way_and_damaged_files_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "KEPT_RUNS", 3)
    files = RunFiles(tmp_path)
    for number in range(1, 6):
        files.save(finished(number, 3).saved(ended_at=0))
    (tmp_path / "4.json").write_text("{")
    (tmp_path / "notes.json").write_text("{}")
    assert [run.number for run in files.load()] == [5, 3]
    monkeypatch.setattr(runs, "LISTED_RUNS", 1)
    assert [run.number for run in files.load()] == [5]
