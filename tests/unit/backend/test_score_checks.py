"""A loss takes scores, probabilities or their logarithms; another thing is told before it trains."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from backend.diagnostics import Severity, apply_fix
from backend.errors import DatasetError, GraphInvalidError, TrainingDivergedError
from backend.graph import Graph
from backend.losses import build_loss, check_targets
from backend.pipeline import Setting
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from backend.validate import diagnose
from tests.unit.backend.test_training_settings import quiet
from tests.unit.backend.test_training_tasks import Nodes, data_nodes, graph, samples_of


def task(loss: str, *layers: str, **data: Any) -> Graph:
    """Dense and ``layers`` between Input and Output."""
    middle: Nodes = {f"l{at}": (name, {}) for at, name in enumerate(layers)}
    nodes: Nodes = {
        **data_nodes(sample_shape=[4], **data),
        "x": ("Input", {}),
        "dense": ("Dense", {"units": 3}),
        **middle,
        "y": ("Output", {}),
        "loss": (loss, {}),
        "adam": ("Adam", {}),
    }
    chain = ["x", "dense", *middle, "y"]
    links = "; ".join(f"{one} > {other}" for one, other in pairwise(chain))
    return graph(
        nodes,
        f"""data.dataset > loader.dataset; loader.samples > x; {links}
        y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss""",
        epochs=1,
    )


def warnings_of(found: Graph) -> list[str]:
    return [each.text for each in diagnose(found) if each.severity is Severity.WARNING]


@pytest.mark.parametrize(
    ("loss", "layers", "text", "fix"),
    [
        ("NLLLoss", (), "takes log probabilities, 'dense' (Dense) gives scores", "insert LogSoftmax"),
        ("NLLLoss", ("Softmax",), "takes log probabilities, 'l0' (Softmax) gives probabilities", "make it a"),
        ("CrossEntropyLoss", ("Softmax",), "takes scores, 'l0' (Softmax) gives probabilities", "remove 'l0'"),
        ("CrossEntropyLoss", ("Softmax", "Flatten"), "takes scores, 'l0' (Softmax) gives", "remove 'l0'"),
    ],
)
def test_a_loss_of_another_scale_is_warned_of_with_what_puts_it_right(
    loss: str, layers: tuple[str, ...], text: str, fix: str
) -> None:
    wrong = task(loss, *layers, classes=3)
    (found,) = diagnose(wrong)
    assert (found.severity, found.node_id) == (Severity.WARNING, "loss")
    assert found.text.startswith(text)
    assert found.fix is not None and found.fix.text.startswith(fix)
    assert diagnose(apply_fix(wrong, found.fix)) == ()


@pytest.mark.parametrize("loss", ["BCELoss", "KLDivLoss"])
def test_probabilities_are_asked_for_where_targets_are_numbers_too(loss: str) -> None:
    wrong = task(loss, target_shape=[3])
    (found,) = diagnose(wrong)
    assert found.fix is not None
    assert diagnose(apply_fix(wrong, found.fix)) == ()


def test_what_is_right_or_cannot_be_known_is_not_warned_of() -> None:
    assert warnings_of(task("CrossEntropyLoss", classes=3)) == []
    assert warnings_of(task("CrossEntropyLoss", "LogSoftmax", classes=3)) == []
    assert warnings_of(task("NLLLoss", "LogSoftmax", classes=3)) == []
    assert warnings_of(task("NLLLoss", "ReLU", classes=3)) == []
    assert warnings_of(task("MSELoss", "Sigmoid", target_shape=[3])) == []


def test_a_loss_that_is_linked_past_the_output_is_told_of_that_alone() -> None:
    right = task("NLLLoss", "LogSoftmax", classes=3)
    links = [replace(each, source_node="l0") if each.source_node == "y" else each for each in right.links]
    found = diagnose(replace(right, links=tuple(links)))
    assert any("must come from the Output" in each.text for each in found)
    assert [each.text for each in found if each.severity is Severity.WARNING] == []


def trainer_of(found: Graph, y: np.ndarray) -> Trainer:
    x = np.random.RandomState(0).randn(len(y), 4)
    return Trainer(dump_graph(found), samples_of(found, x, y), TrainingConfig("cpu", 1, 1e9, lambda: 0.0))


class Unhindered:
    def before_step(self, step: int) -> None:
        """Goes on."""


def test_a_training_says_so_too() -> None:
    trainer = trainer_of(task("NLLLoss", classes=3), np.arange(60) % 3)
    assert any("takes log probabilities, 'dense' (Dense) gives scores" in note for note in trainer.notes)


@pytest.mark.parametrize(
    ("loss", "layers"), [("BCELoss", ("Sigmoid",)), ("BCEWithLogits", ()), ("KLDivLoss", ("LogSoftmax",))]
)
def test_targets_that_are_no_probabilities_are_refused_in_words(loss: str, layers: tuple[str, ...]) -> None:
    trainer = trainer_of(task(loss, *layers, target_shape=[3]), np.full((60, 3), -7.5))
    words = f"{loss} compares with probabilities from 0 to 1, targets go from -7.5 to -7.5"
    with pytest.raises(DatasetError, match=words):
        trainer.run_segment(0, Unhindered(), quiet)


def test_predictions_that_are_no_probabilities_are_refused_in_words() -> None:
    loss = build_loss(Setting("loss", "BCELoss", {}))
    with pytest.raises(GraphInvalidError, match="the predictions go from -1 to 3: put a Sigmoid before"):
        loss(torch.tensor([[-1.0], [3.0]]), torch.tensor([1, 0]))
    with pytest.raises(DatasetError, match="BCELoss compares with probabilities from 0 to 1"):
        loss(torch.tensor([[0.5], [0.5]]), torch.tensor([1.0, 2.0]))


def test_probabilities_that_are_no_numbers_name_the_node_where_they_began() -> None:
    trainer = trainer_of(task("BCELoss", "Sigmoid", target_shape=[3]), np.ones((60, 3)))
    trainer.change_rate(1e39)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run_segment(0, Unhindered(), quiet)
    assert caught.value.node == "dense"


def test_rounding_and_logarithms_are_no_other_targets() -> None:
    check_targets(Setting("loss", "BCEWithLogits", {}), torch.tensor([-1e-6, 1 + 1e-6]))
    check_targets(Setting("loss", "KLDivLoss", {"log_target": True}), torch.tensor([-5.0, -1.0]))
    check_targets(Setting("loss", "BCELoss", {}), torch.tensor([], dtype=torch.float32))
    check_targets(Setting("loss", "BCELoss", {}), torch.tensor([0, 1]))
    check_targets(Setting("loss", "KLDivLoss", {}), torch.tensor([3.0]))
    with pytest.raises(DatasetError, match="targets go from 0 to 255"):
        check_targets(Setting("loss", "BCEWithLogits", {}), torch.tensor([0.0, 255.0]))
    check_targets(Setting("loss", "MSELoss", {}), torch.tensor([7.0]))
