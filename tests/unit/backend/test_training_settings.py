"""What a graph says of its training: when it ends, whose weights are kept, batches to a step, precision."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from backend.distributed import Ranks
from backend.errors import CheckpointError, GraphInvalidError, TrainingDivergedError
from backend.estimate import estimate
from backend.formats.cyxmodel import CyxModel, read_cyxmodel, write_cyxmodel
from backend.formats.tensors import Array
from backend.graph import Body, Graph, Link, Node
from backend.numerics import Choice, Work, choose, describe
from backend.pipeline import read_pipeline
from backend.reports import Metrics, Numerics
from backend.serialize import dump_graph
from backend.stepper import Stepper
from backend.stopping import Watch, is_over, observe
from backend.training import Trainer, TrainingConfig
from backend.training_state import check_fits_file
from backend.validate import diagnose
from tests.unit.backend.test_training_tasks import Nodes, data_nodes, everything, graph, samples_of

RANDOM = np.random.RandomState(5)
X, Y = RANDOM.rand(90, 1, 6, 6), RANDOM.randint(0, 3, 90)


def quiet(metrics: Metrics) -> None:
    """Nobody listens."""


class CutAt(Exception):
    pass


class Script:
    """A control that does things before given steps."""

    def __init__(self, **at: Callable[[], None]) -> None:
        self._at = {int(key.removeprefix("step")): action for key, action in at.items()}

    def before_step(self, step: int) -> None:
        if step in self._at:
            self._at[step]()


def cut() -> None:
    raise CutAt


def trainer_of(
    task: Graph, *, checkpoint: CyxModel | None = None, x: Array = X, y: Array = Y, **more: Any
) -> Trainer:
    config = TrainingConfig("cpu", 1, more.pop("every", 1e9), lambda: 0.0, **more)
    return Trainer(dump_graph(task), samples_of(task, x, y), config, checkpoint)


def with_settings(task: Graph, **settings: Any) -> Graph:
    return replace(task, training=replace(task.training, **settings))


def equal(one: CyxModel, other: CyxModel) -> bool:
    pairs = ((one.weights, other.weights), (one.optimizer or {}, other.optimizer or {}))
    same = all(a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in pairs)
    return same and one.training == other.training and one.history == other.history


ALL_ON = with_settings(
    everything("Adam"), patience=5, keep="best", accumulate=3, precision="bfloat16", epochs=3
)


def cut_and_resumed(task: Graph, at: int, tmp_path: Path, rate_at: int | None = None) -> CyxModel:
    first = trainer_of(task, may_stop=True)
    script = (
        {f"step{rate_at}": lambda: first.change_rate(0.005)} if rate_at is not None and rate_at < at else {}
    )
    with pytest.raises(CutAt):
        first.run_segment(0, Script(**script, **{f"step{at}": cut}), quiet)
    write_cyxmodel(tmp_path / "cut.cyxmodel", first.checkpoint())
    second = trainer_of(task, checkpoint=read_cyxmodel(tmp_path / "cut.cyxmodel"), may_stop=True)
    assert second.step == at
    script = (
        {f"step{rate_at}": lambda: second.change_rate(0.005)} if rate_at is not None and rate_at >= at else {}
    )
    second.run_segment(0, Script(**script), quiet)
    return second.checkpoint()


@pytest.mark.parametrize("at", [1, 4, 5, 8, 10, pytest.param(13, marks=pytest.mark.slow)])
def test_a_training_cut_anywhere_ends_in_the_same_bytes_with_every_setting_on(
    at: int, tmp_path: Path
) -> None:
    whole = trainer_of(ALL_ON, may_stop=True)
    whole.run_segment(0, Script(step7=lambda: whole.change_rate(0.005)), quiet)
    assert whole.total_steps == 15, "at 1, 4 and 8 the optimizer waits for more batches"
    assert equal(cut_and_resumed(ALL_ON, at, tmp_path, rate_at=7), whole.checkpoint())


def added_up(batch_size: int, accumulate: int) -> Graph:
    """Of 50 samples the last batch of 8 has 2."""
    nodes: Nodes = {
        **data_nodes(sample_shape=[4], target_shape=[2]),
        "x": ("Input", {}),
        "d": ("Dense", {"units": 2}),
        "y": ("Output", {}),
        "loss": ("MSELoss", {}),
        "l2": ("L2Regularization", {"l2": 0.1}),
        "sgd": ("SGD", {"learning_rate": 0.1}),
    }
    nodes["loader"] = ("DataLoader", {"batch_size": batch_size})
    links = """data.dataset > loader.dataset; loader.samples > x; x > d; d > y; y > loss.prediction
    loader.labels > loss.target; loss.loss > l2.loss; l2.loss > sgd.loss"""
    return with_settings(graph(nodes, links, epochs=3), accumulate=accumulate)


class OneOfTwo(Ranks):
    """Adds up with the other rank in another thread."""

    def __init__(self, rank: int, meeting: threading.Barrier, given: dict[int, torch.Tensor]) -> None:
        super().__init__(rank, 2)
        self._meeting, self._given = meeting, given

    def _add_up(self, values: torch.Tensor) -> None:
        self._given[self.rank] = values.clone()
        self._meeting.wait(30)
        total = self._given[0] + self._given[1]
        self._meeting.wait(30)
        values.copy_(total)


def run_two(task: Graph, control: Script, checkpoint: CyxModel | None, **data: Array) -> CyxModel:
    """On two ranks, until it ends or is cut; what the first has then."""
    meeting, given = threading.Barrier(2), dict[int, torch.Tensor]()
    two = [
        trainer_of(task, checkpoint=checkpoint, ranks=OneOfTwo(rank, meeting, given), **data)
        for rank in range(2)
    ]

    def run(trainer: Trainer) -> None:
        with suppress(CutAt):
            trainer.run_segment(0, control, quiet)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, two))
    return two[0].checkpoint()


@pytest.mark.parametrize("at", [2, 7, 8])
def test_a_checkpoint_of_one_rank_holds_the_gradients_of_all(at: int) -> None:
    task, data = added_up(8, 3), {"x": RANDOM.randn(50, 4), "y": RANDOM.randn(50, 2)}
    alone = trainer_of(task, **data)
    alone.run_segment(0, Script(), quiet)
    whole = alone.checkpoint().weights["d.weight"]
    assert np.allclose(run_two(task, Script(), None, **data).weights["d.weight"], whole, atol=1e-6)
    saved = run_two(task, Script(**{f"step{at}": cut}), None, **data)
    assert ("gradient.d.weight" in (saved.optimizer or {})) == (at != 7)
    assert np.allclose(run_two(task, Script(), saved, **data).weights["d.weight"], whole, atol=1e-6)
    alone = trainer_of(task, checkpoint=saved, **data)
    alone.run_segment(0, Script(), quiet)
    assert np.allclose(alone.checkpoint().weights["d.weight"], whole, atol=1e-6)


def test_batches_that_add_up_are_one_large_batch() -> None:
    x, y = RANDOM.randn(50, 4), RANDOM.randn(50, 2)
    ends = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        trainer = trainer_of(added_up(batch_size, accumulate), x=x, y=y)
        trainer.run_segment(0, Script(), quiet)
        ends.append(trainer.result().weights["d.weight"])
    assert np.allclose(*ends, atol=1e-6)


def overfitting(**settings: Any) -> Graph:
    """Labels without reason: the validation loss only grows once the training set is learned by heart."""
    nodes: Nodes = {
        **data_nodes(sample_shape=[6], classes=3),
        "split": ("DataSplit", {"validation": 0.3, "test": 0.2, "train": 0.5}),
        "x": ("Input", {}),
        "h": ("Dense", {"units": 64}),
        "r": ("ReLU", {}),
        "d": ("Dense", {"units": 3}),
        "y": ("Output", {}),
        "loss": ("CrossEntropyLoss", {}),
        "adam": ("Adam", {"learning_rate": 0.05}),
    }
    links = """data.dataset > split.dataset; split.dataset > loader.dataset; loader.samples > x; x > h; h > r
    r > d; d > y; y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss"""
    return with_settings(graph(nodes, links, epochs=20), **settings)


NOISE = RANDOM.randn(60, 6), RANDOM.randint(0, 3, 60)


def trained(task: Graph, **more: Any) -> Trainer:
    trainer = trainer_of(task, x=NOISE[0], y=NOISE[1], **more)
    trainer.run_segment(0, Script(), quiet)
    return trainer


def test_patience_ends_a_training_that_may_stop_and_the_best_weights_are_kept() -> None:
    trainer = trained(overfitting(patience=3, keep="best"), may_stop=True)
    assert trainer.is_over
    assert trainer.step < trainer.total_steps
    losses = [point.validation_loss for point in trainer.checkpoint().history]
    assert all(loss is not None for loss in losses)
    best = min(range(len(losses)), key=lambda i: losses[i] or math.inf)
    assert len(losses) == best + 1 + 3
    final = trainer.finish()
    kept = trainer.result()
    watched = kept.training.watched
    assert watched is not None
    assert watched.best_step == 2 * (best + 1)
    again = trained(with_settings(overfitting(), epochs=best + 1))
    again.finish()
    assert np.array_equal(kept.weights["h.weight"], again.result().weights["h.weight"])
    assert final.test_accuracy == again.result().history[-1].test_accuracy


def test_where_steps_are_paid_for_patience_does_not_end_a_training_and_a_note_says_so() -> None:
    trainer = trained(overfitting(patience=3))
    assert trainer.step == trainer.total_steps
    assert any("all its steps are paid for" in note for note in trainer.notes)


def test_patience_counts_epochs_without_a_better_loss() -> None:
    watch = Watch()
    for step, loss in enumerate([3.0, 2.0, 2.0, None, 1.0, 1.5], 1):
        watch = observe(watch, loss, step)
        assert is_over(watch, 2) == (step == 4)
        assert not is_over(watch, 0)
    assert watch == Watch(1.0, 5, 1)


# -- the learning rate -----------------------------------------------------------------------------


def rates_of(task: Graph, x: Array, y: Array, changed: float | None) -> list[float]:
    trainer = trainer_of(task, x=x, y=y, every=0.0)
    script = Script(step2=lambda: trainer.change_rate(changed)) if changed is not None else Script()
    seen: dict[int, float] = {}
    trainer.run_segment(0, script, lambda metrics: seen.update({metrics.step: metrics.learning_rate or 0.0}))
    return list(seen.values())


def test_a_changed_learning_rate_holds_from_the_next_step_on_and_schedules_multiply_it() -> None:
    assert rates_of(with_settings(overfitting(), epochs=2), *NOISE, changed=0.5) == [0.05, 0.05, 0.5, 0.5]
    task = with_settings(everything("SGD"), epochs=2)
    before, after = rates_of(task, X, Y, None), rates_of(task, X, Y, 0.5)
    assert before[:2] == after[:2]
    base = read_pipeline(task).optimizer.parameters["learning_rate"]
    assert after[2:] == pytest.approx([rate / base * 0.5 for rate in before[2:]])


# -- precision and the like ------------------------------------------------------------------------


def test_bfloat16_is_another_way_to_compute_the_same_thing() -> None:
    ends = {}
    for precision in ("float32", "bfloat16"):
        trainer = trained(with_settings(overfitting(), epochs=2, precision=precision))
        trainer.finish()
        result = trainer.result()
        assert result.training.numerics == Numerics(precision, False, "fused")  # type: ignore[arg-type]
        ends[precision] = result.history[-1].loss
    assert ends["bfloat16"] != ends["float32"]
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.05)


def test_the_trial_changes_no_weight_and_no_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.numerics.MIN_BATCH_FLOPS", 0.0)
    monkeypatch.setattr("backend.numerics.MIN_STEPS", 1)
    task = with_settings(everything("Adam"), epochs=1)
    before = torch.random.get_rng_state()
    trainer = trainer_of(task)
    assert torch.equal(torch.random.get_rng_state(), before)
    tried = [trial.numerics for trial in trainer.choice.trials]
    assert tried[0] == Numerics("float32", True, "fused")
    assert {each.precision for each in tried} == {"float32", "bfloat16"}
    assert {each.optimizer for each in tried} == {"fused", "foreach"}
    assert trainer.choice.numerics in tried
    untried = trainer_of(with_settings(task, precision="float32"))
    assert untried.choice == Choice(Numerics("float32", True, "fused"))
    tried_weights, weights = trainer.checkpoint().weights, untried.checkpoint().weights
    assert all(np.array_equal(tried_weights[name], weights[name]) for name in weights)
    assert trainer.notes[0].startswith(f"{trainer.choice.numerics.precision}, ")


def test_a_choice_is_made_only_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a fifth of a second, but those in bfloat16 a tenth."""
    monkeypatch.setattr("backend.numerics.Stepper", Timed)
    task = everything("Adam")
    trainer = trainer_of(with_settings(task, precision="float32"))
    Timed.clock = 0.0
    pipeline = read_pipeline(task)
    found = choose(trainer._parts, pipeline, Work(1e12, 10_000), lambda: Timed.clock)
    assert found.numerics == Numerics("bfloat16", True, "fused")
    assert describe(found) == (
        "bfloat16, channels last, fused optimizer: 2.00 times as fast as "
        "float32, channels last, fused optimizer when tried"
    )


class Timed(Stepper):
    clock = 0.0

    def update(self) -> None:
        super().update()
        Timed.clock += 0.1 if self.numerics.precision == "bfloat16" else 0.2


def test_what_was_chosen_is_pinned_by_the_checkpoint() -> None:
    task = with_settings(everything("SGD"), epochs=1)
    state = trainer_of(task).checkpoint()
    pinned = Numerics("bfloat16", False, "foreach")
    (group,) = state.training.optimizer_groups
    walking = {**group.settings, "fused": None, "foreach": True}
    groups = [msgspec.structs.replace(group, settings=walking)]
    training = msgspec.structs.replace(state.training, numerics=pinned, optimizer_groups=groups)
    resumed = trainer_of(task, checkpoint=replace(state, training=training))
    assert resumed.choice.numerics == pinned
    assert resumed.checkpoint().training.numerics == pinned


def test_a_checkpoint_that_was_computed_as_nothing_can_be_is_refused() -> None:
    task = with_settings(everything("Lion"), epochs=1)
    state = trainer_of(task).checkpoint()
    training = msgspec.structs.replace(state.training, numerics=Numerics("float32", True, "fused"))
    with pytest.raises(CheckpointError, match="Lion can be foreach"):
        trainer_of(task, checkpoint=replace(state, training=training))


@pytest.mark.parametrize(("name", "shape"), [("exp_avg", ()), ("exp_avg_sq", (1,)), ("step", (3, 36))])
def test_a_checkpoint_whose_optimizer_state_is_smaller_than_its_weight_is_refused(
    name: str, shape: tuple[int, ...]
) -> None:
    """Fused optimizers would read and write behind it."""
    task = with_settings(everything("Adam"), epochs=1)
    trainer = trainer_of(task)
    trainer.run_segment(0, Script(), quiet)
    state = trainer.checkpoint()
    assert trainer_of(task, checkpoint=state).step == state.training.step
    tensors = {**(state.optimizer or {}), f"0.{name}": np.zeros(shape, np.float32)}
    with pytest.raises(CheckpointError, match=f"'{name}' is shaped"):
        trainer_of(task, checkpoint=replace(state, optimizer=tensors))


@pytest.mark.parametrize("optimizer", ["Adam", "Adagrad", "NAdam", "RMSprop", "SGD", "Lion"])
def test_a_checkpoint_whose_optimizer_state_is_of_another_optimizer_is_refused(optimizer: str) -> None:
    """Else its first step would fail on what is not there."""
    task = with_settings(everything(optimizer), epochs=1)
    trainer = trainer_of(task)
    trainer.run_segment(0, Script(), quiet)
    state = trainer.checkpoint()
    assert trainer_of(task, checkpoint=state).checkpoint().training == state.training
    tensors = {name: each for name, each in (state.optimizer or {}).items() if not name.startswith("0.")}
    tensors["0.velocity"] = np.zeros(next(trainer._module.parameters()).shape, np.float32)
    with pytest.raises(CheckpointError, match=r"of another optimizer: .*velocity"):
        trainer_of(task, checkpoint=replace(state, optimizer=tensors))


def test_a_checkpoint_that_lacks_state_which_no_step_makes_is_refused() -> None:
    task = with_settings(everything("Adagrad"), epochs=1)
    state = trainer_of(task).checkpoint()
    with pytest.raises(CheckpointError, match="optimizer state of 0 weights"):
        trainer_of(task, checkpoint=replace(state, optimizer={}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -1.0), ("lr", "fast"), ("lr", None), ("betas", [2.0, 0.5]), ("fused", None), ("eps", 1e9)],
)
def test_a_checkpoint_whose_optimizer_is_set_otherwise_than_the_graph_says_is_refused(
    name: str, value: float | str | list[float] | None
) -> None:
    task = with_settings(everything("Adam"), epochs=1)
    state = trainer_of(task).checkpoint()
    (group,) = state.training.optimizer_groups
    other = msgspec.structs.replace(group, settings={**group.settings, name: value})
    training = msgspec.structs.replace(state.training, optimizer_groups=[other])
    with pytest.raises(CheckpointError, match="optimizer"):
        trainer_of(task, checkpoint=replace(state, training=training))


def test_a_training_whose_state_fits_into_no_file_does_not_begin() -> None:
    task = everything("Adam")
    size = estimate(task, 1000, read_pipeline(task).sample_shape)
    check_fits_file(size, 2)
    large = replace(size, weights_bytes=(2 << 30) + 1)
    with pytest.raises(
        GraphInvalidError, match=r"weights of 2147483649 bytes, a \.cyxmodel holds 2147483648"
    ):
        check_fits_file(large, 1)
    often = replace(size, weights_bytes=1 << 30, checkpoint_bytes=(4 << 30) + 1)
    check_fits_file(often, 1)
    with pytest.raises(GraphInvalidError, match="a checkpoint of 4294967297 bytes"):
        check_fits_file(often, 2)


def test_slow_steps_are_not_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    task = everything("Adam")
    parts = trainer_of(with_settings(task, precision="float32"))._parts
    found = choose(parts, read_pipeline(task), Work(1e12, 10_000), lambda: float(next(clock)))
    assert [trial.step_s for trial in found.trials] == [1.0]
    assert found.numerics == Numerics("float32", True, "fused")


def test_a_checkpoint_of_before_there_was_a_choice_goes_on() -> None:
    task = with_settings(everything("SGD"), epochs=1)
    state = trainer_of(task).checkpoint()
    training = msgspec.structs.replace(state.training, numerics=None)
    resumed = trainer_of(task, checkpoint=replace(state, training=training))
    assert resumed.choice.numerics == Numerics("float32", True, "fused")


# -- a loss that is no number ----------------------------------------------------------------------


def breaking(body: Node) -> Graph:
    nodes: Nodes = {
        **data_nodes(sample_shape=[3], target_shape=[3]),
        "x": ("Input", {}),
        "first": ("Dense", {"units": 3}),
        "second": ("Dense", {"units": 3}),
        "y": ("Output", {}),
        "loss": ("MSELoss", {}),
        "sgd": ("SGD", {"learning_rate": 0.01}),
    }
    links = """data.dataset > loader.dataset; loader.samples > x; x > first; first > odd.inputs; odd > second
    second > y; y > loss.prediction; loader.labels > loss.target; loss.loss > sgd.loss"""
    if body.type == "Repeat":
        links = links.replace("odd.inputs", "odd")
    task = graph(nodes, links, epochs=4)
    return replace(task, nodes=(*task.nodes, body))


def formula(text: str, node_id: str = "odd") -> Node:
    return Node(node_id, "Lambda", 1, {"expression": text})


LOGARITHM = Body(
    (Node("in", "Input"), formula("log(x - 1000)", "inner"), Node("out", "Output")),
    (Link("in", "output", "inner", "inputs"), Link("inner", "output", "out", "input")),
)
CASES = {
    "forward": (formula("log(x - 1000)"), 0.01, "odd", "the output of 'odd' (Lambda)", 0),
    "nested": (
        Node("odd", "Repeat", body=LOGARITHM),
        0.01,
        "odd.0.inner",
        "the output of 'odd.0.inner' (Lambda)",
        0,
    ),
    "gradient": (formula("sqrt(x * 0)"), 0.01, "odd", "the gradient through 'odd' (Lambda)", 0),
    "rate": (formula("x * 2"), 1e39, "first", "the weights of 'first' (Dense), after the optimizer's", 1),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_loss_that_is_no_number_names_the_node_where_it_began(name: str) -> None:
    body, rate, node, words, step = CASES[name]
    task = breaking(body)
    assert [str(each) for each in diagnose(task)] == []
    x = RANDOM.randn(64, 3)
    trainer = trainer_of(task, x=x, y=x)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run_segment(0, Script(**{f"step{step}": lambda: trainer.change_rate(rate)}), quiet)
    assert words in str(caught.value)
    assert ("A lower learning rate may help" in str(caught.value)) == (step > 0)
    assert caught.value.node == node
    state = trainer.last_good()
    assert state is not None
    assert state.training.step == step


def test_after_a_loss_that_is_no_number_all_that_was_trained_before_is_there(tmp_path: Path) -> None:
    """One sample is too large to be computed with, which ruins what BatchNorm remembers."""
    nodes: Nodes = {
        **data_nodes(sample_shape=[3], target_shape=[3]),
        "x": ("Input", {}),
        "d": ("Dense", {"units": 3}),
        "square": ("Lambda", {"expression": "x * x"}),
        "bn": ("BatchNorm", {}),
        "y": ("Output", {}),
        "loss": ("MSELoss", {}),
        "adam": ("Adam", {}),
    }
    links = """data.dataset > loader.dataset; loader.samples > x; x > d; d > square.inputs
    square > bn; bn > y; y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss"""
    task = with_settings(graph(nodes, links, epochs=2), accumulate=2)
    x, y = RANDOM.randn(96, 3), RANDOM.randn(96, 3)
    x[samples_of(task, x, y).order("train", 0)[3 * 16 + 2]] = 3e30
    whole, broken = trainer_of(task, x=x, y=y), trainer_of(task, x=x, y=y)
    with pytest.raises(CutAt):
        whole.run_segment(0, Script(step3=cut), quiet)
    with pytest.raises(TrainingDivergedError, match="at step 3; first no number: the output of 'square' "):
        broken.run_segment(0, Script(), quiet)
    state = broken.last_good()
    assert state is not None
    assert equal(state, whole.checkpoint())
    write_cyxmodel(tmp_path / "saved.cyxmodel", state)
    resumed = trainer_of(task, x=x, y=y, checkpoint=read_cyxmodel(tmp_path / "saved.cyxmodel"))
    assert resumed.step == 3


def test_weights_that_grow_without_end_are_kept_as_they_were_before_they_grew() -> None:
    task = breaking(formula("x * 2"))
    x = np.random.RandomState(5).randn(512, 3)  # the same whatever ran before: it decides when they grow
    trainer = trainer_of(task, x=x, y=x)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run_segment(0, Script(step4=lambda: trainer.change_rate(10.0)), quiet)
    found = re.search(r"at step (\d+); first no number", str(caught.value))
    assert found is not None and int(found[1]) > 5
    state = trainer.last_good()
    assert state is not None and state.training.step == 4
    resumed = trainer_of(task, x=x, y=x, checkpoint=state)
    resumed.change_rate(0.01)
    resumed.run_segment(0, Script(), quiet)
    assert resumed.is_over


def test_weights_that_one_step_made_too_large_are_kept_as_they_were_before_it() -> None:
    task = breaking(formula("x * 2"))
    x = RANDOM.randn(64, 3)
    trainer = trainer_of(task, x=x, y=x)
    with pytest.raises(TrainingDivergedError, match="at step 2"):
        trainer.run_segment(0, Script(step1=lambda: trainer.change_rate(1e25)), quiet)
    state = trainer.last_good()
    assert state is not None and state.training.step == 1
    resumed = trainer_of(task, x=x, y=x, checkpoint=state)
    resumed.change_rate(0.01)
    resumed.run_segment(0, Script(), quiet)
    assert resumed.is_over


@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_one_very_easy_or_hard_batch_does_not_decide_how_far_a_training_goes_back(scale: float) -> None:
    task = breaking(formula("x * 2"))
    x, y = np.random.RandomState(5).randn(256, 3), np.random.RandomState(6).randn(256, 3)
    first = samples_of(task, x, y).order("train", 0)[:16]
    x[first] = 0
    y[first] *= scale
    trainer = trainer_of(task, x=x, y=y)
    trainer.change_rate(1e-12)
    with pytest.raises(TrainingDivergedError, match="at step 7"):
        trainer.run_segment(0, Script(step6=lambda: trainer.change_rate(1e25)), quiet)
    state = trainer.last_good()
    assert state is not None and state.training.step == 6


def test_what_is_there_after_a_loss_that_is_no_number_was_trained_with_the_changed_rate() -> None:
    task = breaking(formula("x * 2"))
    x = RANDOM.randn(64, 3)
    whole, broken = trainer_of(task, x=x, y=x), trainer_of(task, x=x, y=x)

    def script(trainer: Trainer, last: Callable[[], object]) -> Script:
        return Script(step1=lambda: trainer.change_rate(0.3), step3=last)

    with pytest.raises(CutAt):
        whole.run_segment(0, script(whole, cut), quiet)
    with pytest.raises(TrainingDivergedError):
        broken.run_segment(0, script(broken, lambda: broken.change_rate(1e39)), quiet)
    state, expected = broken.last_good(), whole.checkpoint()
    assert state is not None
    assert state.training.step == 3
    assert all(np.array_equal(state.weights[name], each) for name, each in expected.weights.items())
