"""Classes weighted by how rare they are among the training samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.balance import balanced
from backend.datasets import load_dataset, open_dataset
from backend.errors import DatasetError
from backend.evaluation import evaluate
from backend.formats.cyxmodel import CyxModel, read_cyxmodel, write_cyxmodel
from backend.formats.tensors import pack_tensors
from backend.graph import Graph
from backend.pipeline import read_pipeline
from backend.readers import convert
from backend.reports import SampleStream
from backend.sample_plan import TEST, TRAIN
from backend.samples import LocalSamples
from backend.serialize import dump_graph, graph_hash, load_graph
from backend.training import Trainer, TrainingConfig
from backend.workers.feed import Connection, FedSamples
from engine_app.owner import BackendOwner
from p2p.session.errors import JobRefusedError
from tests.unit.backend.make_samples import SHAPE, small_graph


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def graph_with(**loss: object) -> Graph:
    graph = small_graph(normalization="none")
    nodes = [replace(n, parameters=dict(loss)) if n.id == "loss" else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Uneven classes: 0 four times as often as 1, and 2 in between."""
    y = np.random.RandomState(0).choice(3, 120, p=[0.6, 0.15, 0.25]).astype(np.int64)
    x = np.random.RandomState(1).rand(120, *SHAPE).astype(np.float32)
    (tmp_path / "data").write_bytes(pack_tensors({"x": x, "y": y}))
    return tmp_path / "data"


def trainer_of(
    graph: Graph, samples: LocalSamples | FedSamples, checkpoint: CyxModel | None = None
) -> Trainer:
    return Trainer(dump_graph(graph), samples, TrainingConfig("cpu", 2, 1e9, lambda: 0.0), checkpoint)


def finished(trainer: Trainer, segments: range) -> CyxModel:
    for segment in segments:
        trainer.run_segment(segment, Unhindered(), lambda metrics: None)
    trainer.finish()
    return trainer.result()


def bits(model: CyxModel) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.weights.items()}


def test_weights_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat([0, 1, 2], [60, 15, 25])
    expected = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced(np.bincount(labels), None) == pytest.approx(expected)


def test_classes_that_do_not_count_have_no_say() -> None:
    assert balanced(np.array([6, 2, 0]), None) == pytest.approx((8 / 12, 8 / 4, 1.0))
    assert balanced(np.array([6, 2, 99]), 2) == pytest.approx((8 / 12, 8 / 4, 1.0))


@pytest.mark.parametrize("resident", [1 << 30, 100])
def test_only_the_training_part_is_counted_and_the_model_remembers(
    data: Path, tmp_path: Path, resident: int
) -> None:
    graph = graph_with(balance=True)
    samples = LocalSamples(open_dataset(data, resident), read_pipeline(graph))
    y = load_dataset(data).y
    expected = balanced(np.bincount(y[samples.members(TRAIN)]), None)
    assert expected != balanced(np.bincount(y), None)
    given = graph_with(class_weights=list(expected))
    balancing, explicit = trainer_of(graph, samples), trainer_of(given, samples)
    one, other = finished(balancing, range(2)), finished(explicit, range(2))
    assert bits(one) == bits(other)
    assert one.history == other.history
    write_cyxmodel(tmp_path / "m", one)
    assert read_cyxmodel(tmp_path / "m").training.class_weights == (expected,)
    samples.write_part(TEST, tmp_path / "test")
    test = load_dataset(tmp_path / "test")
    assert evaluate(read_cyxmodel(tmp_path / "m"), test, "cpu").loss == evaluate(other, test, "cpu").loss


def test_a_resumed_training_keeps_the_weights(data: Path) -> None:
    graph = graph_with(balance=True)
    samples = LocalSamples(load_dataset(data), read_pipeline(graph))
    whole = finished(trainer_of(graph, samples), range(2))
    first = trainer_of(graph, samples)
    first.run_segment(0, Unhindered(), lambda metrics: None)
    assert bits(finished(trainer_of(graph, samples, first.checkpoint(1)), range(1, 2))) == bits(whole)


def test_weights_that_are_not_of_this_graph_are_refused(data: Path) -> None:
    graph = graph_with()
    samples = LocalSamples(load_dataset(data), read_pipeline(graph))
    model = finished(trainer_of(graph, samples), range(2))
    assert model.training.class_weights == ()
    foreign = replace(model, graph=dump_graph(graph_with(balance=True)))
    with pytest.raises(DatasetError, match="class weights of 0 losses, the graph has 1"):
        evaluate(foreign, load_dataset(data), "cpu")


def test_streamed_samples_are_refused() -> None:
    stream = SampleStream(120, SHAPE, "float32", 3, (), (), None)
    connection = Connection(lambda wish: None, lambda condition: None, lambda: None, lambda: 0.0)
    with pytest.raises(DatasetError, match="who has them counts them before"):
        trainer_of(graph_with(balance=True), FedSamples(stream, None, connection))


def test_the_owner_of_streamed_data_counts_its_labels_before(data: Path) -> None:
    graph = graph_with(balance=True)
    settled, digest = BackendOwner().settle(dump_graph(graph), data)
    found = load_graph(settled)
    assert digest == graph_hash(found)
    samples = LocalSamples(load_dataset(data), read_pipeline(graph))
    weights = list(trainer_of(graph, samples).checkpoint().training.class_weights[0])
    [loss] = [node for node in found.nodes if "class_weights" in node.parameters]
    assert (loss.parameters["balance"], loss.parameters["class_weights"]) == (False, weights)
    assert [node for node in found.nodes if node != loss] == [
        node for node in graph.nodes if node.id != loss.id
    ]
    plain = dump_graph(graph_with())
    assert BackendOwner().settle(plain, data)[0] == plain
    with pytest.raises(JobRefusedError):
        BackendOwner().settle(dump_graph(graph), data.with_name("none"))


def test_the_owner_of_streamed_data_adds_to_a_copy_of_the_model_what_the_peer_does_not_know(
    data: Path, tmp_path: Path
) -> None:
    graph = graph_with()
    samples = LocalSamples(load_dataset(data), read_pipeline(graph))
    model = finished(trainer_of(graph, samples), range(2))
    write_cyxmodel(tmp_path / "m", model)
    rows, noted = tmp_path / "rows.csv", tmp_path / "noted"
    rows.write_text("size,kind\n1,a\n2,b\n3,c\n")
    convert(rows, noted)
    BackendOwner().add_notes(tmp_path / "m", noted)
    found = read_cyxmodel(tmp_path / "m")
    assert found.notes.class_names == ("a", "b", "c")
    assert bits(replace(found, notes=model.notes)) == bits(model)
    with pytest.raises(OSError, match="no notes on the data for m"):
        BackendOwner().add_notes(tmp_path / "m", tmp_path / "none")
