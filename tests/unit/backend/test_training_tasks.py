"""Training does what the graph says: tasks of many kinds, learned for real and resumed bit for bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.datasets import DataFacts, Dataset
from backend.errors import DatasetError, GraphInvalidError, InputError
from backend.formats.cyxmodel import read_cyxmodel, write_cyxmodel
from backend.formats.tensors import Array
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.pipeline import read_pipeline
from backend.readers import open_source
from backend.readers.source import ReadOptions
from backend.readers.write import write_dataset
from backend.reports import Metrics
from backend.runtime.torch_runtime import TorchRuntime, load_cyxmodel
from backend.samples import LocalSamples, open_samples
from backend.serialize import dump_graph
from backend.shapes import infer_shapes
from backend.training import Trainer, TrainingConfig
from backend.training_checks import check_data
from backend.validate import diagnose

Nodes = dict[str, tuple[str, dict[str, Any]]]


def graph(nodes: Nodes, links: str, epochs: int = 30) -> Graph:
    """``links``: ``a.port > b.port`` one after the other; a port left out is output or input."""
    found = []
    for text in filter(None, (part.strip() for part in links.replace("\n", ";").split(";"))):
        source, target = (end.strip() for end in text.split(">"))
        (a, _, out), (b, _, into) = source.partition("."), target.partition(".")
        found.append(Link(a, out or "output", b, into or "input"))
    boxes = tuple(Node(node_id, name, 1, given) for node_id, (name, given) in nodes.items())
    return Graph("task", boxes, tuple(found), TrainingSettings(epochs, 1))


def data_nodes(**given: Any) -> Nodes:
    return {"data": ("DatasetInput", given), "loader": ("DataLoader", {"batch_size": 16})}


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def samples_of(task: Graph, x: Array, y: Array) -> LocalSamples:
    pipeline = read_pipeline(task)
    classes = int(y.max()) + 1 if y.dtype.kind == "i" and y.ndim == 1 else 0
    y = y.astype(np.int64) if classes else y.astype(np.float32)
    facts = DataFacts(len(x), x.shape[1:], "float32", classes, y.shape[1:])
    return LocalSamples(Dataset(x.astype(np.float32), y, facts), pipeline)


def train(
    task: Graph, x: Array, y: Array, tmp_path: Path, segments: int = 1
) -> tuple[Sequence[Metrics], TorchRuntime]:
    """The whole training, and the model that was written, opened."""
    assert [str(each) for each in diagnose(task)] == []
    config = TrainingConfig("cpu", segments, 1e9, time.monotonic)
    trainer = Trainer(dump_graph(task), samples_of(task, x, y), config)
    for segment in range(segments):
        trainer.run_segment(segment, Unhindered(), lambda metrics: None)
    trainer.finish()
    result = trainer.result()
    write_cyxmodel(tmp_path / "model.cyxmodel", result)
    return result.history, load_cyxmodel(tmp_path / "model.cyxmodel", "cpu")


RANDOM = np.random.RandomState(0)
ENDS = "data.dataset > loader.dataset; loader.samples > x; loss.loss > adam.loss"
SPLIT_ENDS = ENDS.replace("data.dataset > loader", "data.dataset > split.dataset; split.dataset > loader")
ADAM = ("Adam", {"learning_rate": 0.02})


def test_a_regression_of_one_number_learns(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[3]),
            "x": ("Input", {}),
            "d": ("Dense", {"units": 1}),
            "s": ("Squeeze", {}),
            "y": ("Output", {}),
            "loss": ("MSELoss", {}),
            "adam": ADAM,
        },
        f"{ENDS}; x > d; d > s; s > y; y > loss.prediction; loader.labels > loss.target",
    )
    x = RANDOM.randn(200, 3)
    history, model = train(task, x, x @ [1.0, -2.0, 0.5] + 3, tmp_path)
    assert history[-1].loss < 0.05
    assert history[-1].accuracy is None
    assert model.predict(np.zeros((1, 3), np.float32))[0] == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize("with_logits", [True, False])
def test_a_binary_choice_learns_with_one_score(with_logits: bool, tmp_path: Path) -> None:
    middle, loss = ("Identity", "BCEWithLogits") if with_logits else ("Sigmoid", "BCELoss")
    task = graph(
        {
            **data_nodes(sample_shape=[4], classes=2),
            "x": ("Input", {}),
            "d": ("Dense", {"units": 1}),
            "m": (middle, {}),
            "y": ("Output", {}),
            "loss": (loss, {}),
            "adam": ADAM,
        },
        f"{ENDS}; x > d; d > m; m > y; y > loss.prediction; loader.labels > loss.target",
    )
    x = RANDOM.randn(200, 4)
    history, _ = train(task, x, (x[:, 0] > x[:, 1]).astype(np.int64), tmp_path)
    assert history[-1].accuracy is not None
    assert history[-1].accuracy > 0.95


def test_several_labels_at_once_learn(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[4], target_shape=[3]),
            "x": ("Input", {}),
            "d": ("Dense", {"units": 3}),
            "y": ("Output", {}),
            "loss": ("BCEWithLogits", {"positive_weight": 2.0}),
            "adam": ADAM,
        },
        f"{ENDS}; x > d; d > y; y > loss.prediction; loader.labels > loss.target",
    )
    x = RANDOM.randn(200, 4)
    history, model = train(task, x, x[:, :3] > 0, tmp_path)
    assert history[-1].loss < 0.4 * history[0].loss
    assert ((model.predict(x.astype(np.float32)) > 0) == (x[:, :3] > 0)).mean() > 0.9


def test_an_autoencoder_compares_with_its_own_input(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[6]),
            "x": ("Input", {}),
            "code": ("Dense", {"units": 2}),
            "d": ("Dense", {"units": 6}),
            "y": ("Output", {}),
            "loss": ("MSELoss", {}),
            "adam": ADAM,
        },
        f"{ENDS}; x > code; code > d; d > y; y > loss.prediction; loader.samples > loss.target",
    )
    x = RANDOM.randn(200, 2) @ RANDOM.randn(2, 6)
    history, _ = train(task, x, np.zeros(200), tmp_path)
    assert history[-1].loss < 0.02 * history[0].loss


LANGUAGE = """data.dataset > loader.dataset; loader.samples > past; loader.samples > next
past > x; x > embed; embed > block; block > head; head > y; y > loss.prediction; next > loss.target
loss.loss > adam.loss"""


def language_model() -> Graph:
    return graph(
        {
            **data_nodes(sample_shape=[9], vocabulary=5),
            "past": ("Slice", {"stop": -1}),
            "next": ("Slice", {"start": 1}),
            "x": ("Input", {}),
            "embed": ("Embedding", {"vocabulary": 5, "dimension": 8}),
            "block": ("LlamaBlock", {"heads": 2, "kv_heads": 1, "feed_forward": 16}),
            "head": ("TokenHead", {"vocabulary": 5}),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "adam": ADAM,
        },
        LANGUAGE,
        epochs=20,
    )


def counting_text(rows: int = 160) -> Array:
    """0 1 2 3 4 0 1 ... from any start."""
    counted: Array = (RANDOM.randint(0, 5, (rows, 1)) + np.arange(9)) % 5
    return counted


def test_a_language_model_predicts_the_next_token_of_each(tmp_path: Path) -> None:
    x = counting_text()
    history, model = train(language_model(), x, np.zeros(len(x)), tmp_path)
    assert history[-1].accuracy is not None
    assert history[-1].accuracy > 0.95
    assert (model.inputs[0].dtype, model.inputs[0].shape) == ("int64", (-1, 8))
    scores = model.predict(x[:3, :8])
    assert scores.shape == (3, 8, 5)
    assert (scores[:, -1].argmax(-1) == x[:3, 8]).all()
    with pytest.raises(InputError, match="allowed are whole numbers from 0 to 4"):
        model.predict(x[:3, :8] + 5)


def test_a_language_model_learns_from_a_text_file_and_tells_its_perplexity(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    source = open_source(text, ReadOptions(length=8, vocabulary=270))
    facts = write_dataset(source, tmp_path / "text.safetensors")
    assert (facts.sample_shape, facts.target_shape, facts.dtype) == ((8,), (8,), "int32")
    words = {"vocabulary": 270}
    task = graph(
        {
            **data_nodes(sample_shape=[8], target_shape=[8], classes=270, **words),
            "split": ("DataSplit", {"validation": 0.1, "test": 0.1}),
            "x": ("Input", {}),
            "embed": ("Embedding", {**words, "dimension": 8}),
            "block": ("LlamaBlock", {"heads": 2, "kv_heads": 1, "feed_forward": 16}),
            "head": ("TokenHead", words),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "adam": ADAM,
        },
        f"""{SPLIT_ENDS}; x > embed; embed > block; block > head; head > y
        y > loss.prediction; loader.labels > loss.target""",
        epochs=12,
    )
    assert list(check_data(task, infer_shapes(task), facts)) == []
    samples = open_samples(tmp_path / "text.safetensors", read_pipeline(task))
    trainer = Trainer(dump_graph(task), samples, TrainingConfig("cpu", 1, 1e9, time.monotonic))
    trainer.run_segment(0, Unhindered(), lambda metrics: None)
    (told,) = trainer.finish().test
    assert told.perplexity is not None and told.perplexity < 20
    assert not told.confusion


def test_epochs_shorter_than_the_time_between_reports_tell_their_speed() -> None:
    clock = iter(range(10_000))
    config = TrainingConfig("cpu", 1, 1e9, lambda: float(next(clock)))
    trainer = Trainer(
        dump_graph(language_model()), samples_of(language_model(), counting_text(), np.zeros(160)), config
    )
    told: list[Metrics] = []
    trainer.run_segment(0, Unhindered(), told.append)
    assert len(told) == 1 + 20
    assert all(point.samples_per_s is not None and point.samples_per_s > 0 for point in told[1:])
    assert all(point.samples_per_s is None for point in trainer.result().history), (
        "else no two runs were alike"
    )


def test_ids_beyond_the_vocabulary_stop_a_training_in_words() -> None:
    task = language_model()
    config = TrainingConfig("cpu", 1, 1e9, time.monotonic)
    text = counting_text()
    for wrong, words in ((text + 1, "samples from 1 to 5, the graph allows 0 to 4"), (text / 2, "no whole")):
        trainer = Trainer(dump_graph(task), samples_of(task, wrong, np.zeros(160)), config)
        with pytest.raises(DatasetError, match=words):
            trainer.run_segment(0, Unhindered(), lambda metrics: None)


def test_two_heads_learn_two_losses(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[4], classes=3),
            "split": ("DataSplit", {"validation": 0.1, "test": 0.1}),
            "x": ("Input", {}),
            "h": ("Dense", {"units": 16}),
            "t": ("Tanh", {}),
            "a": ("Dense", {"units": 3}),
            "b": ("Dense", {"units": 4}),
            "kind": ("Output", {}),
            "copy": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "other": ("L1Loss", {"weight": 0.5}),
            "adam": ADAM,
        },
        f"""{SPLIT_ENDS}; x > h; h > t; t > a; t > b; a > kind; b > copy
        kind > loss.prediction; loader.labels > loss.target
        copy > other.prediction; loader.samples > other.target; other.loss > adam.loss""",
        epochs=40,
    )
    x = RANDOM.randn(200, 4)
    history, model = train(task, x, x[:, :3].argmax(1), tmp_path)
    assert history[-1].accuracy is not None
    assert history[-1].accuracy > 0.9
    for part in (history[-1].validation, history[-1].test):
        kind, copy = part
        assert (kind.node, kind.output, copy.node, copy.output) == ("loss", "kind", "other", "copy")
        assert len(kind.confusion) == 3
        assert kind.macro_f1 is not None
        assert copy.r2 is not None
    assert history[-1].test[0].accuracy == history[-1].test_accuracy
    assert all(not head.confusion for point in history[:-1] for head in point.validation)
    kinds, copies = model.predict_all((x.astype(np.float32),))
    assert [each.name for each in model.outputs] == ["kind", "copy"]
    assert (kinds.argmax(1) == x[:, :3].argmax(1)).mean() > 0.9
    assert np.abs(copies - x).mean() < 0.4


def two_targets(classes: int = 3) -> Graph:
    """A class and a number, in one array of labels."""
    return graph(
        {
            **data_nodes(sample_shape=[4], target_shape=[2]),
            "first": ("Slice", {"stop": 1}),
            "name": ("Squeeze", {}),
            "second": ("Slice", {"start": 1}),
            "x": ("Input", {}),
            "a": ("Dense", {"units": 3}),
            "b": ("Dense", {"units": 1}),
            "kind": ("Output", {}),
            "sum": ("Output", {}),
            "loss": ("CrossEntropyLoss", {"classes": classes}),
            "other": ("MSELoss", {}),
            "adam": ADAM,
        },
        f"""{ENDS}; loader.labels > first; first > name; loader.labels > second; x > a; x > b; a > kind
        b > sum; kind > loss.prediction; name > loss.target; sum > other.prediction; second > other.target
        other.loss > adam.loss""",
    )


def test_a_class_and_a_number_in_one_array_of_labels_are_learned_by_two_heads(tmp_path: Path) -> None:
    x = RANDOM.randn(200, 4)
    y = np.stack((x[:, :3].argmax(1), x.sum(1)), axis=1)
    history, _ = train(two_targets(), x, y, tmp_path)
    assert history[-1].accuracy is not None
    assert history[-1].accuracy > 0.9
    wrong = Trainer(
        dump_graph(two_targets()),
        samples_of(two_targets(), x, y + 1),
        TrainingConfig("cpu", 1, 1e9, time.monotonic),
    )
    with pytest.raises(DatasetError, match=r"node 'loss': labels from 1 to 3, allowed are .* 0 to 2"):
        wrong.run_segment(0, Unhindered(), lambda metrics: None)
    assert "needs one score for each of the 4 classes" in str(diagnose(two_targets(4))[0])


def test_several_inputs_are_cut_from_the_samples_and_asked_one_by_one(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[5], target_shape=[2]),
            "cut": ("Split", {"sizes": [2, 3]}),
            "a": ("Input", {}),
            "b": ("Input", {}),
            "da": ("Dense", {"units": 2}),
            "db": ("Dense", {"units": 2}),
            "sum": ("Add", {}),
            "y": ("Output", {}),
            "loss": ("MSELoss", {}),
            "adam": ADAM,
        },
        """data.dataset > loader.dataset; loader.samples > cut; cut > a; cut.output2 > b
        a > da; b > db; da > sum.inputs; db > sum.inputs; sum > y
        y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss""",
    )
    x = RANDOM.randn(200, 5)
    history, model = train(task, x, x[:, :2] - x[:, 3:], tmp_path)
    assert history[-1].loss < 0.05
    assert [each.name for each in model.inputs] == ["a", "b"]
    rows = x.astype(np.float32)
    (answer,) = model.predict_all((rows[:, :2], rows[:, 2:]))
    assert np.abs(answer - (x[:, :2] - x[:, 3:])).mean() < 0.3
    with pytest.raises(InputError, match="1 inputs, the model takes 2"):
        model.predict(rows)


def test_each_point_of_an_image_gets_a_class(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[1, 5, 5], classes=2, target_shape=[5, 5]),
            "x": ("Input", {}),
            "c": ("Conv2D", {"filters": 2, "padding": "same"}),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {"class_axis": 0}),
            "adam": ADAM,
        },
        f"{ENDS}; x > c; c > y; y > loss.prediction; loader.labels > loss.target",
    )
    x = RANDOM.randn(100, 1, 5, 5)
    history, _ = train(task, x, (x[:, 0] > 0), tmp_path)
    assert history[-1].accuracy is not None
    assert history[-1].accuracy > 0.9


def test_pairs_are_brought_together_by_the_cosine_loss(tmp_path: Path) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[6], classes=2),
            "cut": ("Split", {"sizes": [3, 3]}),
            "a": ("Input", {}),
            "b": ("Input", {}),
            "da": ("Dense", {"units": 3}),
            "db": ("Dense", {"units": 3}),
            "ya": ("Output", {}),
            "yb": ("Output", {}),
            "loss": ("CosineEmbeddingLoss", {}),
            "adam": ADAM,
        },
        """data.dataset > loader.dataset; loader.samples > cut; cut > a; cut.output2 > b
        a > da; b > db; da > ya; db > yb; ya > loss.prediction; yb > loss.other
        loader.labels > loss.target; loss.loss > adam.loss""",
    )
    first, alike = RANDOM.randn(200, 3), RANDOM.randint(0, 2, 200)
    second = np.where(alike[:, None] == 1, first, -first)
    history, _ = train(task, np.hstack((first, second)), alike, tmp_path)
    assert history[-1].loss < 0.5 * history[0].loss


def test_one_hot_labels_can_be_regressed_and_one_hot_samples_served(tmp_path: Path) -> None:
    task = graph(
        {
            "data": ("DatasetInput", {"sample_shape": [2], "vocabulary": 4, "classes": 4}),
            "hot": ("OneHotEncode", {"of": "samples"}),
            "loader": ("DataLoader", {"batch_size": 16}),
            "x": ("Input", {}),
            "f": ("Flatten", {}),
            "d": ("Dense", {"units": 4}),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "adam": ADAM,
        },
        """data.dataset > hot.dataset; hot.dataset > loader.dataset; loader.samples > x; x > f; f > d; d > y
        y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss""",
    )
    x = RANDOM.randint(0, 4, (200, 2))
    history, model = train(task, x, x[:, 1], tmp_path)
    assert history[-1].accuracy == 1.0
    assert (model.inputs[0].dtype, model.inputs[0].shape) == ("int64", (-1, 2))
    assert (model.predict(x[:20]).argmax(1) == x[:20, 1]).all()

    nodes = tuple(
        Node("hot", "OneHotEncode", 1, {"of": "labels"})
        if node.id == "hot"
        else Node("loss", "MSELoss")
        if node.id == "loss"
        else Node("data", "DatasetInput", 1, {"sample_shape": [2], "classes": 4})
        if node.id == "data"
        else node
        for node in task.nodes
    )
    history, _ = train(Graph("labels", nodes, task.links, task.training), x, x[:, 1], tmp_path)
    assert history[-1].loss < history[0].loss


def test_texts_become_tokens(tmp_path: Path) -> None:
    task = graph(
        {
            "data": ("DatasetInput", {"sample_shape": [6], "classes": 2}),
            "tokens": ("Tokenize", {"length": 4, "lowercase": True}),
            "loader": ("DataLoader", {"batch_size": 16}),
            "x": ("Input", {}),
            "e": ("Embedding", {"vocabulary": 256, "dimension": 4}),
            "f": ("Flatten", {}),
            "d": ("Dense", {"units": 2}),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "adam": ADAM,
        },
        """data.dataset > tokens.dataset; tokens.dataset > loader.dataset; loader.samples > x; x > e; e > f
        f > d; d > y; y > loss.prediction; loader.labels > loss.target; loss.loss > adam.loss""",
    )
    words = [b"yes it", b"No not"] * 60
    x = np.array([list(word) for word in words], np.float32)
    history, model = train(task, x, np.array([1, 0] * 60), tmp_path)
    assert history[-1].accuracy == 1.0
    shouted = np.array([list(b"YES ??"), list(b"nO nO ")], np.float32)
    assert model.predict(shouted).argmax(1).tolist() == [1, 0]


def everything(optimizer: str) -> Graph:
    """All that is random or remembers: dropout, augmentation, two schedules, penalties, clipping."""
    return graph(
        {
            "data": ("DatasetInput", {"sample_shape": [1, 6, 6], "classes": 3}),
            "split": ("DataSplit", {}),
            "norm": ("Normalize", {}),
            "augment": ("Augmentation", {"flip_horizontal": 0.5, "rotate": 20.0, "erase": 0.3, "noise": 0.1}),
            "loader": ("DataLoader", {"batch_size": 16}),
            "x": ("Input", {}),
            "c": ("Conv2D", {"filters": 4}),
            "bn": ("BatchNorm", {}),
            "drop": ("SpatialDropout", {}),
            "f": ("Flatten", {}),
            "d": ("Dense", {"units": 3}),
            "y": ("Output", {}),
            "loss": ("CrossEntropyLoss", {}),
            "l1": ("ElasticNet", {}),
            "adam": (optimizer, {}),
            "clip": ("GradientClip", {}),
            "warm": ("WarmupScheduler", {"steps": 5}),
            "plateau": ("ReduceOnPlateau", {"patience": 0, "factor": 0.7, "threshold": 0.5}),
        },
        """data.dataset > split.dataset; split.dataset > norm.dataset; norm.dataset > augment.dataset
        augment.dataset > loader.dataset; loader.samples > x; x > c; c > bn; bn > drop; drop > f; f > d; d > y
        y > loss.prediction; loader.labels > loss.target; loss.loss > l1.loss; d.parameters > l1.parameters
        l1.loss > adam.loss; adam.optimizer > clip.optimizer; clip.optimizer > warm.optimizer
        warm.optimizer > plateau.optimizer""",
        epochs=6,
    )


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("Adam", "AdamW", "NAdam", "RMSprop", "Adagrad")
]


@pytest.mark.parametrize("optimizer", ["SGD", "Lion", *SLOW])
def test_a_resumed_training_ends_bit_for_bit_where_a_whole_one_does(optimizer: str, tmp_path: Path) -> None:
    task = everything(optimizer)
    assert [str(each) for each in diagnose(task)] == []
    random = np.random.RandomState(3)
    x, y = random.rand(80, 1, 6, 6), random.randint(0, 3, 80)
    data, samples = dump_graph(task), samples_of(task, x, y)
    config = TrainingConfig("cpu", 3, 1e9, time.monotonic)
    whole = Trainer(data, samples, config)
    for segment in range(3):
        whole.run_segment(segment, Unhindered(), lambda metrics: None)
        write_cyxmodel(tmp_path / f"{segment}.cyxmodel", whole.checkpoint(segment + 1))
    rates = [each.learning_rate for each in whole.checkpoint(3).history]
    assert len(set(rates)) > 2, "the plateau never lowered the rate"
    for begin in (1, 2):
        resumed = Trainer(data, samples, config, read_cyxmodel(tmp_path / f"{begin - 1}.cyxmodel"))
        for segment in range(begin, 3):
            resumed.run_segment(segment, Unhindered(), lambda metrics: None)
        expected, found = whole.checkpoint(3), resumed.checkpoint(3)
        for one, other in ((expected.weights, found.weights), (expected.optimizer, found.optimizer)):
            assert one is not None
            assert other is not None
            assert all(np.array_equal(other[key], value) for key, value in one.items())
        assert found.training == expected.training


def test_a_penalty_acts_on_the_weights_that_are_linked_to_it() -> None:
    nodes: Nodes = {
        **data_nodes(sample_shape=[4], target_shape=[2]),
        "x": ("Input", {}),
        "a": ("Dense", {"units": 4}),
        "b": ("Dense", {"units": 2}),
        "y": ("Output", {}),
        "loss": ("MSELoss", {"weight": 0.0}),
        "l2": ("L2Regularization", {"l2": 1.0}),
        "adam": ("SGD", {"learning_rate": 0.1}),
    }
    links = """data.dataset > loader.dataset; loader.samples > x; x > a; a > b; b > y; y > loss.prediction
    loader.labels > loss.target; loss.loss > l2.loss; l2.loss > adam.loss"""
    linked = "; a.parameters > l2.parameters"
    for more, shrunk in (("", {"a.weight", "b.weight"}), (linked, {"a.weight", "a.bias"})):
        task = graph(nodes, links + more, epochs=1)
        samples = samples_of(task, RANDOM.randn(16, 4), RANDOM.randn(16, 2))
        trainer = Trainer(dump_graph(task), samples, TrainingConfig("cpu", 1, 1e9, time.monotonic))
        before = trainer.result().weights
        trainer.run_segment(0, Unhindered(), lambda metrics: None)
        after = trainer.result().weights
        for key, weight in before.items():
            expected = weight * 0.8 if key in shrunk else weight
            assert np.allclose(after[key], expected, atol=1e-6), key


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("loader.labels > d.inputs; loader.samples > x", "takes labels, which a model must not see"),
        ("loader.labels > m.inputs; loader.samples > m.inputs; m > x", "brings labels to an Input"),
        ("loader.labels > x", "brings labels to an Input"),
    ],
)
def test_labels_never_enter_the_model(source: str, text: str) -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[2], target_shape=[2]),
            "x": ("Input", {}),
            "m": ("Add", {}),
            "d": ("Add", {}),
            "y": ("Output", {}),
            "loss": ("MSELoss", {}),
            "adam": ADAM,
        },
        f"""{source}; data.dataset > loader.dataset; x > d.inputs; d > y; y > loss.prediction
        loader.labels > loss.target; loss.loss > adam.loss""",
    )
    with pytest.raises(GraphInvalidError, match=text):
        raise GraphInvalidError(diagnose(task))


def test_an_input_does_not_follow_another_input() -> None:
    task = graph(
        {
            **data_nodes(sample_shape=[2], target_shape=[2]),
            "x": ("Input", {}),
            "d": ("Dense", {"units": 2}),
            "x2": ("Input", {}),
            "sum": ("Add", {}),
            "y": ("Output", {}),
            "loss": ("MSELoss", {}),
            "adam": ADAM,
        },
        f"{ENDS}; x > d; d > x2; x2 > sum.inputs; x > sum.inputs; sum > y; y > loss.prediction; "
        "loader.labels > loss.target",
    )
    (found,) = diagnose(task)
    assert (found.node_id, found.text) == ("x2", "input comes from the model, must come from the DataLoader")
