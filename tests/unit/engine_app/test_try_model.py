"""The Engine's own copy of a model answers before anybody is paid to serve it, in a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine_app.owner import BackendOwner
from p2p.session.errors import EvaluationFailedError
from tests.e2e.serving.servers import linear_onnx

pytestmark = pytest.mark.slow


def test_what_a_model_answers_is_known_from_its_own_copy(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "linear.onnx")
    trial = trio.run(BackendOwner().try_model, tmp_path / "linear.onnx", tmp_path, 7)
    (given,), (logits, *_) = trial.inputs, trial.outputs
    assert (given.dtype, given.shape) == ("float32", (-1, 3))
    assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", (1, 2))
    assert len(logits.values) == 2 and not trial.untried


def test_a_file_that_no_runtime_opens_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"no model at all")
    with pytest.raises(EvaluationFailedError, match="is unknown"):
        trio.run(BackendOwner().try_model, tmp_path / "wrong.onnx", tmp_path, 7)
