"""Which runtime opens a file, what it answers, and what never gets as far as a runtime."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backend.errors import ArchiveError, DeadlineError, InputError
from backend.runtime.base import load_model


def onnx_file(
    path: Path, nodes: list[Any], *, weights: list[Any] | None = None, domains: tuple[str, ...] = ("",)
) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in nodes[-1].output]
    graph = helper.make_graph(nodes, "g", [x], ends, weights or [])
    opsets = [helper.make_opsetid(domain, 20 if not domain else 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_model_answers_all_outputs_by_name(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["x"], ["first", "second"], axis=1, num_outputs=2)
    model = load_model(onnx_file(tmp_path / "m", [split]), "cpu")
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.inputs] == [("x", "float32", (-1, 2))]
    answer = model.run({"x": np.array([[1, 2], [3, 4]], np.float32)}, time.monotonic() + 60)
    assert {name: array.ravel().tolist() for name, array in answer.items()} == {
        "first": [1, 3],
        "second": [2, 4],
    }
    assert model.facts.devices == ("CPUExecutionProvider",), "what really loaded"
    with pytest.raises(InputError, match="the model takes x"):
        model.run({"y": np.zeros((1, 2), np.float32)})
    with pytest.raises(InputError):
        model.run({"x": np.zeros((1, 3), np.float32)})


def classifier(path: Path, classes: list[Any]) -> Path:
    """As scikit-learn's converter writes one: a label, and a map of probabilities."""
    kind = "strings" if isinstance(classes[0], str) else "int64s"
    label, key = (TensorProto.STRING,) * 2 if kind == "strings" else (TensorProto.INT64,) * 2
    given = {f"classlabels_{'strings' if kind == 'strings' else 'ints'}": classes}
    weights = [1.0, 0.0, 0.0, 1.0, -1.0, -1.0]
    nodes = [
        helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=weights,
                         intercepts=[0.0] * 3, multi_class=1, post_transform="SOFTMAX", **given),
        helper.make_node("ZipMap", ["p"], ["probability"], domain="ai.onnx.ml",
                         **{f"classlabels_{kind}": classes}),
    ]  # fmt: skip
    rows = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("label", label, ["n"]),
            helper.make_value_info("probability", helper.make_sequence_type_proto(rows)),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("classes", [[0, 1, 2], ["a", "b", "c"]])
def test_a_classifier_of_scikit_learn_answers_in_numbers(classes: list[Any], tmp_path: Path) -> None:
    model = load_model(classifier(tmp_path / "m", classes), "cpu")
    x = np.array([[2, 0], [0, 1]], np.float32)
    answer = model.run({"x": x})
    scores = np.exp(x @ np.array([[1, 0, -1], [0, 1, -1]], np.float32))
    assert np.allclose(answer["probability"], scores / scores.sum(1, keepdims=True), atol=1e-6)
    if isinstance(classes[0], int):
        assert answer["label"].tolist() == [0, 1]
    else:
        assert answer.keys() == {"probability"}
        assert model.facts.runtime.endswith(", without label (tensor(string))")


def test_a_model_of_texts_is_refused_by_its_input(tmp_path: Path) -> None:
    encoder = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"],
                               values_floats=[1.0])  # fmt: skip
    onnx_file(tmp_path / "m", [encoder], domains=("", "ai.onnx.ml"))
    model = onnx.load(tmp_path / "m")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    model.opset_import[1].version = 3
    onnx.save(model, tmp_path / "m")
    with pytest.raises(ArchiveError, match=r"^input 'x' is tensor\(string\), served are float32"):
        load_model(tmp_path / "m", "cpu")


def test_a_run_stops_at_its_deadline(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("c2", 9, []), ("v2", 1, ["n", 2]))]
    starts = [
        helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("v", 1, ["n", 2]))
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "b",
        starts,
        ends,
    )
    always = numpy_helper.from_array(np.array(True), "always")
    loop = helper.make_node("Loop", ["", "always", "x"], ["y"], body=body)
    model = load_model(onnx_file(tmp_path / "m", [loop], weights=[always]), "cpu")
    with pytest.raises(DeadlineError):
        model.run({"x": np.zeros((1, 2), np.float32)}, time.monotonic())


def external() -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    return tensor


def test_what_could_reach_beyond_its_file_never_gets_to_onnxruntime(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    with pytest.raises(ArchiveError, match=r"its data is in another file.*onnx.save\(onnx.load"):
        load_model(onnx_file(tmp_path / "m", [add], weights=[external()]), "cpu")
    custom = helper.make_node("Evil", ["x"], ["y"], domain="com.evil")
    with pytest.raises(ArchiveError, match="evil"):
        load_model(onnx_file(tmp_path / "n", [custom], domains=("", "com.evil")), "cpu")


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 61) + b"x",
        struct.pack("<IQQ", 3, 1 << 40, 0),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 62),
    ],
)
def test_a_lying_gguf_never_gets_to_llama_cpp(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "m").write_bytes(b"GGUF" + rest)
    with pytest.raises(ArchiveError):
        load_model(tmp_path / "m", "cpu")


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"PK\x03\x04 something")
    with pytest.raises(ArchiveError, match="is unknown, models that answer are cyxmodel, onnx, gguf"):
        load_model(tmp_path / "m", "cpu")
