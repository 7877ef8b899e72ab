"""The trials of a sweep: Optuna's TPE and median pruning over a journal on disk that outlives a crash.

Each trial draws from a sampler seeded with the sweep's seed and the trial's number, so that a sweep
that was cut short draws what it would have drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from engine_app.sweep_space import Dimension

JOURNAL = "sweep.journal"
_NAME = "sweep"
_STARTUP_TRIALS = 5
"""Drawn at random, and never stopped early."""
_WARMUP_EPOCHS = 1
WHY = "why"


@dataclass(frozen=True, slots=True)
class TrialRow:
    """``value`` is that of the metric; of one that was stopped early the last that it reported."""

    number: int
    state: str
    value: float | None
    epochs: int
    parameters: Mapping[str, Any]
    why: str


class Study:
    def __init__(
        self, directory: Path, dimensions: Sequence[Dimension], seed: int, *, maximize: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._dimensions = tuple(dimensions)
        self._seed = seed
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(directory / JOURNAL))),
            study_name=_NAME,
            load_if_exists=True,
            direction="maximize" if maximize else "minimize",
            pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS),
        )
        self._maximize = maximize

    @property
    def done(self) -> int:
        """Trials that are over."""
        return sum(trial.state.is_finished() and not _was_cut(trial) for trial in self._trials())

    @property
    def spent_s(self) -> float:
        """Seconds of the trials that are over, also before a restart."""
        spans = (
            trial.duration for trial in self._trials() if trial.state.is_finished() and not _was_cut(trial)
        )
        return sum((span.total_seconds() for span in spans if span is not None), 0.0)

    def go_on(self) -> None:
        """Trials that a crash or the user cut short are made again."""
        for trial in self._trials():
            if trial.state is TrialState.RUNNING:
                self._study.enqueue_trial(trial.params, user_attrs={"of": trial.number})
                self._study.tell(trial.number, state=TrialState.FAIL)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        number = self.done
        self._study.sampler = optuna.samplers.TPESampler(
            seed=(self._seed * 1_000_003 + number) % 2**32, n_startup_trials=_STARTUP_TRIALS
        )
        trial = self._study.ask({each.name: _distribution(each) for each in self._dimensions})
        return trial, dict(trial.params)

    def report(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        """Whether the trial should be stopped: it is worse than half of the others at that epoch, from 1."""
        trial.report(value, epoch - 1)
        return bool(trial.should_prune())

    def is_better(self, value: float) -> bool:
        """Than all that came to their end."""
        best = self.best()
        if best is None or best.value is None:
            return True
        return value > best.value if self._maximize else value < best.value

    def finish(self, trial: optuna.Trial, value: float) -> None:
        self._study.tell(trial, value)

    def stop(self, trial: optuna.Trial) -> None:
        """It was worse than others."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, why: str) -> None:
        """It could not be trained."""
        trial.set_user_attr(WHY, why)
        self._study.tell(trial, state=TrialState.FAIL)

    def best(self) -> TrialRow | None:
        complete = [row for row in self.rows() if row.state == "complete" and row.value is not None]
        pick = max if self._maximize else min
        return pick(complete, key=lambda row: row.value or 0.0, default=None)

    def rows(self) -> list[TrialRow]:
        return [_row(trial) for trial in self._trials() if not _was_cut(trial)]

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def _was_cut(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.FAIL and WHY not in trial.user_attrs


def _row(trial: FrozenTrial) -> TrialRow:
    reported = trial.intermediate_values
    last = reported[max(reported)] if reported else None
    state = {
        TrialState.PRUNED: "stopped early",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "cut short",
    }.get(trial.state, trial.state.name.lower())
    value = trial.value if trial.state is TrialState.COMPLETE else last
    why = str(trial.user_attrs.get(WHY, ""))
    return TrialRow(trial.number, state, value, len(reported), dict(trial.params), why)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_logarithmic)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_logarithmic)
