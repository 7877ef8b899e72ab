"""Everything that a training is in the middle of, to and from a .cyxmodel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from backend.checkpoint import (
    capture_gradients,
    capture_optimizer,
    capture_weights,
    restore_gradients,
    restore_optimizer,
    restore_weights,
)
from backend.errors import CheckpointError, GraphInvalidError
from backend.estimate import Estimate
from backend.formats.archive import MAX_ARCHIVE_BYTES
from backend.formats.cyxmodel import ArchiveLimits, CyxModel, EpochSums, TrainingState, Watched
from backend.formats.tensors import Array
from backend.optimizers import state_names
from backend.pipeline import Pipeline
from backend.reports import Metrics
from backend.sample_plan import Schedule
from backend.schedules import Plateaus, load_plateaus, save_plateaus
from backend.stepper import Stepper
from backend.stopping import Watch
from backend.tally import Sums

_BEST, _GRADIENT = "best.", "gradient."
"""What names of tensors beside those of the optimizer begin with."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a training stands, beside its weights and optimizer."""

    step: int
    sums: Sums
    """Of the epoch that has begun."""
    plateaus: Plateaus
    watch: Watch
    best: Mapping[str, Array] | None
    """The weights of the best epoch, where they are kept."""
    history: Sequence[Metrics]


def capture(graph: bytes, stepper: Stepper, standing: Standing, state: TrainingState) -> CyxModel:
    """``state`` says what the training is of; the rest is added."""
    tensors, groups = capture_optimizer(stepper.optimizer)
    tensors |= {_BEST + name: each for name, each in (standing.best or {}).items()}
    if stepper.is_between_batches:
        tensors |= {_GRADIENT + name: each for name, each in capture_gradients(stepper.module).items()}
    return CyxModel(
        graph=graph,
        weights=capture_weights(stepper.module),
        training=msgspec.structs.replace(told(state, standing), optimizer_groups=groups),
        history=tuple(standing.history),
        optimizer=tensors,
    )


def told(state: TrainingState, standing: Standing) -> TrainingState:
    """With all that a training remembers beside its tensors."""
    sums, watch = standing.sums, standing.watch
    return msgspec.structs.replace(
        state,
        schedule=save_plateaus(standing.plateaus),
        epoch=EpochSums(sums.loss, sums.correct, sums.places, sums.samples) if sums.samples else None,
        watched=Watched(watch.best, watch.best_step, watch.bad_epochs) if watch != Watch() else None,
    )


def check_fits_file(size: Estimate, segments: int) -> None:
    """Raises GraphInvalidError for a model that no file could hold in the end, or between segments."""
    limits, state_bytes = ArchiveLimits(), size.checkpoint_bytes - size.weights_bytes
    if size.weights_bytes > limits.weights_bytes:
        text = f"weights of {size.weights_bytes} bytes, a .cyxmodel holds {limits.weights_bytes}"
        raise GraphInvalidError((text,))
    if segments > 1 and (state_bytes > limits.optimizer_bytes or size.checkpoint_bytes > MAX_ARCHIVE_BYTES):
        most = f"{limits.optimizer_bytes} beside the weights and {MAX_ARCHIVE_BYTES} in all"
        text = f"a checkpoint of {size.checkpoint_bytes} bytes, a .cyxmodel holds {most}"
        raise GraphInvalidError((text,))


def check_belongs(checkpoint: CyxModel, graph: bytes, expected: TrainingState, schedule: Schedule) -> None:
    """Raises CheckpointError unless it is of this training; ``expected`` is one that has not begun."""
    found = checkpoint.training
    if checkpoint.graph != graph:
        raise CheckpointError("the checkpoint is of another graph")
    same = ("total_steps", "segments", "seed", "samples", "sample_shape", "classes", "normalization")
    other = [name for name in same if getattr(found, name) != getattr(expected, name)]
    if other:
        raise CheckpointError(
            f"the checkpoint is of other data, another seed or another cut into segments: {other[0]} is "
            f"{getattr(found, other[0])}, must be {getattr(expected, other[0])}"
        )
    if schedule.segments_done(found.step) != found.segments_done:
        done = found.segments_done
        raise CheckpointError(
            f"the checkpoint stands at step {found.step}, not where {done} segments are done"
        )
    if checkpoint.optimizer is None:
        raise CheckpointError("the checkpoint holds no optimizer state")


def put_back(checkpoint: CyxModel, stepper: Stepper, pipeline: Pipeline) -> Standing:
    """Weights, gradients and optimizer as they were. Raises CheckpointError."""
    found, tensors = checkpoint.training, checkpoint.optimizer or {}
    restore_weights(stepper.module, checkpoint.weights)
    own = {name: each for name, each in tensors.items() if not name.startswith((_BEST, _GRADIENT))}
    names = state_names(pipeline.optimizer, stepper.numerics.optimizer)
    restore_optimizer(stepper.optimizer, own, found.optimizer_groups, names)
    stepper.optimizer.zero_grad(set_to_none=True)
    gradients = _named(tensors, _GRADIENT)
    restore_gradients(stepper.module, gradients)
    stepper.is_between_batches = bool(gradients)
    best = _named(tensors, _BEST)
    if best and not pipeline.keep_best:
        raise CheckpointError("the checkpoint holds the weights of a best epoch, the graph keeps none")
    try:
        plateaus = load_plateaus(pipeline.schedules, found.schedule)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the checkpoint holds another state of the schedules") from error
    epoch, watched = found.epoch, found.watched
    return Standing(
        step=found.step,
        sums=Sums(epoch.loss, epoch.correct, epoch.places, epoch.samples) if epoch else Sums(),
        plateaus=plateaus,
        watch=Watch(watched.best, watched.best_step, watched.bad_epochs) if watched else Watch(),
        best=best or None,
        history=checkpoint.history,
    )


def _named(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
