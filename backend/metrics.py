"""How well each head of a model does, by what it is asked: classes, tokens, yes or no, numbers.

Sums stay on the device until they are read, so that no batch waits for them. Sums of classes and
of squares are exact enough to be the same however the samples are cut into batches.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch.nn import functional

from backend.losses import places_of, threshold_of
from backend.objective import Head, Objective, Task, Tensors
from backend.reports import MAX_CONFUSION_CLASSES, MAX_CONFUSIONS, MAX_HEADS, HeadMetrics

TOP = 5
MAX_F1_CLASSES = 1000
"""Above it no classes are counted one by one: it takes their number squared."""


class HeadTallies:
    """The heads of one objective, over the batches of one part of a dataset."""

    def __init__(self, objective: Objective, device: torch.device) -> None:
        self._tallies = [_Losses(head, device) for head in objective.heads[:MAX_HEADS]]
        self._judges = [_judge_of(head, device) for head in objective.heads[:MAX_HEADS]]

    def add(self, losses: list[torch.Tensor], predictions: Tensors, targets: Tensors) -> None:
        """One batch, without gradients; ``losses`` are those of the heads, unweighted."""
        for tally, judge, loss, target in zip(self._tallies, self._judges, losses, targets, strict=False):
            tally.add(loss, len(target))
            if judge is not None:
                judge.add(predictions[tally.head.places[0]], target)

    def read(self) -> tuple[HeadMetrics, ...]:
        confusions = 0
        found = []
        for tally, judge in zip(self._tallies, self._judges, strict=True):
            more = judge.read() if judge is not None else {}
            confusions += "confusion" in more
            if confusions > MAX_CONFUSIONS:
                more.pop("confusion", None)
            term = tally.head.term
            told = HeadMetrics(term.setting.node_id, term.predictions[0], tally.read(), **more)
            found.append(told)
        return tuple(found)


class _Judge(Protocol):
    def add(self, prediction: torch.Tensor, target: torch.Tensor) -> None: ...

    def read(self) -> dict[str, Any]:
        """Fields of HeadMetrics; none of them NaN or infinite."""


def _judge_of(head: Head, device: torch.device) -> _Judge | None:
    match head.task:
        case Task.CLASSES | Task.TOKENS:
            return _Classes(head, device)
        case Task.YES_OR_NO if head.classes:
            return _Classes(head, device)
        case Task.YES_OR_NO:
            return _Labels(head)
        case Task.NUMBERS:
            return _Numbers(device)
        case _:
            return None


class _Losses:
    def __init__(self, head: Head, device: torch.device) -> None:
        self.head = head
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._samples = 0

    def add(self, loss: torch.Tensor, samples: int) -> None:
        self._sum.add_(loss, alpha=samples)
        self._samples += samples

    def read(self) -> float | None:
        return _finite(self._sum.item() / self._samples) if self._samples else None


class _Classes:
    """Scores of classes, or one number for each of two."""

    def __init__(self, head: Head, device: torch.device) -> None:
        self._head = head
        self._right, self._near, self._places = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        self._surprise = torch.zeros((), dtype=torch.float64, device=device)
        self._is_text = head.task is Task.TOKENS
        # Yes and no are two, also where the labels of a dataset are all the same.
        self._classes = max(2, head.classes) if head.task is Task.YES_OR_NO else head.classes
        self._counted = self._classes <= MAX_F1_CLASSES and not self._is_text
        cells = self._classes**2 if self._counted else 0
        self._confusion = torch.zeros(cells, dtype=torch.int64, device=device)

    def add(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        setting, classes = self._head.term.setting, self._classes
        if self._head.task is Task.YES_OR_NO:
            found = (prediction > threshold_of(setting)).flatten().long()
            labels = target.flatten().long()
        else:
            scores, labels = places_of(setting, prediction, target)
            found = scores.argmax(1)
            if classes > TOP:
                near = scores.topk(TOP, dim=1).indices == labels[:, None]
                self._near.add_(near.any(1).sum())
            if self._is_text:
                logs = scores if setting.type == "NLLLoss" else functional.log_softmax(scores.float(), 1)
                self._surprise.add_(functional.nll_loss(logs, labels, reduction="sum"))
        self._right.add_((found == labels).sum())
        self._places.add_(labels.numel())
        if self._counted:
            self._confusion.add_(torch.bincount(labels * classes + found, minlength=classes**2))

    def read(self) -> dict[str, Any]:
        places, classes = int(self._places.item()), self._classes
        if not places:
            return {}
        found: dict[str, Any] = {"accuracy": self._right.item() / places}
        if classes > TOP:
            found["top5_accuracy"] = self._near.item() / places
        if self._is_text:
            mean = self._surprise.item() / places
            found["perplexity"] = _finite(math.exp(mean)) if mean < _MAX_EXPONENT else None
        if self._counted:
            matrix = self._confusion.reshape(classes, classes).cpu()
            found["macro_f1"] = _macro_f1(matrix.diagonal(), matrix.sum(0), matrix.sum(1))
            if classes <= MAX_CONFUSION_CLASSES:
                found["confusion"] = tuple(tuple(row) for row in matrix.tolist())
        return found


class _Labels:
    """Several labels to a sample, each there or not: (N, labels), or a whole map of one label."""

    def __init__(self, head: Head) -> None:
        self._threshold = threshold_of(head.term.setting)
        self._counts: torch.Tensor | None = None
        """(4, labels): right at all, found and there, found, there."""
        self._places = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        labels = target.shape[1] if target.ndim == 2 and target.shape[1] <= MAX_F1_CLASSES else 1
        found = (prediction > self._threshold).reshape(-1, labels)
        there = (target > 0.5).reshape(-1, labels)
        counts = torch.stack([each.sum(0) for each in (found == there, found & there, found, there)])
        self._counts = counts if self._counts is None else self._counts + counts
        self._places += target.numel()

    def read(self) -> dict[str, Any]:
        if self._counts is None:
            return {}
        right, both, found, there = self._counts.cpu()
        accuracy = right.sum().item() / max(1, self._places)
        return {"accuracy": accuracy, "macro_f1": _macro_f1(both, found, there)}


class _Numbers:
    """Squares are summed about the first batch's means, so that little is lost by cancellation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: torch.Tensor | None = None
        """(2, columns): targets and their squares, shifted."""
        self._shift = self._absolute = self._squared = torch.zeros((), dtype=torch.float64, device=device)
        self._rows = self._values = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        columns = target.reshape(len(target), -1).double()
        error = prediction.reshape(len(target), -1).double() - columns
        if self._sums is None:
            self._shift = columns.mean(0)
        shifted = columns - self._shift
        sums = torch.stack((shifted.sum(0), shifted.square().sum(0)))
        self._sums = sums if self._sums is None else self._sums + sums
        self._absolute = self._absolute + error.abs().sum()
        self._squared = self._squared + error.square().sum()
        self._rows += len(target)
        self._values += target.numel()

    def read(self) -> dict[str, Any]:
        if self._sums is None:
            return {}
        first, second = self._sums
        spread = (second - first.square() / self._rows).sum().item()
        found = {"mae": _finite(self._absolute.item() / max(1, self._values))}
        if spread > 0:
            found["r2"] = _finite(1 - self._squared.item() / spread)
        return found


_MAX_EXPONENT = 700.0


def _macro_f1(both: torch.Tensor, found: torch.Tensor, there: torch.Tensor) -> float | None:
    """The mean over those that are found or there at all; None without any."""
    occurs = found + there
    counted = occurs > 0
    if not bool(counted.any()):
        return None
    return float((2 * both[counted].double() / occurs[counted]).mean().item())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
