"""Operators that hold graphs, or are of other domains than ONNX's own: kept as programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from backend.compiler import compile_graph
from backend.errors import (
    BackendError,
    DeadlineError,
    InputError,
    ModelImportError,
    ShapeMismatchError,
)
from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.onnx_write import program_of
from backend.formats.tensors import Array
from backend.graph import Graph
from backend.importing import foreign
from backend.inspection import inspect
from backend.onnx_node import OnnxNode, OnnxTensor, read_node, why_not_at_a_peer
from backend.runtime.base import load_model
from engine_app.document.view import title_of
from tests.unit.backend.catalogue_cases import graph_of, small_case
from tests.unit.backend.test_importing import imported, ints, model, real
from tests.unit.backend.test_onnx_operators import exported

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
ML = "ai.onnx.ml"
node = helper.make_node


def value(name: str, kind: int = FLOAT, shape: tuple[int | str, ...] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, Array] | None = None,
) -> onnx.GraphProto:
    held = [numpy_helper.from_array(each, name) for name, each in (constants or {}).items()]
    return helper.make_graph(nodes, "inner", inputs, outputs, held)


def of_domains(data: bytes, *domains: tuple[str, int]) -> bytes:
    found = onnx.load_from_string(data)
    for name, version in domains:
        found.opset_import.add(domain=name, version=version)
    again: bytes = found.SerializeToString()
    return again


# The weights w, the value h and the bound are read from around the loop's body; in0 is a name that our
# own could hide.
LOOP_BODY = graph(
    [
        node("MatMul", ["in0", "w"], ["a"]),
        node("Add", ["a", "h"], ["out0"]),
        node("Tanh", ["out0"], ["next"]),
        node("Identity", ["go_on"], ["still"]),
        node("ReduceMax", ["next", "last"], ["top"], keepdims=0),
    ],
    [value("turn", INT64, ()), value("go_on", BOOL, ()), value("in0")],
    [value("still", BOOL), value("next"), value("top")],
    {"last": ints(1)},
)
LOOP = model(
    [
        node("Relu", ["x"], ["h"]),
        node("Loop", ["turns", "", "x"], ["y", "tops"], name="the_loop", body=LOOP_BODY),
        node("Transpose", ["tops"], ["t"], perm=[1, 0]),
    ],
    {"turns": np.array(5, np.int64), "w": real(6, 6) / 4},
    ("n", 6),
    outputs=("y", "t"),
)
SCAN_BODY = graph(
    [
        node("Concat", ["h", "in"], ["hin"], axis=1),
        node("Gemm", ["hin", "w", "b"], ["gates"]),
        node("Split", ["gates"], ["i", "f", "o", "g"], axis=1, num_outputs=4),
        node("Sigmoid", ["i"], ["si"]), node("Sigmoid", ["f"], ["sf"]), node("Sigmoid", ["o"], ["so"]),
        node("Tanh", ["g"], ["tg"]),
        node("Mul", ["sf", "c"], ["kept"]), node("Mul", ["si", "tg"], ["new"]),
        node("Add", ["kept", "new"], ["c2"]),
        node("Tanh", ["c2"], ["tc"]),
        node("Mul", ["so", "tc"], ["h2"]),
        node("Identity", ["h2"], ["seen"]),
    ],
    [value("h"), value("c"), value("in")],
    [value("h2"), value("c2"), value("seen")],
)  # fmt: skip
SCAN = model(
    [
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Concat", ["n", "five"], ["state"], axis=0),
        node("ConstantOfShape", ["state"], ["zeros"]),
        node(
            "Scan", ["zeros", "zeros", "x"], ["h", "c", "y"], body=SCAN_BODY, num_scan_inputs=1,
            scan_input_axes=[1], scan_output_axes=[1],
        ),
    ],
    {"five": ints(5), "w": real(8, 20), "b": real(20)},
    ("n", 7, 3),
    outputs=("y", "h"),
)  # fmt: skip


def branches(then: list[onnx.NodeProto], other: list[onnx.NodeProto]) -> bytes:
    """Which one is taken does not depend on the samples."""
    inner: dict[str, Any] = {
        f"{name}_branch": graph(nodes, [], [value(nodes[-1].output[0])])
        for name, nodes in (("then", then), ("else", other))
    }
    return model(
        [
            node("Size", ["x"], ["size"]),
            node("Greater", ["size", "zero"], ["some"]),
            node("If", ["some"], ["y"], name="the_if", **inner),
        ],
        {"w": real(6, 6), "zero": np.array(0, np.int64)},
        ("n", 6),
    )


IF = branches([node("MatMul", ["x", "w"], ["a"])], [node("Neg", ["x"], ["b0"]), node("Exp", ["b0"], ["b"])])
FOREST_NUMBERS: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2],
    "nodes_featureids": [1, 0, 0, 3, 0, 0],
    "nodes_values": [0.25, 0.0, 0.0, -0.5, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
    "nodes_truenodeids": [1, 0, 0] * 2,
    "nodes_falsenodeids": [2, 0, 0] * 2,
}
LEAVES: dict[str, list[Any]] = {
    "treeids": [0, 0, 1, 1],
    "nodeids": [1, 2, 1, 2],
    "weights": [0.7, 0.3, 0.2, 0.5],
}
FOREST = (
    FOREST_NUMBERS | {f"class_{name}": each for name, each in LEAVES.items()} | {"class_ids": [0, 1, 2, 0]}
)


def forest(**labels: Any) -> onnx.NodeProto:
    return node("TreeEnsembleClassifier", ["x"], ["label", "p"], domain=ML, name="trees", **FOREST, **labels)


def table(**labels: Any) -> onnx.NodeProto:
    return node("ZipMap", ["p"], ["table"], domain=ML, **labels)


NAMES = ["cat", "dog", "fox"]
NAMED = of_domains(
    model(
        [forest(classlabels_strings=NAMES), table(classlabels_strings=NAMES)],
        {},
        ("n", 4),
        outputs=("label", "table"),
        kinds={"label": STRING},
    ),
    (ML, 3),
)
KEPT: dict[str, tuple[bytes, list[str]]] = {
    "loop": (LOOP, ["ReLU", "Loop", "Transpose"]),
    "scan": (SCAN, ["ConstantOfShape", "Scan"]),
    "if": (IF, ["If"]),
    "trees": (NAMED, ["TreeEnsembleClassifier"]),
    "numbers as classes": (
        of_domains(
            model(
                [forest(classlabels_int64s=[10, 20, 30])],
                {},
                ("n", 4),
                outputs=("p", "label"),
                kinds={"label": INT64},
            ),
            (ML, 3),
        ),
        ["TreeEnsembleClassifier"],
    ),
    "a regression of filled and scaled numbers": (
        of_domains(
            model(
                [
                    node("Imputer", ["x"], ["a"], domain=ML, imputed_value_floats=[0.5] * 4),
                    node("Scaler", ["a"], ["b"], domain=ML, offset=[0.1] * 4, scale=[2.0] * 4),
                    node("Normalizer", ["b"], ["c"], domain=ML, norm="L2"),
                    node(
                        "SVMRegressor", ["c"], ["d"], domain=ML, kernel_type="RBF", n_supports=2, rho=[0.1],
                        kernel_params=[0.5, 0.0, 3.0], coefficients=[1.0, -1.0],
                        support_vectors=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
                    ),
                    node("LinearRegressor", ["d"], ["y"], domain=ML, coefficients=[2.0], intercepts=[1.0]),
                ],
                {},
                ("n", 4),
            ),
            (ML, 1),
        ),
        ["Imputer", "Scaler", "Normalizer", "SVMRegressor", "LinearRegressor"],
    ),
    "texts between numbers": (
        of_domains(
            model(
                [
                    node("ArgMax", ["x"], ["a"], axis=1),
                    node(
                        "LabelEncoder", ["a"], ["b"], domain=ML, keys_int64s=[0, 1, 2, 3],
                        values_strings=["a", "b", "c", "d"],
                    ),
                    node(
                        "LabelEncoder", ["b"], ["y"], domain=ML, keys_strings=["a", "b", "c"],
                        values_floats=[0.5, 1.5, 2.5], default_float=-1.0,
                    ),
                ],
                {},
                ("n", 4),
            ),
            (ML, 2),
        ),
        ["ArgMax", "LabelEncoder"],
    ),
    "texts that are compared": (
        model(
            [
                node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
                node("Gather", ["names", "best"], ["text"]),
                node("Equal", ["text", "dog"], ["same"]),
                node("Cast", ["same"], ["y"], to=FLOAT),
            ],
            {"names": np.array(["cat", "dog", "fox", "owl"], object), "dog": np.array(["dog"], object)},
            ("n", 4),
        ),
        ["ArgMax", "Equal", "Cast"],
    ),
    "lists between tensors": (
        model(
            [
                node("SplitToSequence", ["x", "two"], ["s"], axis=1),
                node("SequenceAt", ["s", "last"], ["y"]),
            ],
            {"two": np.array(2, np.int64), "last": np.array(-1, np.int64)},
            ("n", 6),
        ),
        ["SequenceAt"],
    ),
    "an operator of onnxruntime": (
        of_domains(
            model([node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1.5)], {}),
            ("com.microsoft", 1),
        ),
        ["QuickGelu"],
    ),
}  # fmt: skip


def operators(found: Graph) -> list[str]:
    names = [str(each.parameters.get("operator", each.type)) for each in found.nodes]
    return [name for name in names if name not in ("Input", "Output")]


@pytest.mark.parametrize("name", KEPT)
def test_what_words_do_not_say_is_kept_as_a_program(name: str, tmp_path: Path) -> None:
    data, wanted = KEPT[name]
    found, certificate = imported(tmp_path, data)
    assert certificate is not None
    assert certificate.verdict == "equal"
    assert operators(found) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loop", "trees"])
def test_a_program_comes_back_in_an_onnx(name: str, tmp_path: Path) -> None:
    data, _ = KEPT[name]
    before, _ = imported(tmp_path, data)
    after = exported(tmp_path)
    (tmp_path / "again").mkdir()
    again, _ = imported(tmp_path / "again", after.SerializeToString())
    kept, found = ([each for each in it.nodes if each.parameters.get("program")] for it in (before, again))
    assert [each.parameters for each in found] == [each.parameters for each in kept]


def test_a_saved_model_with_a_loop_answers_as_its_file_and_ends_at_a_deadline(tmp_path: Path) -> None:
    imported(tmp_path, LOOP)
    runtime = load_model(tmp_path / "imported.cyxmodel", "cpu")
    x = real(5, 6)
    session = load_model(_written(tmp_path / "m.onnx", LOOP), "cpu")
    theirs = session.run({"x": x})
    found = runtime.run({runtime.inputs[0].name: x})
    assert np.allclose(found["y"], theirs["y"], 1e-5, 1e-5)
    with pytest.raises(DeadlineError):
        runtime.run({runtime.inputs[0].name: x}, 0.0)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_texts_beside_numbers_are_left_out_and_name_the_classes(tmp_path: Path) -> None:
    found, certificate = imported(tmp_path, NAMED)
    assert certificate is not None
    assert [each.id for each in found.nodes if each.type == "Output"] == ["table"]
    assert read_cyxmodel(tmp_path / "imported.cyxmodel").notes.class_names == (*NAMES,)


def test_where_there_are_only_texts_the_numbers_before_them_are_given(tmp_path: Path) -> None:
    nodes = [
        node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
        node("ArrayFeatureExtractor", ["names", "best"], ["text"], domain=ML),
    ]
    names = {"names": np.array([*NAMES, "owl"], object)}
    data = of_domains(model(nodes, names, ("n", 4), outputs=("text",), kinds={"text": STRING}), (ML, 1))
    found, certificate = imported(tmp_path, data)
    assert certificate is not None
    assert [each.id for each in found.nodes if each.type == "Output"] == ["best"]


def endless(*, turns: int = 1 << 62) -> bytes:
    body = graph(
        [node("Identity", ["go_on"], ["still"]), node("Identity", ["in"], ["out"])],
        [value("turn", INT64, ()), value("go_on", BOOL, ()), value("in")],
        [value("still", BOOL), value("out")],
    )
    loop = node("Loop", ["turns", "", "x"], ["y"], name="endless", body=body)
    return model([loop], {"turns": np.array(turns, np.int64)}, ("n", 6))


def test_a_loop_without_end_is_stopped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "LONGEST_TRIAL_S", 0.2)
    with pytest.raises(ModelImportError, match=r"'endless' \(Loop\): .* did not end within 0.2 s"):
        imported(tmp_path, endless())


def test_a_loop_without_end_over_constants_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "LONGEST_TRIAL_S", 0.2)
    data = onnx.load_from_string(endless())
    data.graph.node[0].input[2] = "start"
    data.graph.node[0].output[0] = "end"
    data.graph.node.append(node("Add", ["x", "end"], ["y"]))
    data.graph.initializer.append(numpy_helper.from_array(real(6), "start"))
    with pytest.raises(ModelImportError, match=r"'endless' .* did not end within"):
        imported(tmp_path, data.SerializeToString())


def nested(depth: int) -> bytes:
    """onnx itself makes none that is so deep: written byte by byte."""

    def held(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = held(1, held(4, b"Identity"))
    for _ in range(depth):
        attribute = held(1, b"then_branch") + held(6, inner) + bytes([20 << 3 & 0x7F | 0x80, 1, 5])
        inner = held(1, held(4, b"If") + held(5, attribute))
    return bytes([8, 9]) + held(7, inner) + held(8, bytes([16, 20]))


def test_graphs_that_are_too_deep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="more than 16 deep"):
        imported(tmp_path, nested(1000))


def test_branches_of_several_shapes_are_refused(tmp_path: Path) -> None:
    data = branches([node("Concat", ["x", "x"], ["a"], axis=1)], [node("Neg", ["x"], ["b"])])
    with pytest.raises(
        ModelImportError, match=r"'the_if' .* one branch gives float32 \(6,\), the other one float32 \(12,\)"
    ):
        imported(tmp_path, data)


def by_the_samples(batch: int | str) -> bytes:
    """As torch.cond is exported: which branch is taken, the samples say."""
    inner: dict[str, Any] = {
        "then_branch": graph([node("Neg", ["x"], ["a"])], [], [value("a")]),
        "else_branch": graph([node("MatMul", ["x", "w"], ["b"])], [], [value("b")]),
    }
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "high"], ["is_high"]),
        node("If", ["is_high"], ["y"], name="the_if", **inner),
    ]
    return model(nodes, {"w": real(6, 6), "high": np.array(1e9, np.float32)}, (batch, 6))


def test_a_branch_that_samples_choose_together_is_refused_though_no_trial_shows_it(tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match=r"If decide by the values of all .* --size n=1 takes one"):
        imported(tmp_path, by_the_samples("n"))


@pytest.mark.slow
def test_a_branch_that_each_sample_chooses_is_kept_for_one_at_a_time(tmp_path: Path) -> None:
    found, certificate = imported(tmp_path, by_the_samples(1))
    assert certificate is not None
    assert operators(found) == ["If"]
    runtime = load_model(tmp_path / "imported.cyxmodel", "cpu")
    x = np.stack([np.full(6, 1e9, np.float32), *real(2, 6)])
    (answers,) = runtime.run({runtime.inputs[0].name: x}).values()
    assert np.array_equal(answers[0], -x[0])
    assert not np.array_equal(answers[1], -x[1])
    after = exported(tmp_path)
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def turning(while_: str) -> bytes:
    """A loop that counts, and goes on while the count or the sample is below something."""
    body = graph(
        [
            node("Add", ["count", "one"], ["next"]),
            node("Tanh", ["in"], ["out"]),
            node("ReduceMax", ["out"], ["top"], keepdims=0),
            node("Less", [while_, "limit" if while_ == "top" else "three"], ["still"]),
        ],
        [value("turn", INT64, ()), value("go_on", BOOL, ()), value("count", INT64, ()), value("in")],
        [value("still", BOOL), value("next", INT64), value("out")],
    )
    constants = {
        "yes": np.array(True), "zero": np.array(0, np.int64), "one": np.array(1, np.int64),
        "three": np.array(3, np.int64), "limit": np.array(-2, np.float32),
    }  # fmt: skip
    return model([node("Loop", ["", "yes", "zero", "x"], ["n", "y"], body=body)], constants, ("n", 6))


def test_a_loop_that_counts_is_kept_and_one_that_looks_at_samples_is_not(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, turning("next"))
    assert operators(found) == ["Loop"]
    with pytest.raises(ModelImportError, match="Loop decide by the values"):
        imported(tmp_path, turning("top"))


def test_what_is_drawn_at_random_inside_a_graph_is_refused(tmp_path: Path) -> None:
    data = branches([node("RandomNormalLike", ["x"], ["a"])], [node("Neg", ["x"], ["b"])])
    with pytest.raises(ModelImportError, match="draws at random, by RandomNormalLike"):
        imported(tmp_path, data)


def test_functions_of_a_file_are_unfolded(tmp_path: Path) -> None:
    data = onnx.load_from_string(model([node("Twice", ["x"], ["y"], domain="own")], {}, ("n", 6)))
    inside = [node("Add", ["a", "a"], ["b"]), node("Relu", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 20)]
    data.functions.append(helper.make_function("own", "Twice", ["a"], ["c"], inside, opsets))
    data.opset_import.add(domain="own", version=1)
    found, _ = imported(tmp_path, data.SerializeToString())
    assert operators(found) == ["Add", "ReLU"]


def test_numbers_inside_a_function_stand_for_the_texts_that_it_gives(tmp_path: Path) -> None:
    names = numpy_helper.from_array(np.array([*NAMES, "owl"], object), "names")
    inside = [
        node("Constant", [], ["names"], value=names),
        node("ArgMax", ["a"], ["best"], axis=1, keepdims=0),
        node("ArrayFeatureExtractor", ["names", "best"], ["c"], domain=ML),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ML, 1)]
    named = model([node("Named", ["x"], ["y"], domain="own")], {}, ("n", 4), kinds={"y": STRING})
    data = onnx.load_from_string(of_domains(named, ("own", 1), (ML, 1)))
    data.functions.append(helper.make_function("own", "Named", ["a"], ["c"], inside, opsets))
    found, certificate = imported(tmp_path, data.SerializeToString())
    assert certificate is not None
    assert operators(found) == ["ArgMax"]


def test_a_name_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    data = model([node("Neg", ["x"], ["nameless"]), node("Det", ["nameless"], ["y"])], {}, ("n", 6))
    with pytest.raises(ModelImportError, match=r"is named b'\\xffameless', no UTF-8"):
        imported(tmp_path, data.replace(b"nameless", b"\xffameless"))


def test_texts_as_inputs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    data = model([node("Identity", ["x"], ["y"])], {}, ("n", 1), STRING)
    with pytest.raises(ModelImportError, match=r"input 'x' is texts, .* convert the model from where"):
        imported(tmp_path, data)


# -- hostile parameters ------------------------------------------------------------------------------

X = OnnxTensor("float32", (2,))
PROGRAM = OnnxNode("Loop", 20, {}, (X,), (X,), program=40)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"program": 0}, "which only a program may"),
        ({"attributes": '{"axis": 1}'}, "beside it none"),
        ({"steps": '[["Abs", {}, ["in0"], ["out0"]]]'}, "beside it none"),
        ({"domains": '{"own": 1}'}, "allowed are ai.onnx.ml, com.microsoft"),
        ({"domains": '{"ai.onnx.ml": 0}'}, "1 to 64"),
        ({"domains": "[" * 250}, "domains"),
        ({"operator": "own::Op"}, "the name of an ONNX operator"),
    ],
)
def test_parameters_that_are_none_are_refused(changed: dict[str, Any], reason: str) -> None:
    assert read_node(PROGRAM.parameters) == PROGRAM
    with pytest.raises(ShapeMismatchError, match=reason):
        read_node(PROGRAM.parameters | changed)


EXTERNAL = onnx.TensorProto(name="t", data_type=FLOAT, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
EXTERNAL.external_data.add(key="location", value="../../etc/passwd")


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (None, "are not loaded"),
        (node("If", ["in0"], ["out0"]), "ONNX operator Loop"),
        (node("Constant", [], ["out0"], value=EXTERNAL), "data is in another file"),
        (node("Op", ["in0"], ["out0"], domain="own"), "not built in"),
        (node("RandomNormalLike", ["in0"], ["out0"]), "draws at random, by RandomNormalLike"),
        (node("Identity", ["elsewhere"], ["out0"]), "ONNX operator Loop"),
    ],
)
def test_a_hostile_program_reaches_no_runtime(proto: onnx.NodeProto | None, reason: str) -> None:
    """A stranger's .cyxmodel brings any bytes it likes."""
    program = bytes(9) if proto is None else program_of([proto.SerializeToString()])
    lying = replace(PROGRAM, program=len(program))
    found = compile_graph(
        graph_of(replace(small_case("OnnxOperator"), given=lying.parameters, shapes=((2,),)))
    )
    found.module.load_state_dict({"node.program": torch.frombuffer(bytearray(program), dtype=torch.uint8)})
    with pytest.raises(InputError, match=reason):
        found.module(torch.ones(3, 2))


def test_no_peer_is_asked_to_train_a_program(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, IF)
    assert "is an operator of an ONNX model" in why_not_at_a_peer(found)


def test_the_title_of_an_operator_is_its_name_in_onnx(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, SCAN)
    assert [title_of(each) for each in found.nodes] == [
        "Input",
        "ConstantOfShape",
        "Scan",
        "Output",
        "Output",
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LOOP, "onnxruntime: cyxwiz serve; cyxwiz import, as a graph"),
        (NAMED, "onnxruntime: cyxwiz serve; cyxwiz import, as a graph"),
        (
            branches([node("RandomNormalLike", ["x"], ["a"])], [node("Neg", ["x"], ["b"])]),
            "onnxruntime: cyxwiz serve; no graph: RandomNormalLike draws at random",
        ),
        (
            model([node("Identity", ["x"], ["y"])], {}, ("n", 1), STRING),
            "onnxruntime: cyxwiz serve; no graph: its input 'x' is texts",
        ),
    ],
)
def test_inspect_says_what_opens_as_a_graph(data: bytes, says: str, tmp_path: Path) -> None:
    found = inspect(_written(tmp_path / "m.onnx", data))
    assert (found.kind, found.runs_in) == ("ONNX model", says)
