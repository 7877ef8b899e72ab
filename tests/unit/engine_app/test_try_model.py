"""The Engine's own copy of a model answers before anybody is paid to serve it, in a real worker."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import trio

from engine_app.owner import BackendOwner
from p2p.session.errors import EvaluationFailedError
from p2p.session.trial import Question
from p2p.session.trial_text import TOKENS
from tests.e2e.serving.servers import linear_onnx, write_onnx
from tests.e2e.serving.test_text_models import GGUF, real_model
from tests.e2e.serving.tiny_bert import WIDTH, write_bert

pytestmark = pytest.mark.slow
SEEDS = (7, 8, 9)


def test_what_a_model_answers_is_known_from_its_own_copy(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "linear.onnx")
    trial = trio.run(BackendOwner().try_model, tmp_path / "linear.onnx", tmp_path, SEEDS)
    (given,) = trial.inputs
    assert (given.dtype, given.shape) == ("float32", (1, 3))
    assert [question.seed for question in trial.questions] == list(SEEDS)
    for question in trial.questions:
        logits, *_ = question.outputs
        assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", (1, 2))
        assert len(logits.values) == 2 and not trial.untried
    assert len({question.outputs for question in trial.questions}) == 3


def tokens_onnx(path: Path, vocabulary: int) -> None:
    """The sum of rows of a table, and the largest of it: ids in, numbers and a choice out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = (np.arange(4 * vocabulary).reshape(vocabulary, 4) % 7).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["sums"], keepdims=0),
        helper.make_node("ArgMax", ["sums"], ["choice"], axis=1, keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])],
        [
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("choice", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))


@pytest.mark.parametrize(("vocabulary", "span"), [(2000, 1000), (30, 2)])
def test_ids_are_drawn_as_far_as_the_model_takes_them(tmp_path: Path, vocabulary: int, span: int) -> None:
    tokens_onnx(tmp_path / "tokens.onnx", vocabulary)
    trial = trio.run(BackendOwner().try_model, tmp_path / "tokens.onnx", tmp_path, SEEDS)
    assert ([info.shape for info in trial.inputs], trial.span) == ([(1, 16)], span)
    for question in trial.questions:
        sums, choice = sorted(question.outputs, key=lambda expected: -len(expected.values))
        assert choice.values == (float(np.argmax(sums.values)),)


def test_what_a_language_model_goes_on_with_is_known(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    model = real_model(GGUF) / f"{GGUF}.gguf"
    trial = trio.run(BackendOwner().try_model, model, tmp_path, SEEDS)
    assert not trial.inputs and not any(question.outputs for question in trial.questions)
    assert [len(question.tokens) for question in trial.questions] == [TOKENS] * 3
    assert len({question.tokens for question in trial.questions}) == 3
    again = trio.run(BackendOwner().try_model, model, tmp_path, SEEDS[:1])
    assert again.questions == (Question(7, tokens=trial.questions[0].tokens),)


def test_a_gguf_that_embeds_is_asked_for_that(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    write_bert(tmp_path / "bert.gguf", pooling=1)
    trial = trio.run(BackendOwner().try_model, tmp_path / "bert.gguf", tmp_path, SEEDS)
    assert not trial.inputs and len(trial.questions) == len(SEEDS)
    for question in trial.questions:
        (embedding,) = question.outputs
        assert (embedding.name, embedding.shape) == ("embedding", (WIDTH,)) and len(embedding.values) == WIDTH


def test_a_file_that_no_runtime_opens_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"no model at all")
    with pytest.raises(EvaluationFailedError, match="is unknown"):
        trio.run(BackendOwner().try_model, tmp_path / "wrong.onnx", tmp_path, SEEDS)


def fives_onnx(path: Path) -> None:
    """Takes numbers by fives, which its file does not say."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Reshape", ["x", "fives"], ["rows"]),
        helper.make_node("ReduceSum", ["rows"], ["y"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "fives",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([-1, 5]), "fives")],
    )
    write_onnx(path, made)


def test_a_model_that_refuses_its_questions_here_may_do_so_at_a_peer(tmp_path: Path) -> None:
    fives_onnx(tmp_path / "fives.onnx")
    trial = trio.run(BackendOwner().try_model, tmp_path / "fives.onnx", tmp_path, SEEDS)
    assert trial.untried.startswith("refuses the questions here, too: ") and not trial.questions


def test_a_file_says_all_that_its_model_takes_where_only_the_batch_is_open(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "linear.onnx")
    fives_onnx(tmp_path / "fives.onnx")
    (tmp_path / "wrong.onnx").write_bytes(b"no model at all")
    takes_all = {path.stem: BackendOwner().takes_all(path) for path in tmp_path.iterdir()}
    assert takes_all == {"linear": True, "fives": False, "wrong": False}
