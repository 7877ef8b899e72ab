"""Operators that no node stands for: kept as they are, run by onnxruntime, and given back bit for bit."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from backend.compiler import compile_graph
from backend.errors import DeadlineError, ExportError, InputError, ModelImportError, ShapeMismatchError
from backend.exporting.export import export_model
from backend.exporting.messages import Export, ExportOptions
from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.tensors import Array
from backend.graph import Body, Frozen, Graph, Link, Node
from backend.onnx_node import (
    AttributeTensor,
    EmptyList,
    OnnxNode,
    OnnxTensor,
    load_attributes,
    read_node,
    why_not_at_a_peer,
)
from backend.runtime.base import load_model
from backend.serialize import load_graph
from backend.validate import diagnose, has_errors
from tests.unit.backend.catalogue_cases import graph_of, inner, small_case, walk_graph
from tests.unit.backend.model_files import save
from tests.unit.backend.test_importing import imported, ints, model, one, real

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def exported(folder: Path) -> onnx.ModelProto:
    order = Export("imported.cyxmodel", ExportOptions("onnx"))
    answer, certificate = export_model(order, folder, lambda stage: None)
    assert certificate.verdict == "equal"
    found = onnx.load(folder / answer.file)
    onnx.checker.check_model(found)
    return found


def essence(graph: onnx.GraphProto) -> list[tuple[Any, ...]]:
    """Of each node what it is: its attributes byte for byte, and its constants' values."""
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return [
        (
            node.op_type,
            node.domain,
            sorted(each.SerializeToString(deterministic=True) for each in node.attribute),
            [held[name].tobytes() if name in held else bool(name) for name in node.input],
            [bool(name) for name in node.output],
        )
        for node in graph.node
    ]


KEPT: dict[str, bytes] = {
    "one attribute": one("Hardmax", axis=2),
    "weights": one("ConvTranspose", real(4, 3, 3, 3), output_shape=[12, 12], strides=[2, 2]),
    "several outputs": model(
        [helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1, largest=0)],
        {"k": ints(2)},
        outputs=("v", "i"),
        kinds={"i": INT64},
    ),
    "inputs and outputs that are left out": model(
        [
            helper.make_node("Resize", ["x", "", "s"], ["a"], mode="nearest", nearest_mode="floor"),
            helper.make_node("LayerNormalization", ["a", "w"], ["y", "", "d"], axis=3, epsilon=0.1),
        ],
        {"s": np.array([1, 1, 2, 2], np.float32), "w": real(1)},
        outputs=("y", "d"),
    ),
    "whole numbers and truths between": model(
        [
            helper.make_node("ArgMax", ["x"], ["a"], axis=1),
            helper.make_node("Equal", ["a", "three"], ["b"]),
            helper.make_node("Not", ["b"], ["c"]),
            helper.make_node("Where", ["c", "x", "z"], ["y"]),
        ],
        {"three": ints(3), "z": np.array(0.5, np.float32)},
    ),
    "texts and lists as attributes": model(
        [
            helper.make_node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
            helper.make_node("QuantizeLinear", ["a", "s", "zero"], ["b"]),
            helper.make_node("DequantizeLinear", ["b", "s", "zero"], ["y"], axis=1),
        ],
        {"s": np.array(0.1, np.float32), "zero": np.array(3, np.uint8)},
    ),
    "double precision": model(
        [
            helper.make_node("Cast", ["x"], ["a"], to=TensorProto.DOUBLE),
            helper.make_node("Add", ["a", "a"], ["b"]),
            helper.make_node("Cast", ["b"], ["y"], to=FLOAT),
        ],
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    before = onnx.load_from_string(KEPT[name])
    graph, certificate = imported(tmp_path, KEPT[name])
    assert certificate is not None
    assert certificate.verdict == "equal"
    kept = [node for node in graph.nodes if node.type == "OnnxOperator"]
    assert len(kept) == len(before.graph.node)
    after = exported(tmp_path)
    assert essence(after.graph) == essence(before.graph)
    (tmp_path / "again").mkdir()
    again, _ = imported(tmp_path / "again", after.SerializeToString())
    assert [node.parameters for node in again.nodes if node.type == "OnnxOperator"] == [
        node.parameters for node in kept
    ]


TOGETHER: dict[str, list[onnx.NodeProto]] = {
    "the batch behind the steps": [
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        helper.make_node("CumSum", ["a", "zero"], ["b"], name="last"),
        helper.make_node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
    ],
    "heads within the batch": [
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["b", "a"], ["c"]),
        helper.make_node("Reshape", ["c", "back"], ["y"]),
    ],
    "a mask as large as the batch": [
        helper.make_node("Shape", ["x"], ["a"]),
        helper.make_node(
            "ConstantOfShape", ["a"], ["b"], value=numpy_helper.from_array(np.ones(1, np.float32))
        ),
        helper.make_node("Trilu", ["b"], ["c"], upper=0),
        helper.make_node("Mul", ["c", "x"], ["y"]),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_operators_that_part_samples_only_together_are_kept_together(name: str, tmp_path: Path) -> None:
    constants = {"zero": np.array(0, np.int64), "flat": ints(-1, 2, 6), "back": ints(-1, 2, 6, 6)}
    data = model(TOGETHER[name], constants, ("n", 4, 6))
    graph, certificate = imported(tmp_path, data)
    assert certificate is not None
    assert certificate.verdict == "equal"
    inner = ["OnnxOperator", "OnnxOperator", "Multiply"] if "mask" in name else ["OnnxOperator"]
    assert [node.type for node in graph.nodes] == ["Input", *inner, "Output"]
    before, after = onnx.load_from_string(data).graph, exported(tmp_path).graph
    assert [row[:3] for row in essence(after)] == [row[:3] for row in essence(before)]


def test_a_reshape_that_asks_for_the_size_of_the_batch_can_be_trained(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["a"], start=0, end=1),
        helper.make_node("Concat", ["a", "rest"], ["b"], axis=0),
        helper.make_node("Reshape", ["x", "b"], ["y"]),
    ]
    graph, certificate = imported(tmp_path, model(nodes, {"rest": ints(6, 24)}))
    assert certificate is not None
    assert [node.type for node in graph.nodes] == ["Input", "Reshape", "Output"]


def test_the_second_part_of_a_shape_is_not_taken_for_the_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["a"]),
        helper.make_node("Split", ["a", "two"], ["b", "c"], axis=0),
        helper.make_node("Concat", ["c", "b"], ["d"], axis=0),
        helper.make_node("Reshape", ["x", "c"], ["e"]),
        helper.make_node("Reshape", ["x", "b"], ["y"]),
    ]
    with pytest.raises(ModelImportError):
        imported(tmp_path, model(nodes, {"two": ints(2, 2)}, outputs=("y", "e")))
    nodes[3] = helper.make_node("Concat", ["b", "c"], ["e"], axis=0)
    nodes[4] = helper.make_node("Reshape", ["x", "e"], ["y"])
    graph, certificate = imported(tmp_path, model(nodes, {"two": ints(2, 2)}))
    assert certificate is not None
    assert [node.type for node in graph.nodes] == ["Input", "Reshape", "Output"]


def test_more_than_so_many_operators_are_not_kept_together(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["v0"], perm=[1, 0], name="first")]
    nodes += [helper.make_node("Softsign", [f"v{n}"], [f"v{n + 1}"]) for n in range(64)]
    nodes += [helper.make_node("Transpose", ["v64"], ["y"], perm=[1, 0])]
    with pytest.raises(ModelImportError, match="with 64 nodes before it, limit 64"):
        imported(tmp_path, model(nodes, {}, ("n", 3)))


@pytest.mark.slow
def test_an_operator_of_an_older_set_is_brought_to_that_of_the_file(tmp_path: Path) -> None:
    data = model([helper.make_node("ReduceSum", ["x"], ["y"], axes=[2], keepdims=0)], {}, opset=11)
    imported(tmp_path, data)
    after = exported(tmp_path)
    (node,) = after.graph.node
    assert (node.op_type, [each.name for each in node.attribute]) == ("ReduceSum", ["keepdims"])
    assert [numpy_helper.to_array(each).tolist() for each in after.graph.initializer] == [[2]]


@pytest.mark.slow
def test_an_operator_that_the_file_cannot_have_is_refused_by_its_node(tmp_path: Path) -> None:
    imported(tmp_path, model([helper.make_node("Softmax", ["x"], ["y"], name="old")], {}, opset=11))
    with pytest.raises(ExportError, match=r"node 'old' \(OnnxOperator\): .* Softmax of operator set 11"):
        exported(tmp_path)


def test_a_model_with_kept_operators_is_served(tmp_path: Path) -> None:
    imported(tmp_path, KEPT["several outputs"])
    runtime = load_model(tmp_path / "imported.cyxmodel", "cpu")
    x = real(5, 4, 6, 6)
    answers = runtime.run({runtime.inputs[0].name: x})
    assert np.array_equal(answers["v"], np.sort(x, 1)[:, :2])
    assert answers["i"].dtype == np.int64
    with pytest.raises(DeadlineError, match="reached its deadline"):
        runtime.run({runtime.inputs[0].name: x}, time.monotonic() - 1)
    in_time = runtime.run({runtime.inputs[0].name: x}, time.monotonic() + 600)
    assert np.array_equal(in_time["v"], answers["v"]), "and the model goes on"


def test_ids_that_only_operators_read_reach_a_table(tmp_path: Path) -> None:
    table = np.arange(100, dtype=np.int8).reshape(50, 2)
    nodes = [helper.make_node("Gather", ["t", "x"], ["a"]), helper.make_node("Cast", ["a"], ["y"], to=FLOAT)]
    graph, _ = imported(tmp_path, model(nodes, {"t": table}, ("n", 3), INT64))
    assert graph.node("x").parameters["vocabulary"] == 50
    found = read_cyxmodel(tmp_path / "imported.cyxmodel").weights
    assert [each.dtype for each in found.values()] == [np.int8]
    runtime = load_model(tmp_path / "imported.cyxmodel", "cpu")
    (answer,) = runtime.run({runtime.inputs[0].name: np.array([[0, 49, 7]])}).values()
    assert np.array_equal(answer, table[[[0, 49, 7]]].astype(np.float32))


def test_a_constant_of_too_many_numbers_is_never_made(tmp_path: Path) -> None:
    """A file of some 70 bytes can ask for 10^11 floats."""
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["a"], name="greedy"),
        helper.make_node("Add", ["x", "a"], ["y"]),
    ]
    with pytest.raises(ModelImportError, match=r"'greedy' .* a constant of 4e\+11 bytes, limit"):
        imported(tmp_path, model(nodes, {"many": ints(10**11)}))


def test_an_operator_that_gives_too_many_numbers_is_not_tried(tmp_path: Path) -> None:
    nodes = [helper.make_node("Expand", ["x", "many"], ["y"])]
    with pytest.raises(ModelImportError, match=r"gives 1.*e\+12 bytes, limit"):
        imported(tmp_path, model(nodes, {"many": ints(1, 10**11, 1)}, ("n", 1, 1)))


# -- training ----------------------------------------------------------------------------------------


def around(frozen: bool) -> Graph:
    """A graph to train, whose only weights beside the head are before the operator."""
    graph = walk_graph(small_case("OnnxOperator"))
    before = Node("before", "LayerNorm", tuning=Frozen() if frozen else None)
    links = [
        replace(link, target_node="before", target_port="input") if link.target_node == "node" else link
        for link in graph.links
    ]
    return replace(
        graph, nodes=(*graph.nodes, before), links=(*links, Link("before", "output", "node", "inputs"))
    )


def test_what_is_behind_an_operator_can_be_trained() -> None:
    assert not has_errors(diagnose(walk_graph(small_case("OnnxOperator"))))


def test_weights_before_an_operator_must_be_frozen() -> None:
    (found,) = diagnose(around(frozen=False))
    assert (found.node_id, "freeze what is before it: 'before'" in found.text) == ("node", True)
    assert not has_errors(diagnose(around(frozen=True)))


def test_weights_beside_an_operator_inside_a_node_must_be_frozen_too() -> None:
    case = small_case("OnnxOperator")
    inside = inner(Node("norm", "LayerNorm"), Node("op", case.type, 1, dict(case.given)))
    graph = walk_graph(case)
    nodes = tuple(
        Node("node", "Subgraph", body=inside) if node.id == "node" else node for node in graph.nodes
    )
    links = tuple(
        replace(link, target_port="input") if link.target_node == "node" else link for link in graph.links
    )
    found = diagnose(replace(graph, nodes=nodes, links=links))
    assert [(each.node_id, "no gradient passes" in each.text) for each in found] == [("node", True)]


def test_no_peer_is_asked_to_train_an_operator() -> None:
    graph = walk_graph(small_case("OnnxOperator"))
    assert why_not_at_a_peer(graph).startswith("node 'node' is an operator of an ONNX model")
    hidden = Node("outer", "Repeat", body=Body((graph.node("node"),)))
    assert why_not_at_a_peer(Graph("g", (hidden,)))
    assert why_not_at_a_peer(walk_graph(small_case("Dense"))) == ""


# -- hostile parameters ------------------------------------------------------------------------------

X = OnnxTensor("float32", (2,))
GOOD = OnnxNode("Hardmax", 20, {"axis": 1}, (X,), (X,))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"operator": "Loop"}, "holds graphs"),
        ({"operator": "own::Op"}, "the name of an ONNX operator"),
        ({"operator": "Ein\nsum"}, "the name of an ONNX operator"),
        ({"attributes": "[]"}, "a JSON object"),
        ({"attributes": '{"axis": null}'}, "'axis' must be"),
        ({"attributes": '{"axis": true}'}, "'axis' must be"),
        ({"attributes": '{"axis": 1e999}'}, "'axis' must be"),
        ({"attributes": '{"axis": NaN}'}, "'axis' must be"),
        ({"attributes": '{"axis": 9223372036854775808}'}, "'axis' must be"),
        ({"attributes": '{"axes": [1, 2.0]}'}, "'axes' must be"),
        ({"attributes": '{"axes": []}'}, "'axes' must be"),
        ({"attributes": r'{"text": "\ud800"}'}, "'text' must be"),
        ({"attributes": r'{"texts": ["a", "\udfff"]}'}, "'texts' must be"),
        ({"attributes": r'{"\ud800": 1}'}, "a name that no file can hold"),
        ({"attributes": '{"g": {"graph": 1}}'}, "'g' must be"),
        ({"attributes": '{"t": {"tensor": "float32", "shape": [3], "values": [1]}}'}, "'t' must be"),
        ({"attributes": '{"t": {"tensor": "string", "shape": [1], "values": [1]}}'}, "'t' must be"),
        ({"attributes": "[" * 60_000}, "attributes"),
        ({"inputs": "[" * 60_000}, "inputs"),
        ({"inputs": "[]"}, "needs an input that flows"),
        ({"outputs": "[null]"}, "needs an input that flows and an output"),
        ({"inputs": '[{"type":"string","shape":[2]}]'}, "inputs"),
        ({"inputs": '[{"type":"float32","shape":[-1]}]'}, "is shaped"),
        ({"inputs": '[{"type":"float32","shape":[4294967296,4294967296]}]'}, "is shaped"),
        ({"inputs": '[{"type":"float32","shape":[2],"kind":"values","values":[1]}]'}, "must have 2"),
        ({"inputs": '[{"type":"int8","shape":[1],"kind":"values","values":[200]}]'}, "no int8"),
        ({"inputs": '[{"type":"float16","shape":[1],"kind":"values","values":[1e9]}]'}, "no float16"),
        ({"inputs": '[{"type":"float32","shape":[2],"path":"/etc/passwd"}]'}, "unknown field"),
        ({"outputs": '[{"type":"float32","shape":[2],"kind":"weights"}]'}, "what an operator gives flows"),
        ({"steps": "{}"}, "a JSON list"),
        ({"steps": "[" * 60_000}, "steps"),
        ({"steps": "[[]]"}, "must be"),
        ({"steps": '[["Loop", {}, ["in0"], ["out0"]]]'}, "holds graphs"),
        ({"steps": '[["Abs", {"a": null}, ["in0"], ["out0"]]]'}, "'a' must be"),
        ({"steps": '[["Abs", {}, ["in1"], ["out0"]]]'}, "takes .'in1'"),
        ({"steps": '[["Abs", {}, ["v0"], ["out0"]]]'}, "takes .'v0'"),
        ({"steps": '[["Abs", {}, ["in0"], ["in0"]]]'}, "gives .'in0'. again"),
        ({"steps": '[["Abs", {}, ["in0"], ["v0"]]]'}, "nothing gives"),
        ({"steps": '[["Abs", {}, ["../x"], ["out0"]]]'}, "must be"),
        ({"steps": "[" + ",".join(['["Abs", {}, ["in0"], [""]]'] * 65) + "]"}, "at most 64"),
        ({"inputs": "[" + ",".join(["null"] * 65) + "]"}, "65, limit 64"),
    ],
)
def test_parameters_that_are_none_are_refused(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(ShapeMismatchError, match=reason):
        read_node(GOOD.parameters | changed)


def test_attributes_are_read_as_they_are_written() -> None:
    given = {
        "i": -(2**63), "f": 0.1, "s": "é", "is": [1, 2], "fs": [1.0, 2.5], "ss": ["a"],
        "none": EmptyList("floats"), "t": AttributeTensor("bool", (1, 2), (0, 1)),
    }  # fmt: skip
    node = replace(GOOD, attributes=given)
    assert read_node(node.parameters) == node
    assert load_attributes(node.parameters["attributes"]) == given


def test_answers_of_another_shape_than_the_node_says_are_refused() -> None:
    """A stranger's graph may lie about what comes out of an operator."""
    lying = replace(GOOD, operator="Concat", inputs=(X, X), outputs=(X,))
    graph = graph_of(replace(small_case("OnnxOperator"), given=lying.parameters, shapes=((2,), (2,))))
    module = compile_graph(graph).module
    with pytest.raises(InputError, match=r"gives float32 \(3, 4\), it was taken over for float32 \(3, 2\)"):
        module(torch.ones(3, 2), torch.ones(3, 2))


def test_an_operator_that_onnxruntime_does_not_have_is_an_error_of_the_input() -> None:
    lying = replace(GOOD, operator="Hardmacs")
    module = compile_graph(
        graph_of(replace(small_case("OnnxOperator"), given=lying.parameters, shapes=((2,),)))
    ).module
    with pytest.raises(InputError, match="ONNX operator Hardmacs: "):
        module(torch.ones(1, 2))


def test_loaded_weights_count_also_after_a_first_answer() -> None:
    held = OnnxTensor("float32", (65, 2), "weights")
    node = OnnxNode("MatMul", 20, {}, (OnnxTensor("float32", (65,)), held), (X,))
    given = replace(small_case("OnnxOperator"), given=node.parameters, shapes=((65,),))
    module = compile_graph(graph_of(given)).module
    x = torch.ones(1, 65)
    assert module(x).tolist() == [[0.0, 0.0]]
    module.load_state_dict({"node.input1": torch.ones(65, 2)})
    assert module(x).tolist() == [[65.0, 65.0]]


def weights_of(path: Path) -> dict[str, Array]:
    return dict(read_cyxmodel(path).weights)


def test_imported_graphs_can_be_read_again(tmp_path: Path) -> None:
    graph, _ = imported(tmp_path, KEPT["weights"])
    assert load_graph(read_cyxmodel(tmp_path / "imported.cyxmodel").graph) == graph
    assert list(weights_of(tmp_path / "imported.cyxmodel")) == ["op.input1"]


@pytest.mark.slow
def test_ends_may_be_called_as_torch_calls_what_is_inside(tmp_path: Path) -> None:
    nodes = (
        Node("relu", "Input", 1, {"shape": [3]}),
        Node("node", "ReLU"),
        Node("half", "Lambda", 1, {"expression": "x1 / (1 + abs(x1))"}),
        Node("div", "Output"),
        Node("abs_1", "Output"),
        Node("again", "Output"),
    )
    links = (
        Link("relu", "output", "node", "input"),
        Link("node", "output", "half", "inputs"),
        Link("half", "output", "div", "input"),
        Link("node", "output", "abs_1", "input"),
        Link("half", "output", "again", "input"),
    )
    save(tmp_path / "imported.cyxmodel", Graph("g", nodes, links))
    found = exported(tmp_path).graph
    assert [each.name for each in found.input] == ["relu"]
    assert [each.name for each in found.output] == ["div", "abs_1", "again"]
