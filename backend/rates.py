"""The learning rate of each step: what the graph or the user says, times what the schedules say."""

from __future__ import annotations

from collections.abc import Sequence

from backend.pipeline import Pipeline
from backend.schedules import Plateaus, Position, first_plateaus, observe_loss, rate_factor
from backend.stepper import Stepper


class Rates:
    """Sets those of one stepper."""

    def __init__(self, pipeline: Pipeline, stepper: Stepper) -> None:
        self.base: float | None = None
        """What the user has set; None for what the graph says."""
        self.plateaus: Plateaus = first_plateaus(pipeline.schedules)
        self.changes: list[tuple[int, float]] = []
        """Before which step, and to what, since they were last forgotten."""
        self._pipeline = pipeline
        self._stepper = stepper

    def change(self, step: int, rate: float) -> None:
        """From ``step`` on, the next one; what schedules there are go on multiplying it."""
        if self.changes and self.changes[-1][0] == step:
            self.changes.pop()
        self.changes.append((step, rate))
        self.take(rate)

    def change_again(self, step: int, changes: Sequence[tuple[int, float]]) -> None:
        """As it was changed before ``step``, where steps are made again."""
        for when, rate in changes:
            if when == step:
                self.take(rate)

    def take(self, rate: float) -> None:
        self.base = rate
        if not self._pipeline.schedules:
            self._stepper.set_rate(rate)

    def follow_schedules(self, position: Position) -> None:
        """Before the optimizer's step."""
        schedules = self._pipeline.schedules
        if schedules:
            base = self.base
            if base is None:
                base = self._pipeline.optimizer.parameters["learning_rate"]
            self._stepper.set_rate(base * rate_factor(schedules, position, self.plateaus))

    def observe(self, loss: float) -> None:
        """At the end of an epoch; NaN for what is no number."""
        self.plateaus = observe_loss(self._pipeline.schedules, self.plateaus, loss)
