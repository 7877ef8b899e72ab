"""Running sums of a training over its batches, without a step waiting for a device.

On the CPU a number costs nothing to look at, so the sums are plain; elsewhere they stay on the
device until they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.losses import Judged


@dataclass(frozen=True, slots=True)
class Sums:
    loss: float = 0.0
    correct: int = 0
    places: int = 0
    """That a class was predicted for: one a sample, or one for each of its labels."""
    samples: int = 0


class Tally:
    """Sums since ``start``."""

    def __init__(self, device: torch.device, start: Sums = Sums()) -> None:
        self._on_host = device.type == "cpu"
        self._start = start
        self._samples = start.samples
        self._loss, self._correct, self._places = start.loss, start.correct, start.places
        if not self._on_host:
            self._losses = torch.tensor(start.loss, dtype=torch.float64, device=device)
            self._counts = torch.tensor([start.correct, start.places], dtype=torch.int64, device=device)

    def add(self, loss: torch.Tensor, judged: Judged | None, samples: int) -> float | None:
        """The loss as a number where that costs nothing."""
        self._samples += samples
        if self._on_host:
            return self._add_on_host(loss, judged, samples)
        self._losses.add_(loss.detach(), alpha=samples)
        if judged is not None:
            self._counts[0] += judged.correct
            self._counts[1] += judged.places
        return None

    def _add_on_host(self, loss: torch.Tensor, judged: Judged | None, samples: int) -> float:
        value = loss.item()
        self._loss += value * samples
        if judged is not None:
            self._correct += int(judged.correct.item())
            self._places += int(judged.places)
        return value

    def read(self) -> Sums:
        if self._on_host:
            return Sums(self._loss, self._correct, self._places, self._samples)
        correct, places = self._counts.tolist()
        return Sums(self._losses.item(), correct, places, self._samples)
