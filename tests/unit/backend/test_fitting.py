"""Training in one's own process, with callbacks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.errors import DatasetError, GraphInvalidError
from backend.fitting import fit
from backend.formats.tensors import Array, pack_tensors
from backend.graph import Graph
from backend.reports import Metrics
from tests.unit.backend.test_training_settings import NOISE, overfitting, trained

ROOT = Path(__file__).parents[3]
X, Y = NOISE[0].astype(np.float32), NOISE[1]


def short(epochs: int = 3) -> Graph:
    task = overfitting()
    return replace(task, training=replace(task.training, epochs=epochs))


def test_listeners_hear_of_each_batch_each_epoch_and_the_end() -> None:
    batches: list[Metrics] = []
    epochs: list[Metrics] = []
    ends: list[Metrics] = []
    fitted = fit(short(), (X, Y), on_batch=batches.append, on_epoch=epochs.append, on_end=ends.append)
    assert [each.step for each in batches] == [1, 2, 3, 4, 5, 6]
    assert [each.step for each in epochs] == [2, 4, 6]
    assert all(each.validation for each in epochs)
    assert [each.test_accuracy for each in ends] == [fitted.history[-1].test_accuracy]
    (first, second), whole = batches[:2], epochs[0]
    assert whole.loss == pytest.approx((16 * first.loss + 14 * second.loss) / 30)


def test_the_weights_are_those_that_a_worker_would_train() -> None:
    worker = trained(short())
    worker.finish()
    ours = fit(short(), (X, Y)).model.weights
    assert all(np.array_equal(ours[name], each) for name, each in worker.result().weights.items())


def test_a_listener_ends_a_training() -> None:
    assert len(fit(short(), (X, Y), on_epoch=lambda metrics: metrics.epoch < 1).history) == 2
    assert fit(short(), (X, Y), on_batch=lambda metrics: False).history == ()


def test_data_that_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="labels from 0 to 7, the graph has classes 0 to 2"):
        fit(short(), (X, np.where(Y == 1, 7, 0)))
    with pytest.raises(DatasetError, match="60 samples and 59 labels"):
        fit(short(), (X, Y[:-1]))
    with pytest.raises(GraphInvalidError, match=r"sample_shape is .*6.*, the data has .*5"):
        fit(short(), (X[:, :5], Y))
    patient = replace(short(), training=replace(short().training, patience=2))
    with pytest.raises(GraphInvalidError, match="3 samples leave none for validation, which patience"):
        fit(patient, (X[:3], np.array([0, 1, 2])))
    whole = pack_tensors({"x": X, "y": Y.astype(np.int64)})
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError):
        fit(short(), tmp_path / "cut.safetensors")


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/examples/fit_in_python.py")]
    done = subprocess.run(
        [*script, str(ROOT / "scripts/examples/digits_mlp.json"), "bundled:digits"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "epoch 0: loss" in done.stdout
    assert "test accuracy 0.9" in done.stdout
    assert (tmp_path / "fitted.cyxmodel").exists()


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (X, Y + 0.5, "classes are whole numbers"),
        (np.where(X[0, 0] == X, np.nan, X), Y, "holds NaN"),
        (X.astype(np.float64) * 1e300, Y, "that float32 cannot hold"),
        (X.astype(str), Y, "no array of numbers"),
    ],
)
def test_arrays_that_would_be_read_wrong_are_refused(x: Array, y: Array, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        fit(short(), (x, y))
