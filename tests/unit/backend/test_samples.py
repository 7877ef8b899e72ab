from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.datasets import Dataset, load_dataset, map_dataset
from backend.errors import DatasetError
from backend.pipeline import read_pipeline
from backend.reports import Metrics
from backend.sample_plan import TEST, TRAIN, VALIDATION, Window
from backend.samples import LocalSamples, open_samples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from tests.unit.backend.make_samples import small_graph, write_samples

PIPELINE = read_pipeline(small_graph())


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "data.safetensors")


def test_the_parts_of_a_dataset_share_no_sample_and_lose_none(data: Path) -> None:
    samples = open_samples(data, PIPELINE)
    parts = [samples.order(part, 0).tolist() for part in (TRAIN, VALIDATION, TEST)]
    assert sorted(index for part in parts for index in part) == list(range(101))
    assert [samples.size(part) for part in (TRAIN, VALIDATION, TEST)] == [len(part) for part in parts]


def test_the_order_of_an_epoch_is_the_same_whatever_was_asked_before(data: Path) -> None:
    one, other = open_samples(data, PIPELINE), open_samples(data, PIPELINE)
    orders = [one.order(TRAIN, epoch).tolist() for epoch in range(5)]
    assert [other.order(TRAIN, epoch).tolist() for epoch in reversed(range(5))] == orders[::-1]
    assert orders[0] != orders[1]


def test_a_window_is_the_rows_of_its_order(data: Path) -> None:
    samples, whole = open_samples(data, PIPELINE), load_dataset(data)
    x, y = samples.gather(Window(TRAIN, 2, 10, 7))
    order = samples.order(TRAIN, 2)[10:17]
    assert (x == whole.x[order]).all()
    assert (y == whole.y[order]).all()


@pytest.mark.parametrize(
    "window", [Window(TRAIN, 0, 80, 8), Window(TEST, 0, -1, 2), Window(TEST, 0, 0, 0), Window("all", 0, 0, 1)]
)
def test_a_window_beyond_its_part_is_refused(data: Path, window: Window) -> None:
    with pytest.raises(DatasetError, match="allowed are"):
        open_samples(data, PIPELINE).gather(window)


@pytest.mark.parametrize("method", ["mean_std", "scale"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_mapped_samples_scale_to_the_same_bits_as_loaded_ones(
    tmp_path: Path, dtype: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.datasets._SCALED_VALUES", 100)
    path = write_samples(tmp_path / "data", dtype=dtype)
    mapped, loaded = open_samples(path, PIPELINE), LocalSamples(load_dataset(path), PIPELINE)
    one, other = mapped.scaling(method), loaded.scaling(method)
    assert one is not None and other is not None
    assert (one.offset.tobytes(), one.factor.tobytes()) == (other.offset.tobytes(), other.factor.tobytes())
    if method == "mean_std":
        scaled = one.apply(loaded.dataset.x[loaded.order(TRAIN, 0)])
        assert np.allclose(scaled.mean(axis=(0, 2)), 0, atol=1e-5)
        assert np.allclose(scaled.std(axis=(0, 2)), 1, atol=1e-5)


def test_a_part_is_written_as_a_dataset_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.samples._WRITTEN_BYTES", 100)
    samples = open_samples(data, PIPELINE)
    samples.write_part(TEST, tmp_path / "test.safetensors")
    written, whole = load_dataset(tmp_path / "test.safetensors"), load_dataset(data)
    order = samples.order(TEST, 0)
    assert (written.x == whole.x[order]).all()
    assert (written.y == whole.y[order]).all()


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_training_on_a_mapped_file_gives_the_same_model(tmp_path: Path, dtype: str) -> None:
    path = write_samples(tmp_path / "data", dtype=dtype)

    def train(load: Callable[[Path], Dataset]) -> tuple[dict[str, bytes], list[Metrics]]:
        trainer = Trainer(
            dump_graph(small_graph()),
            LocalSamples(load(path), PIPELINE),
            TrainingConfig("cpu", 4, 1e9, lambda: 0.0),
        )
        reports: list[Metrics] = []
        for segment in range(4):
            trainer.run_segment(segment, Unhindered(), reports.append)
        reports.append(trainer.finish())
        return {name: array.tobytes() for name, array in trainer.result().weights.items()}, reports

    assert train(map_dataset) == train(load_dataset)


@pytest.mark.parametrize("method", ["mean_std", "scale"])
def test_no_held_out_sample_has_a_say_in_the_normalization(tmp_path: Path, method: str) -> None:
    pipeline = read_pipeline(small_graph())
    dataset = load_dataset(write_samples(tmp_path / "d"))
    samples = LocalSamples(dataset, pipeline)
    before = samples.scaling(method)
    for part in ("validation", "test"):
        dataset.x[samples.order(part, 0)] = 1e9
    after = samples.scaling(method)
    dataset.x[samples.order("train", 0)[:1]] = 1e9
    changed = samples.scaling(method)
    assert before is not None and after is not None and changed is not None
    assert np.array_equal(before.offset, after.offset) and np.array_equal(before.factor, after.factor)
    assert not np.array_equal(before.factor, changed.factor)


def test_a_split_without_validation_and_test_trains_and_has_no_scores_of_them(data: Path) -> None:
    graph = small_graph(train=1.0, validation=0.0, test=0.0)
    samples = LocalSamples(load_dataset(data), read_pipeline(graph))
    assert [samples.size(part) for part in (TRAIN, VALIDATION, TEST)] == [101, 0, 0]
    trainer = Trainer(dump_graph(graph), samples, TrainingConfig("cpu", 1, 1e9, lambda: 0.0))
    trainer.run_segment(0, Unhindered(), lambda metrics: None)
    last = trainer.finish()
    assert last.validation_loss is None and last.test_accuracy is None and last.test == ()
    assert last.loss > 0


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    graph = small_graph(train=0.0, validation=0.5, test=0.5)
    data = load_dataset(write_samples(tmp_path / "few", samples=2))
    with pytest.raises(DatasetError, match="2 samples leave no batch to train on"):
        LocalSamples(data, read_pipeline(graph))
