from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from backend import disk_rows
from backend.datasets import Dataset, StreamedDataset, load_dataset, open_dataset
from backend.errors import DatasetError
from backend.formats.cyxmodel import CyxModel
from backend.formats.tensors import pack_tensors
from backend.pipeline import read_pipeline
from backend.read_ahead import ReadAhead
from backend.reports import Metrics
from backend.sample_plan import TEST, Window
from backend.samples import LocalSamples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from tests.unit.backend.make_samples import SHAPE, small_graph, write_samples

PIPELINE = read_pipeline(small_graph())


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def streamed(path: Path) -> StreamedDataset:
    found = open_dataset(path, 100)
    assert isinstance(found, StreamedDataset) and isinstance(found.x, disk_rows.DiskRows)
    return found


def write_floats(path: Path, x: np.ndarray) -> Path:
    path.write_bytes(pack_tensors({"x": x, "y": np.arange(len(x), dtype=np.int64) % 3}))
    return path


@pytest.mark.parametrize("bridged", [0, 100])
@pytest.mark.parametrize("buffer", [1, 200, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_rows_are_those_of_the_array_whatever_is_read_at_once(
    tmp_path: Path, dtype: str, buffer: int, bridged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_rows, "BUFFER_BYTES", buffer)
    monkeypatch.setattr(disk_rows, "_BRIDGED_BYTES", bridged)
    path = write_samples(tmp_path / "d", dtype=dtype)
    rows, whole = streamed(path).x, load_dataset(path).x
    assert (len(rows), rows.shape, rows.dtype) == (101, whole.shape, whole.dtype)
    for indices in ([], [100], [0, 1, 2], [7, 3, 7, 100, 0], np.random.RandomState(0).permutation(101)):
        found = rows.take(np.array(indices, np.int64), axis=0)
        assert np.array_equal(found, whole[np.array(indices, np.int64)])
        assert found.flags.writeable


def test_no_more_is_read_at_once_than_the_buffer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_rows, "BUFFER_BYTES", 480)
    rows = streamed(write_samples(tmp_path / "d")).x
    sizes: list[int] = []
    preadv = os.preadv

    def noted(file: int, buffers: list[memoryview], at: int) -> int:
        sizes.append(sum(map(len, buffers)))
        return preadv(file, buffers, at)

    monkeypatch.setattr(os, "preadv", noted)
    rows.take(np.arange(101), axis=0)
    assert sizes == [480] * 10 + [48]


def test_what_fits_is_read_at_once(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "d")
    assert isinstance(open_dataset(path, 101 * 48), Dataset)
    found = open_dataset(path, 101 * 48 - 1)
    assert isinstance(found.x, disk_rows.DiskRows) and isinstance(found.y, np.ndarray)


def test_targets_with_axes_of_their_own_stay_on_disk_too(tmp_path: Path) -> None:
    y = np.random.RandomState(0).rand(10, 30).astype(np.float32)
    path = tmp_path / "d"
    path.write_bytes(pack_tensors({"x": np.zeros((10, 2), np.float32), "y": y}))
    found = open_dataset(path, 100)
    assert isinstance(found.x, np.ndarray) and isinstance(found.y, disk_rows.DiskRows)
    assert np.array_equal(found.y.take(np.array([9, 0])), y[[9, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused_where_it_is_read(tmp_path: Path, bad: float) -> None:
    x = np.zeros((60, *SHAPE), np.float32)
    x[30, 1, 5] = bad
    rows = streamed(write_floats(tmp_path / "d", x)).x
    assert len(rows.take(np.arange(30), axis=0)) == 30
    with pytest.raises(DatasetError, match="x holds NaN or infinity"):
        rows.take(np.array([1, 30]), axis=0)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_floats(tmp_path / "d", np.zeros((60, *SHAPE), np.float32))
    rows = streamed(path).x
    whole = path.stat().st_size
    os.truncate(path, whole - 7)
    with pytest.raises(DatasetError, match=f"data file ends at byte {whole - 7}, 7 bytes are missing"):
        rows.take(np.arange(60), axis=0)


@pytest.mark.parametrize("method", ["mean_std", "scale"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_training_from_disk_gives_the_same_bits_and_goes_on_from_a_checkpoint(
    tmp_path: Path, dtype: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.datasets._SCALED_VALUES", 100)
    path = write_samples(tmp_path / "data", dtype=dtype)
    graph = dump_graph(small_graph(normalization=method))
    pipeline = read_pipeline(small_graph(normalization=method))

    def trainer(dataset: Dataset | StreamedDataset, checkpoint: CyxModel | None = None) -> Trainer:
        config = TrainingConfig("cpu", 4, 1e9, lambda: 0.0)
        return Trainer(graph, LocalSamples(dataset, pipeline), config, checkpoint)

    def run(one: Trainer, segments: range) -> list[Metrics]:
        reports: list[Metrics] = []
        for segment in segments:
            one.run_segment(segment, Unhindered(), reports.append)
        return reports

    def bits(one: Trainer) -> tuple[Metrics, dict[str, bytes]]:
        metrics = one.finish()
        return metrics, {name: array.tobytes() for name, array in one.result().weights.items()}

    whole, rows, first = (trainer(load(path)) for load in (load_dataset, streamed, streamed))
    assert run(whole, range(4)) == run(rows, range(4))
    run(first, range(2))
    second = trainer(streamed(path), first.checkpoint(2))
    run(second, range(2, 4))
    assert bits(whole) == bits(rows) == bits(second)


def test_a_part_is_written_from_disk(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "data")
    samples = LocalSamples(streamed(path), PIPELINE)
    samples.write_part(TEST, tmp_path / "test")
    assert np.array_equal(load_dataset(tmp_path / "test").x, load_dataset(path).x[samples.order(TEST, 0)])


def test_planned_windows_are_read_ahead_and_others_when_they_are_asked_for() -> None:
    first, second, other = (Window("train", 0, at, 2) for at in (0, 2, 4))
    asked: list[Window] = []
    begun, may_end = threading.Event(), threading.Event()

    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        asked.append(window)
        if window == second:
            begun.set()
            may_end.wait(10)
            raise DatasetError("the disk is gone")
        rows = np.arange(window.first, window.first + window.count)
        return rows, rows

    ahead = ReadAhead(read, iter((first, second)))
    assert ahead.take(first)[0].tolist() == [0, 1]
    assert begun.wait(10) and asked == [first, second]  # nobody has taken the second yet
    may_end.set()
    assert ahead.take(other)[0].tolist() == [4, 5]
    with pytest.raises(DatasetError, match="the disk is gone"):
        ahead.take(second)
    assert ahead.take(first)[0].tolist() == [0, 1]
    assert asked == [first, second, other, first]
