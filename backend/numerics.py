"""How a training computes: precision, memory layout and kind of optimizer, chosen by a short trial.

The trial steps on invented samples with copies of the weights put back afterwards, so it changes
nothing but speed and rounding. What was chosen is written down and holds for the whole training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import torch

from backend.errors import BackendError, CheckpointError
from backend.optimizers import OPTIMIZER_KINDS
from backend.pipeline import Pipeline
from backend.reports import Numerics, NumericsTrial
from backend.stepper import Parts, Stepper, Turn, memory_format_of
from backend.training_data import Batch

MIN_BATCH_FLOPS = 200e6
"""Forward and backward: below it a step's time is mostly calls, which no choice here makes fewer."""
MIN_STEPS = 1000
"""A shorter training gains little, and without a trial it ends in the same bytes on any machine of a kind."""
MAX_WEIGHT_BYTES = 1 << 30
"""Copies of larger weights might not fit."""
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 3, 16
TIMED_S = 0.2
"""Of short steps more are timed: what else the machine does disturbs some of them."""
MAX_STEP_S = 0.5
"""Trying out slower steps would take longer than whoever waits for the first one should wait."""
MAX_SLOWER = 4.0
"""What takes so many times as long at its first step is not tried any further."""
MIN_GAIN = 1.05
"""A choice that is not faster by so much is not made."""
MIN_PRECISION_GAIN = 1.15
"""The same for what rounds more."""
MAX_LOSS_CHANGE = 0.05
"""By which the loss of one batch may differ in bfloat16."""


_TICK_S = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    numerics: Numerics
    trials: tuple[NumericsTrial, ...] = ()
    """What was measured; empty where nothing was."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of the numerics."""

    batch_flops: float
    steps: int


def has_images(module: torch.nn.Module) -> bool:
    """Whether it has convolutions over images, and none over volumes, which have no such layout."""
    ranks = {parameter.ndim for parameter in module.parameters()}
    return 4 in ranks and 5 not in ranks


def standard(module: torch.nn.Module, optimizer: str, precision: str = "float32") -> Numerics:
    """Without a trial: channels last for images is the faster layout on CPUs and GPUs alike."""
    kinds = OPTIMIZER_KINDS.get(optimizer, ("plain",))
    return Numerics("bfloat16" if precision == "bfloat16" else "float32", has_images(module), kinds[0])


def recorded(found: Numerics | None, module: torch.nn.Module, optimizer: str) -> Numerics:
    """What a checkpoint says, or did not need to say yet. Raises CheckpointError for what cannot be."""
    if found is None:
        return standard(module, optimizer)
    kinds = OPTIMIZER_KINDS[optimizer]
    if found.optimizer not in kinds or (found.channels_last and not has_images(module)):
        allowed = f"{optimizer} can be {', '.join(kinds)}, channels last needs images"
        raise CheckpointError(f"the checkpoint was computed with {_named(found)}: {allowed}")
    return found


def choose(parts: Parts, pipeline: Pipeline, work: Work, now: Callable[[], float]) -> Choice:
    """``now`` is a clock in seconds. Leaves weights and torch's generator as they were."""
    first = standard(parts.module, parts.optimizer.type, pipeline.precision)
    weights = sum(each.numel() * each.element_size() for each in parts.module.parameters())
    worth_it = work.batch_flops >= MIN_BATCH_FLOPS and work.steps >= MIN_STEPS and weights <= MAX_WEIGHT_BYTES
    if pipeline.precision != "auto" or not worth_it:
        return Choice(first)
    with torch.random.fork_rng(devices=_devices(parts.device)):
        return _Trial(parts, pipeline, now).choose(first)


class _Trial:
    def __init__(self, parts: Parts, pipeline: Pipeline, now: Callable[[], float]) -> None:
        self._parts = parts
        self._now = now
        self._batch = _invented(pipeline, parts.device)
        self._kept = {name: each.clone() for name, each in parts.module.state_dict().items()}
        self._trials: list[NumericsTrial] = []

    def choose(self, best: Numerics) -> Choice:
        """One thing after the other, each with the best of those before."""
        measured = self._measure(best)
        if measured is None:
            return Choice(best)
        best_s, loss = measured
        if best_s > MAX_STEP_S:
            return Choice(best, tuple(self._trials))
        for other, gain in self._others(best):
            candidate = msgspec.structs.replace(best, **other)
            found = self._measure(candidate, MAX_STEP_S + MAX_SLOWER * best_s)
            if found is None or found[0] * gain > best_s or not _is_near(found[1], loss):
                continue
            best, best_s = candidate, found[0]
        return Choice(best, tuple(self._trials))

    def _others(self, first: Numerics) -> Iterator[tuple[dict[str, object], float]]:
        if first.channels_last:
            yield {"channels_last": False}, MIN_GAIN
        if self._parts.device.type != "cuda" or torch.cuda.is_bf16_supported():
            yield {"precision": "bfloat16"}, MIN_PRECISION_GAIN
        for kind in OPTIMIZER_KINDS.get(self._parts.optimizer.type, ())[1:]:
            yield {"optimizer": kind}, MIN_GAIN

    def _measure(self, numerics: Numerics, limit_s: float = math.inf) -> tuple[float, float] | None:
        """Seconds a step, and the loss of the first one; None where torch cannot, or not in time."""
        try:
            stepper = Stepper(self._parts, numerics)
            inputs = self._batch.inputs
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=memory_format_of(numerics))
            batch = Batch(inputs, self._batch.targets)
            loss, warm_up_s = self._step(stepper, batch)
            if warm_up_s > limit_s:
                return None
            times = [self._step(stepper, batch)[1] for _ in range(MIN_TIMED_STEPS)]
            while len(times) < MAX_TIMED_STEPS and sum(times) < TIMED_S:
                times.append(self._step(stepper, batch)[1])
        except (RuntimeError, BackendError):  # such as a loss that cannot take what comes of invented samples
            return None
        finally:
            self._put_back()
        self._trials.append(NumericsTrial(numerics, min(times)))
        return min(times), loss

    def _step(self, stepper: Stepper, batch: Batch) -> tuple[float, float]:
        """The loss, and the seconds that the step took."""
        began = self._now()
        outcome = stepper.forward(batch, 0)
        stepper.backward(outcome, Turn())
        stepper.update()
        return outcome.loss.item(), self._now() - began

    def _put_back(self) -> None:
        self._parts.module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, each in self._parts.module.state_dict().items():
                each.copy_(self._kept[name])


def _invented(pipeline: Pipeline, device: torch.device) -> Batch:
    """A batch of the right form; how long a step takes does not depend on what is in it."""
    source = torch.Generator().manual_seed(0)
    count = pipeline.batch_size

    def draw(shape: tuple[int, ...], below: int) -> torch.Tensor:
        if below:
            return torch.randint(0, below, (count, *shape), generator=source).to(device)
        return torch.rand((count, *shape), generator=source).to(device)

    inputs = draw(pipeline.sample_shape, pipeline.vocabulary).float()
    return Batch(inputs, draw(pipeline.target_shape, pipeline.classes))


def _is_near(loss: float, expected: float) -> bool:
    return math.isfinite(loss) and abs(loss - expected) <= MAX_LOSS_CHANGE * max(abs(expected), 0.01)


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def describe(choice: Choice) -> str:
    """For people: what was chosen, and what that gains over what would be taken unasked."""
    text = _named(choice.numerics)
    if not choice.trials:
        return text
    first = choice.trials[0]
    if choice.numerics == first.numerics:
        return f"{text}: nothing else was faster when tried"
    (found,) = (trial for trial in choice.trials if trial.numerics == choice.numerics)
    gain = first.step_s / max(found.step_s, _TICK_S)
    return f"{text}: {gain:.2f} times as fast as {_named(first.numerics)} when tried"


def _named(numerics: Numerics) -> str:
    layout = "channels last, " if numerics.channels_last else ""
    return f"{numerics.precision}, {layout}{numerics.optimizer} optimizer"
