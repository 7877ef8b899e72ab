"""One step of a training: forward, backward and the optimizer, the way that was chosen for it.

What a step does follows from weights, batch, seed and number of the step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.losses import Judged
from backend.objective import Objective, Penalties, Tensors
from backend.optimizers import build_optimizer
from backend.pipeline import Setting
from backend.preparation import Change
from backend.reports import Numerics
from backend.training_data import Batch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from backend.distributed import Ranks


Run = Callable[..., torch.Tensor | Tensors]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a training steps with."""

    module: torch.nn.Module
    prepare: torch.nn.Module
    changes: tuple[Change, ...]
    objective: Objective
    penalties: Penalties
    optimizer: Setting
    device: torch.device
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A batch's place among those that make one step of the optimizer together."""

    share: float = 1.0
    """Of its samples in those of all."""
    is_first: bool = True
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    loss: torch.Tensor
    """Without penalties."""
    judged: Judged | None
    share: float = 1.0
    """Of this loss in the batch's, where other ranks compute the rest."""


class Stepper:
    def __init__(self, parts: Parts, numerics: Numerics, ranks: Ranks | None = None) -> None:
        """Gives the weights the layout that ``numerics`` says."""
        self.parts = parts
        self.ranks = ranks
        self.numerics = numerics
        self.module = parts.module.to(memory_format=memory_format_of(numerics))  # type: ignore[call-overload]
        self._weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        self.optimizer = build_optimizer(parts.optimizer, self._weights, numerics.optimizer)
        self.is_between_batches = False
        """Whether gradients wait for more batches before the optimizer takes them."""
        self._is_half = numerics.precision == "bfloat16"
        self._device_type = parts.device.type

    def inputs_of(self, batch: Batch, number: int) -> tuple[Tensors, Tensors]:
        """What the model takes and what its losses compare with, changed as this step changes it."""
        seed_step(self.parts.device, self.parts.seed, number)
        samples = batch.inputs
        for change in self.parts.changes:
            samples = change(samples)
        inputs, targets = self.parts.prepare.forward(samples, batch.targets)
        if self.ranks is not None:
            part = self.ranks.part(len(batch.targets))
            inputs, targets = part.of(inputs), part.of(targets)
            seed_step(self.parts.device, self.parts.seed + self.ranks.rank, number)
        return inputs, targets

    def predict(self, inputs: Tensors, run: Run | None = None) -> Tensors:
        """In the precision that was chosen; what comes out is compared in float32.

        ``run``: what stands for the module while it is watched.
        """
        run = run or self.module
        if not self._is_half:
            return as_tuple(run(*inputs))
        with self.precision():
            answer = as_tuple(run(*inputs))
        return tuple(each.float() for each in answer)

    def precision(self) -> AbstractContextManager[object]:
        if not self._is_half:
            return nullcontext()
        return torch.autocast(self._device_type, torch.bfloat16)

    def forward(self, batch: Batch, number: int, run: Run | None = None) -> Outcome:
        inputs, targets = self.inputs_of(batch, number)
        predictions = self.predict(inputs, run)
        objective = self.parts.objective
        loss, judged = objective.loss(predictions, targets), objective.judge(predictions, targets)
        if self.ranks is None:
            return Outcome(loss, judged)
        return Outcome(loss, judged, self.ranks.part(len(batch.targets)).share)

    def over_all(self, outcome: Outcome, samples: int) -> Outcome:
        """That of the whole batch, and the learning rate of rank 0. Raises RankLostError."""
        if self.ranks is None:
            return outcome
        leads = self.ranks.rank == 0
        weight = self.ranks.part(samples).weight(samples)
        counts = [float(outcome.judged.correct), float(outcome.judged.places)] if outcome.judged else [0, 0]
        numbers = [outcome.loss.item() * outcome.share, *(count * weight for count in counts)]
        loss, correct, places, rate = self.ranks.sum_numbers([*numbers, self.rate if leads else 0.0])
        self.set_rate(rate)
        judged = Judged(torch.tensor(round(correct)), round(places)) if outcome.judged else None
        return Outcome(outcome.loss.new_tensor(loss, dtype=torch.float64), judged)

    def backward(self, outcome: Outcome, turn: Turn) -> None:
        if turn.is_first:
            for weight in self._weights:  # what zero_grad() does, without what it measures
                weight.grad = None
        elif self.ranks is not None and self.ranks.rank:
            self.optimizer.zero_grad(set_to_none=False)  # the first rank has what all have added up
        loss = self.parts.penalties.add_to(outcome.loss)
        if turn.share * outcome.share != 1.0:
            loss = loss * (turn.share * outcome.share)
        _accumulate_gradients(loss)
        if self.ranks is not None:  # after each batch: any rank's checkpoint then holds all there is
            self.ranks.sum_gradients(self.module, outcome.share)
        self.is_between_batches = True

    def update(self) -> None:
        self.parts.penalties.limit_gradients()
        self.optimizer.step()
        self.is_between_batches = False

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


def _accumulate_gradients(loss: torch.Tensor) -> None:
    """What ``loss.backward()`` does once it has looked for what cannot be here, subclasses of tensors and
    compiled parts: for a small network that is a twentieth of its step."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def as_tuple(answer: torch.Tensor | Tensors) -> Tensors:
    return answer if isinstance(answer, tuple) else (answer,)


def memory_format_of(numerics: Numerics) -> torch.memory_format:
    return torch.channels_last if numerics.channels_last else torch.contiguous_format


def seed_step(device: torch.device, seed: int, step: int) -> None:
    """Makes what a step draws, such as dropout masks, a function of seed and step alone."""
    mixed = (seed * 6_364_136_223_846_793_005 + step * 1_442_695_040_888_963_407 + 1) % 2**63
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
