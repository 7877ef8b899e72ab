"""Schedules give the rates that torch's give, and what they remember survives a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import completed
from backend.pipeline import Setting
from backend.schedules import (
    Position,
    first_plateaus,
    load_plateaus,
    observe_loss,
    rate_factor,
    save_plateaus,
)

PER_EPOCH, EPOCHS = 4, 6
TOTAL = PER_EPOCH * EPOCHS


def setting(name: str, **given: Any) -> Setting:
    return Setting("node", name, completed(CATALOGUE[name].parameters, given))


def theirs(make: Callable[[optim.Optimizer], Any], *, each_step: bool) -> list[float]:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for step in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if each_step or (step + 1) % PER_EPOCH == 0:
            schedule.step()
    return rates


def ours(*schedules: Setting) -> list[float]:
    return [rate_factor(schedules, Position(step, PER_EPOCH, TOTAL), {}) for step in range(TOTAL)]


TORCH: dict[str, tuple[Setting, Callable[[optim.Optimizer], Any], bool]] = {
    "step": (setting("StepLR", epochs=2, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 2, 0.3), False),
    "exponential": (setting("ExponentialLR", gamma=0.8), lambda o: lr_scheduler.ExponentialLR(o, 0.8), False),
    "cosine": (
        setting("CosineAnnealing", minimum=0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, 0.1),
        True,
    ),
    "restarts": (
        setting("CosineAnnealing", cycles=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, TOTAL // 3),
        True,
    ),
    "warm-up": (
        setting("WarmupScheduler", steps=7, start=0.2),
        lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 7),
        True,
    ),
    **{
        f"one cycle, {shape}": (
            setting("OneCycle", rise=7 / 23, shape=shape),
            lambda o, name=name: lr_scheduler.OneCycleLR(
                o, 1.0, TOTAL, pct_start=8 / 24, anneal_strategy=name, cycle_momentum=False
            ),
            True,
        )
        for shape, name in (("cosine", "cos"), ("linear", "linear"))
    },
}


@pytest.mark.parametrize("name", sorted(TORCH))
def test_a_schedule_is_torchs(name: str) -> None:
    schedule, make, each_step = TORCH[name]
    assert ours(schedule) == pytest.approx(theirs(make, each_step=each_step), abs=1e-6)


def test_factors_of_schedules_in_a_row_multiply() -> None:
    a, b = setting("WarmupScheduler", steps=3), setting("ExponentialLR", gamma=0.5)
    assert ours(a, b) == pytest.approx([x * y for x, y in zip(ours(a), ours(b), strict=True)])


LOSSES = [1.0, 0.9, 0.95, 0.94, 0.93, 0.92, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("cooldown", [0, 2])
def test_a_plateau_lowers_the_rate_as_torchs_does(cooldown: int) -> None:
    schedule = setting("ReduceOnPlateau", factor=0.5, patience=2, cooldown=cooldown, minimum=0.2)
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, cooldown=cooldown, min_lr=0.2, threshold=1e-4
    )
    plateaus = first_plateaus((schedule,))
    for loss in LOSSES:
        reference.step(loss)
        plateaus = observe_loss((schedule,), plateaus, loss)
        plateaus = load_plateaus((schedule,), save_plateaus(plateaus))
        factor = rate_factor((schedule,), Position(0, 1, 1), plateaus)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])


def test_an_epoch_whose_loss_is_no_number_is_no_better_one() -> None:
    schedule = setting("ReduceOnPlateau", factor=0.5, patience=0)
    plateaus = first_plateaus((schedule,))
    for loss, factor in ((math.nan, 0.5), (3.0, 0.5), (math.nan, 0.25), (2.0, 0.25)):
        plateaus = observe_loss((schedule,), plateaus, loss)
        assert rate_factor((schedule,), Position(0, 1, 1), plateaus) == factor
    assert plateaus[schedule.node_id].best == 2.0


@pytest.mark.parametrize("saved", [{}, {"node.factor": "x"}, {"other.factor": 1.0}])
def test_a_state_of_other_schedules_is_refused(saved: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        load_plateaus((setting("ReduceOnPlateau"),), saved)
    with pytest.raises(ValueError, match="of other schedules"):
        load_plateaus((), {"node.factor": 1.0})
