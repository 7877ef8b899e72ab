"""Trainings as the window keeps them: curves while they run, a file for each that is over. Blocking files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine_app.ui.curves import Curve, thinned
from p2p.datadir import write_atomic

KEPT_RUNS, LISTED_RUNS = 50, 12
"""Files that there are, and those that are read: a window does so before its first frame."""
KEPT_COLUMNS = 1000
MAX_RUN_BYTES = 16 << 20
CURVES = ("loss", "validation_loss", "accuracy", "validation_accuracy", "learning_rate", "samples_per_s")


class SavedRun(msgspec.Struct, frozen=True):
    """A run that is over. Times are Unix seconds."""

    number: int
    name: str
    data: str
    ended_at: float
    outcome: str
    """done, cancelled or failed."""
    text: str
    output: str
    metrics: dict[str, Any]
    curves: dict[str, tuple[list[float], list[float]]]


@dataclass
class Run:
    """One that runs, or is shown again."""

    name: str
    data: str
    number: int = 0
    curves: dict[str, Curve] = field(default_factory=lambda: {name: Curve() for name in CURVES})
    metrics: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    outcome: str = ""
    text: str = ""

    def add(self, metrics: Mapping[str, Any]) -> None:
        """One point of every curve that has one."""
        self.metrics = dict(metrics)
        for name, curve in self.curves.items():
            value = metrics.get(name)
            if value is not None:
                curve.append(float(metrics["step"]), float(value))

    def saved(self, ended_at: float) -> SavedRun:
        curves = {}
        for name, curve in self.curves.items():
            if len(curve):
                x, y = thinned(curve.x, curve.y, curve.x[0], curve.x[-1], KEPT_COLUMNS)
                good = np.isfinite(y)
                curves[name] = (x[good].tolist(), y[good].tolist())
        return SavedRun(
            self.number,
            self.name,
            self.data,
            ended_at,
            self.outcome,
            self.text,
            self.output,
            self.metrics,
            curves,
        )


def run_of(saved: SavedRun) -> Run:
    run = Run(saved.name, saved.data, saved.number, metrics=saved.metrics, output=saved.output)
    run.outcome, run.text = saved.outcome, saved.text
    for name, (x, y) in saved.curves.items():
        if name in run.curves:
            run.curves[name].extend(np.asarray(x), np.asarray(y))
    return run


class RunFiles:
    """``NUMBER.json`` in a folder; the oldest give way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[SavedRun]:
        """Those that are listed, newest first; what cannot be read is passed over."""
        found = map(self._read, reversed(self._numbers()))
        return list(islice((run for run in found if run is not None), LISTED_RUNS))

    def next_number(self) -> int:
        return max(self._numbers(), default=0) + 1

    def save(self, run: SavedRun) -> None:
        """Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._folder / f"{run.number}.json", msgspec.json.encode(run))
        for number in self._numbers()[:-KEPT_RUNS]:
            (self._folder / f"{number}.json").unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        names = [path.stem for path in self._folder.glob("*.json")]
        return sorted(int(name) for name in names if name.isdecimal() and name.isascii() and len(name) < 10)

    def _read(self, number: int) -> SavedRun | None:
        path = self._folder / f"{number}.json"
        try:
            if path.stat().st_size > MAX_RUN_BYTES:
                return None
            return msgspec.json.decode(path.read_bytes(), type=SavedRun)
        except (OSError, msgspec.MsgspecError):
            return None
