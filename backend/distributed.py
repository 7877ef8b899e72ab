"""One training on several devices of a machine: each rank computes its part of every batch.

Gradients are summed, weighted by what each part is of the batch, so that every rank makes the step
that one device alone would make of the whole batch; to rounding, and but for three things. Dropout
draws other masks. A loss that weighs or ignores classes takes its mean over a rank's own part, which
counts by its samples. BatchNorm on CPUs takes the statistics of a rank's own part, and running averages
are the weighted means of the ranks'; on GPUs they are those of the whole batch (SyncBatchNorm).

The ranks are connected by gloo before their sandboxes close. Orders go to rank 0 alone: the others
stand still while it does, for every step needs all of them, and its learning rate goes to all with
the step's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch._C._distributed_c10d import FileStore

from backend.errors import RankLostError, WorkerError
from backend.lora import hold_still, is_held_still

CONNECT_S = 60.0
PAUSE_S = 30 * 24 * 3600.0
"""The longest that rank 0 may stand still: a rank that dies is noticed at once, by its connections."""
SMALLEST_PART = 2
"""Samples: batch statistics need two. A batch too small for that is computed as a whole by every rank."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a rank computes of a batch, and how much its mean counts in that of the batch."""

    first: int
    end: int
    share: float

    def of(self, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(each[self.first : self.end] for each in tensors)

    def weight(self, samples: int) -> float:
        """Of what is counted in this part: less than 1 where others count the same samples."""
        return self.share * samples / (self.end - self.first)


def part_of(samples: int, rank: int, ranks: int) -> Part:
    """Shares of all ranks add up to 1; parts differ by one sample at most."""
    if samples < SMALLEST_PART * ranks:
        return Part(0, samples, 1.0 / ranks)
    each, rest = divmod(samples, ranks)
    first = rank * each + min(rank, rest)
    end = first + each + (rank < rest)
    return Part(first, end, (end - first) / samples)


class Ranks:
    """The other ranks of this process. ``waiting`` is entered while it waits for them."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def part(self, samples: int) -> Part:
        return part_of(samples, self.rank, self.size)

    def prepare(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Batch statistics over all ranks where torch can: on GPUs."""
        if device.type != "cuda":
            return module
        frozen = [name for name, layer in module.named_modules() if is_held_still(layer)]
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        for name in frozen:
            hold_still(synced.get_submodule(name))
        return synced

    def note(self, device: torch.device) -> str:
        """For people: what is not as on one device."""
        whose = "the whole batch's" if device.type == "cuda" else "each device's own"
        return f"{self.size} devices: dropout is not as on one, BatchNorm's statistics are {whose}"

    def sum_gradients(self, module: nn.Module, share: float) -> None:
        """Gradients that were weighted by their shares, and running averages, in one message."""
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        averages = running_averages(module)
        if not gradients:
            return
        parts = [each.flatten() for each in gradients] + [each.flatten() * share for each in averages]
        summed = torch.cat(parts).cpu()
        self._add_up(summed)
        at = 0
        with torch.no_grad():
            for target in [*gradients, *averages]:
                found = summed[at : at + target.numel()]
                target.copy_(found.view(target.shape))
                at += target.numel()

    def sum_numbers(self, values: list[float]) -> list[float]:
        """Each over all ranks, in float64."""
        found = torch.tensor(values, dtype=torch.float64)
        self._add_up(found)
        return [float(each) for each in found.tolist()]

    def _add_up(self, values: torch.Tensor) -> None:
        """Raises WorkerError when a rank is gone."""
        try:
            with self.waiting():
                distributed.all_reduce(values)
        except RuntimeError as error:
            raise RankLostError(f"rank {self.rank} of {self.size} lost another one") from error


def running_averages(module: nn.Module) -> list[torch.Tensor]:
    """Running ones; not those of layers that are frozen, which not even rounding may change."""
    return [
        buffer
        for layer in module.modules()
        if not is_held_still(layer)
        for buffer in layer.buffers(recurse=False)
        if buffer.is_floating_point()
    ]


def connect(store: Path, rank: int, size: int) -> Ranks:
    """Connects this process with the other ranks, which do the same at this time. Raises WorkerError."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        meeting = FileStore(str(store), size)
        meeting.set_timeout(timedelta(seconds=CONNECT_S))
        distributed.init_process_group(
            "gloo", store=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=PAUSE_S)
        )
    except RuntimeError as error:
        raise WorkerError(f"rank {rank} of {size} could not be connected: {error}") from error
    return Ranks(rank, size)
