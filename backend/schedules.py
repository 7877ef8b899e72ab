"""Learning rates over a training, as pure functions of its position.

Only ReduceOnPlateau remembers: what it has seen is a frozen state that goes into checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from backend.pipeline import Setting

Saved: TypeAlias = dict[str, bool | int | float | str | list[float] | None]


@dataclass(frozen=True, slots=True)
class Position:
    """Before step number ``step`` (from 0) of ``total_steps``."""

    step: int
    steps_per_epoch: int
    total_steps: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def share(self) -> float:
        """Of the training that is done, 0 at the first step and 1 at the last."""
        return self.step / max(1, self.total_steps - 1)


@dataclass(frozen=True, slots=True)
class Plateau:
    """What one ReduceOnPlateau remembers."""

    factor: float = 1.0
    best: float | None = None
    bad_epochs: int = 0
    cooldown: int = 0


Plateaus: TypeAlias = Mapping[str, Plateau]
"""By node id."""


def first_plateaus(schedules: tuple[Setting, ...]) -> Plateaus:
    return {each.node_id: Plateau() for each in schedules if each.type == "ReduceOnPlateau"}


def rate_factor(schedules: tuple[Setting, ...], position: Position, plateaus: Plateaus) -> float:
    """What the optimizer's learning rate is multiplied by."""
    return math.prod(_factor(each, position, plateaus) for each in schedules)


def observe_loss(schedules: tuple[Setting, ...], plateaus: Plateaus, loss: float) -> Plateaus:
    """After each epoch: counts those without a better loss, and lowers the factor when they are too many.

    ``loss`` may be NaN: such an epoch is no better one.
    """
    given = {each.node_id: each.parameters for each in schedules}
    return {node_id: _observe(given[node_id], plateau, loss) for node_id, plateau in plateaus.items()}


def save_plateaus(plateaus: Plateaus) -> Saved:
    saved: Saved = {}
    for node_id, plateau in plateaus.items():
        saved[f"{node_id}.factor"] = plateau.factor
        saved[f"{node_id}.best"] = plateau.best
        saved[f"{node_id}.bad_epochs"] = plateau.bad_epochs
        saved[f"{node_id}.cooldown"] = plateau.cooldown
    return saved


def load_plateaus(schedules: tuple[Setting, ...], saved: Saved) -> Plateaus:
    """Raises KeyError, TypeError or ValueError unless it was saved for these schedules."""
    found = {}
    for node_id in first_plateaus(schedules):
        best = saved[f"{node_id}.best"]
        found[node_id] = Plateau(
            _number(saved[f"{node_id}.factor"]),
            None if best is None else _number(best),
            int(_number(saved[f"{node_id}.bad_epochs"])),
            int(_number(saved[f"{node_id}.cooldown"])),
        )
    if save_plateaus(found).keys() != saved.keys():
        raise ValueError("of other schedules")
    return found


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _observe(given: Mapping[str, Any], plateau: Plateau, loss: float) -> Plateau:
    cooling = max(0, plateau.cooldown - 1)
    if _is_better(loss, plateau.best, given["threshold"]):
        return replace(plateau, best=loss, bad_epochs=0, cooldown=cooling)
    bad_epochs = plateau.bad_epochs + 1 if plateau.cooldown == 0 else 0
    if bad_epochs <= given["patience"]:
        return replace(plateau, bad_epochs=bad_epochs, cooldown=cooling)
    factor = max(plateau.factor * given["factor"], given["minimum"])
    return replace(plateau, factor=factor, bad_epochs=0, cooldown=given["cooldown"])


def _is_better(loss: float, best: float | None, threshold: float) -> bool:
    """By more than the share ``threshold``; what is no number never is."""
    return math.isfinite(loss) and (best is None or loss < best - threshold * abs(best))


def _factor(schedule: Setting, at: Position, plateaus: Plateaus) -> float:
    given = schedule.parameters
    match schedule.type:
        case "StepLR":
            return float(given["gamma"] ** (at.epoch // given["epochs"]))
        case "ExponentialLR":
            return float(given["gamma"] ** at.epoch)
        case "CosineAnnealing":
            cycle = at.step / max(1, at.total_steps) * given["cycles"] % 1.0
            return _eased(1.0, given["minimum"], cycle, "cosine")
        case "WarmupScheduler":
            return _eased(given["start"], 1.0, min(1.0, at.step / given["steps"]), "linear")
        case "OneCycle":
            return _one_cycle(given, at.share)
        case "ReduceOnPlateau":
            return plateaus[schedule.node_id].factor
        case unknown:
            raise KeyError(unknown)


def _one_cycle(given: Mapping[str, Any], share: float) -> float:
    first = 1.0 / given["start_divisor"]
    last = first / given["final_divisor"]
    rise: float = given["rise"]
    if share < rise:
        return _eased(first, 1.0, share / rise, given["shape"])
    return _eased(1.0, last, (share - rise) / (1.0 - rise), given["shape"])


def _eased(start: float, end: float, share: float, shape: str) -> float:
    if shape == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
    return start + (end - start) * share
