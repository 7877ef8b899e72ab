"""When a training is over early, and which of its epochs was the best. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Watch:
    """What the validation losses were so far; ``best_step`` is the step after which the best was measured."""

    best: float | None = None
    best_step: int = 0
    bad_epochs: int = 0
    """Since the best."""


def observe(watch: Watch, loss: float | None, step: int) -> Watch:
    """After an epoch. A loss that is no number (None) is worse than any."""
    if loss is not None and (watch.best is None or loss < watch.best):
        return Watch(loss, step, 0)
    return replace(watch, bad_epochs=watch.bad_epochs + 1)


def is_over(watch: Watch, patience: int) -> bool:
    """``patience`` is in epochs; 0 is endless."""
    return 0 < patience <= watch.bad_epochs
