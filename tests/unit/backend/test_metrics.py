"""Metrics by task, against scikit-learn's, whatever the batches."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch.nn import functional

from backend.metrics import HeadTallies
from backend.objective import Head, Objective, Task
from backend.pipeline import LossTerm, Setting, Source
from backend.reports import MAX_CONFUSIONS, HeadMetrics

CPU = torch.device("cpu")


class Heads(Objective):
    """Without a graph around them."""

    def __init__(self, *heads: Head) -> None:
        self.heads = heads


def head(loss: str, task: Task, classes: int = 0, place: int = 0, **given: Any) -> Head:
    given = {"ignored_class": None, "class_axis": -1, "weight": 1.0, **given}
    term = LossTerm(Setting(f"loss{place}", loss, given), (f"out{place}",), Source("loader", "labels"))
    return Head(term, task, functional.mse_loss, (place,), classes)


def measured(one: Head, prediction: torch.Tensor, target: torch.Tensor, batch: int = 7) -> HeadMetrics:
    tallies = HeadTallies(Heads(one), CPU)
    for at in range(0, len(target), batch):
        end = at + batch
        tallies.add([torch.tensor(0.5)], (prediction[at:end],), (target[at:end],))
    (found,) = tallies.read()
    return found


def test_classes_have_accuracy_top5_f1_and_a_confusion_matrix() -> None:
    scores, labels = torch.randn(90, 8), torch.randint(0, 8, (90,))
    found = measured(head("CrossEntropyLoss", Task.CLASSES, 8), scores, labels)
    guess = scores.argmax(1)
    assert found.loss == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(oracle.accuracy_score(labels, guess))
    assert found.top5_accuracy == pytest.approx(oracle.top_k_accuracy_score(labels, scores, k=5))
    assert found.macro_f1 == pytest.approx(oracle.f1_score(labels, guess, average="macro"))
    assert np.array_equal(found.confusion, oracle.confusion_matrix(labels, guess))
    assert (found.node, found.output) == ("loss0", "out0")


def test_places_with_the_ignored_class_do_not_count() -> None:
    scores, labels = torch.randn(20, 3, 4), torch.randint(0, 3, (20, 4))
    found = measured(
        head("CrossEntropyLoss", Task.CLASSES, 3, class_axis=0, ignored_class=2), scores, labels, 6
    )
    counted = labels != 2
    guess = scores.argmax(1)
    assert found.accuracy == pytest.approx((guess == labels)[counted].double().mean().item())
    assert sum(map(sum, found.confusion)) == counted.sum()
    assert found.top5_accuracy is None


def test_tokens_have_a_perplexity_and_no_confusion() -> None:
    scores, labels = torch.randn(20, 6, 9), torch.randint(0, 9, (20, 6))
    found = measured(head("CrossEntropyLoss", Task.TOKENS, 9), scores, labels)
    surprise = functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
    assert found.perplexity == pytest.approx(math.exp(surprise), rel=1e-5)
    assert (found.confusion, found.macro_f1) == ((), None)


def test_many_classes_have_an_f1_but_no_matrix() -> None:
    scores, labels = torch.randn(50, 200), torch.randint(0, 200, (50,))
    found = measured(head("NLLLoss", Task.CLASSES, 200), scores, labels)
    assert found.macro_f1 == pytest.approx(oracle.f1_score(labels, scores.argmax(1), average="macro"))
    assert found.confusion == ()


def test_yes_or_no_is_judged_by_class_or_by_label() -> None:
    score, label = torch.randn(40, 1), torch.randint(0, 2, (40,))
    found = measured(head("BCEWithLogits", Task.YES_OR_NO, 2), score, label)
    assert np.array_equal(found.confusion, oracle.confusion_matrix(label, score[:, 0] > 0))
    scores, labels = torch.rand(40, 3), torch.randint(0, 2, (40, 3)).float()
    found = measured(head("BCELoss", Task.YES_OR_NO), scores, labels)
    assert found.macro_f1 == pytest.approx(oracle.f1_score(labels, scores > 0.5, average="macro"))
    assert found.accuracy == pytest.approx(((scores > 0.5) == labels.bool()).double().mean().item())


def test_yes_or_no_has_two_classes_also_where_a_dataset_has_one() -> None:
    found = measured(
        head("BCEWithLogits", Task.YES_OR_NO, 1), torch.tensor([1.0, -1.0]), torch.zeros(2).long()
    )
    assert (found.accuracy, found.confusion) == (0.5, ((1, 1), (0, 0)))


def test_numbers_have_mae_and_r2_even_far_from_zero() -> None:
    target = torch.randn(60, 3) + 1e5
    prediction = target + 0.1 * torch.randn(60, 3)
    found = measured(head("MSELoss", Task.NUMBERS), prediction, target)
    assert found.mae == pytest.approx(oracle.mean_absolute_error(target, prediction), rel=1e-6)
    expected = oracle.r2_score(target.double(), prediction.double(), multioutput="variance_weighted")
    assert found.r2 == pytest.approx(expected, rel=1e-9)
    constant = measured(head("MSELoss", Task.NUMBERS), prediction, torch.ones(60, 3))
    assert constant.r2 is None


def test_a_loss_that_is_no_number_is_told_as_none() -> None:
    found = measured(head("MSELoss", Task.NUMBERS), torch.full((9, 1), math.nan), torch.randn(9, 1))
    assert (found.mae, found.r2) == (None, None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=HeadMetrics) == found


def test_matrices_are_told_of_the_first_heads_alone() -> None:
    heads = [head("CrossEntropyLoss", Task.CLASSES, 3, place=i) for i in range(MAX_CONFUSIONS + 2)]
    tallies = HeadTallies(Heads(*heads), CPU)
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    tallies.add([torch.tensor(1.0)] * len(heads), (scores,) * len(heads), (labels,) * len(heads))
    assert [bool(each.confusion) for each in tallies.read()] == [True] * MAX_CONFUSIONS + [False] * 2


def test_an_empty_part_has_no_figures() -> None:
    (found,) = HeadTallies(Heads(head("MSELoss", Task.NUMBERS)), CPU).read()
    assert found == HeadMetrics("loss0", "out0", None)
