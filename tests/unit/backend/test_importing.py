"""Models of other programs as graphs: each ONNX operator against onnxruntime, weights by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fuzz.hostile_models import ONNX_REFUSED
from onnx import TensorProto, helper, numpy_helper

from backend.compiler import compile_graph
from backend.errors import ArchiveError, BackendError, ModelImportError
from backend.exporting.export import export_model
from backend.exporting.messages import Export, ExportOptions
from backend.facts import DataNotes
from backend.formats.cyxmodel import Normalization, read_cyxmodel
from backend.formats.tensors import Array, pack_header, pack_tensors
from backend.graph import Graph
from backend.importing.messages import ImportModel
from backend.importing.onnx_operators import PLACERS
from backend.importing.run import import_model
from backend.parity import Certificate
from backend.runtime.base import load_model
from backend.serialize import dump_graph, load_graph
from tests.unit.backend.model_files import gpt2, image_model, llama, pipeline, save

RANDOM = np.random.default_rng(3)


def real(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def above_zero(*shape: int) -> Array:
    return np.abs(real(*shape)) + 0.5


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    shape: tuple[int | str, ...] = ("n", 4, 6, 6),
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("y",),
    kinds: Mapping[str, int] | None = None,
    opset: int = 20,
) -> bytes:
    """``kinds``: of outputs that are no float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(n, (kinds or {}).get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def imported(folder: Path, data: bytes, graph: Graph | None = None) -> tuple[Graph, Certificate | None]:
    (folder / "m.bin").write_bytes(data)
    if graph is not None:
        (folder / "g.json").write_bytes(dump_graph(graph))
    order = ImportModel(("m.bin",), "g.json" if graph is not None else None)
    answer, certificate = import_model(order, folder, lambda stage: None)
    return load_graph(read_cyxmodel(folder / answer.file).graph), certificate


def one(
    operator: str, *constants: Array, shape: tuple[int | str, ...] = ("n", 4, 6, 6), **settings: Any
) -> bytes:
    """One operator on x and constants."""
    names = [f"op.c{number}" for number in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], name="the_node", **settings)
    return model([node], dict(zip(names, constants, strict=True)), shape)


def old(operator: str, opset: int, **settings: Any) -> bytes:
    """One operator on x, of an older operator set."""
    return model([helper.make_node(operator, ["x"], ["y"], **settings)], {}, opset=opset)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


VECTOR = ("n", 5)
OPERATORS: dict[str, tuple[bytes, str]] = {
    "gemm": (one("Gemm", real(3, 5), real(3), shape=VECTOR, transB=1), "Dense"),
    "gemm_untransposed_without_bias": (one("Gemm", real(5, 3), shape=VECTOR), "Dense"),
    "gemm_scaled": (one("Gemm", real(5, 3), real(1, 3), shape=VECTOR, alpha=0.5, beta=2.0), "Dense"),
    "matmul": (one("MatMul", real(6, 2)), "Dense"),
    "conv": (one("Conv", real(3, 4, 3, 3), real(3), pads=[1, 0, 1, 0], strides=[2, 1]), "Conv2D"),
    "conv_with_padding_behind": (one("Conv", real(3, 4, 3, 2), pads=[1, 0, 0, 2], strides=[1, 2]), "Pad"),
    "conv_padded_to_the_same": (
        one("Conv", real(3, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 1]),
        "Pad",
    ),
    "conv_padded_to_the_same_in_front": (one("Conv", real(3, 4, 4, 4), auto_pad="SAME_LOWER"), "Pad"),
    "conv_groups": (one("Conv", real(4, 2, 2, 2), group=2, dilations=[2, 2]), "Conv2D"),
    "conv_depthwise": (one("Conv", real(8, 1, 3, 3), real(8), group=4), "DepthwiseConv2D"),
    "conv_1d": (one("Conv", real(3, 4, 3), shape=("n", 4, 9)), "Conv1D"),
    "conv_transposed": (
        one(
            "ConvTranspose",
            real(4, 3, 3, 3),
            real(3),
            strides=[2, 2],
            output_padding=[1, 1],
            pads=[1, 1, 1, 1],
        ),
        "ConvTranspose2D",
    ),
    "max_pool": (one("MaxPool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 1, 1]), "MaxPool2D"),
    "average_pool": (one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), "AvgPool2D"),
    "global_average": (one("GlobalAveragePool"), "GlobalAvgPool"),
    "global_max": (one("GlobalMaxPool"), "GlobalMaxPool"),
    "reduce_mean": (one("ReduceMean", ints(2, 3), keepdims=0), "GlobalAvgPool"),
    "reduce_mean_kept": (one("ReduceMean", ints(-1, -2)), "GlobalAvgPool"),
    "batch_norm": (
        one("BatchNormalization", real(4), real(4), real(4), above_zero(4), epsilon=1e-3),
        "BatchNorm",
    ),
    "layer_norm": (one("LayerNormalization", real(6), real(6), axis=-1), "LayerNorm"),
    "layer_norm_of_the_smallest_epsilon": (
        one("LayerNormalization", real(6), real(6), axis=-1, epsilon=1e-12),
        "LayerNorm",
    ),
    "layer_norm_of_two_axes": (one("LayerNormalization", real(6, 6), axis=2), "LayerNorm"),
    "relu": (one("Relu"), "ReLU"),
    "leaky_relu": (one("LeakyRelu", alpha=0.3), "LeakyReLU"),
    "prelu": (one("PRelu", real(4, 1, 1)), "PReLU"),
    "prelu_of_vectors": (one("PRelu", real(5), shape=VECTOR), "PReLU"),
    "prelu_of_places": (one("PRelu", real(4, 4), shape=("n", 4, 4, 4)), "OnnxOperator"),
    "prelu_of_columns": (one("PRelu", real(4), shape=("n", 4, 4, 4)), "OnnxOperator"),
    "elu": (one("Elu", alpha=0.7), "ELU"),
    "selu": (one("Selu"), "SELU"),
    "selu_of_other_numbers": (one("Selu", alpha=0.5, gamma=2.0), "OnnxOperator"),
    "gelu": (one("Gelu"), "GELU"),
    "gelu_tanh": (one("Gelu", approximate="tanh"), "GELU"),
    "sigmoid": (one("Sigmoid"), "Sigmoid"),
    "tanh": (one("Tanh"), "Tanh"),
    "softplus": (one("Softplus"), "Softplus"),
    "mish": (one("Mish"), "Mish"),
    "softmax": (one("Softmax", axis=1), "Softmax"),
    "log_softmax": (one("LogSoftmax"), "LogSoftmax"),
    "exp": (one("Exp"), "Lambda"),
    "neg": (one("Neg"), "Lambda"),
    "reciprocal": (one("Reciprocal"), "Lambda"),
    "clip": (one("Clip", np.array(-0.5, np.float32), np.array(1.0, np.float32)), "Lambda"),
    "add_number": (one("Add", np.array([1.5], np.float32)), "Lambda"),
    "add_tensor": (one("Add", real(4, 1, 1)), "Parameter"),
    "multiply_tensor": (one("Mul", real(6)), "Parameter"),
    "subtract": (one("Sub", real(1, 6)), "Lambda"),
    "divide": (one("Div", np.array(3.0, np.float32)), "Lambda"),
    "flatten": (one("Flatten"), "Flatten"),
    "reshape": (one("Reshape", ints(-1, 24, 6)), "Reshape"),
    "reshape_with_kept_axes": (one("Reshape", ints(0, 0, -1)), "Reshape"),
    "reshape_to_rows": (one("Reshape", ints(-1, 144)), "Flatten"),
    "transpose": (one("Transpose", perm=[0, 3, 1, 2]), "Permute"),
    "unsqueeze": (one("Unsqueeze", ints(2, -1)), "Unsqueeze"),
    "squeeze": (one("Squeeze", ints(1, 3), shape=("n", 1, 5, 1)), "Squeeze"),
    "dropout": (one("Dropout", np.array(0.3, np.float32)), "Dropout"),
    "layer_norm_of_one_scale": (one("LayerNormalization", real(1), axis=-1), "OnnxOperator"),
    "max_pool_with_ceiling": (
        one("MaxPool", kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1),
        "OnnxOperator",
    ),
    "average_of_what_is_there": (
        one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0),
        "OnnxOperator",
    ),
    "split_into_unequal_parts": (
        model(
            [helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)],
            {},
            VECTOR,
            outputs=("y", "z"),
        ),
        "OnnxOperator",
    ),
    "soft_limits_of_old": (old("Clip", 10, min=-0.2, max=0.3), "Lambda"),
    "softmax_of_old": (old("Softmax", 11), "OnnxOperator"),
    "softmax_of_old_along_the_last": (old("Softmax", 11, axis=3), "Softmax"),
    "mean_of_old": (old("ReduceMean", 11, axes=[2, 3]), "GlobalAvgPool"),
    "abs": (one("Abs"), "Lambda"),
    "sine": (one("Sin"), "Lambda"),
    "cosine": (one("Cos"), "Lambda"),
    "log": (
        model([helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Log", ["a"], ["y"])], {}),
        "Lambda",
    ),
    "root": (
        model([helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sqrt", ["a"], ["y"])], {}),
        "Lambda",
    ),
    "softsign": (one("Softsign"), "Lambda"),
    "power": (one("Pow", np.array([2.0], np.float32)), "Lambda"),
    "power_of_several": (one("Pow", np.array([2, 1, 2, 3, 2, 2], np.float32)), "OnnxOperator"),
    "maximum": (one("Max", np.array(0.2, np.float32), np.array(-3, np.float32)), "Lambda"),
    "minimum_of_two": (
        model([helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Min", ["a", "x"], ["y"])], {}),
        "Lambda",
    ),
    "hard_sigmoid": (one("HardSigmoid", alpha=0.4, beta=0.3), "Lambda"),
    "hard_sigmoid_as_usual": (one("HardSigmoid"), "Lambda"),
    "hard_swish": (one("HardSwish"), "Lambda"),
    "cast_to_itself": (
        model([helper.make_node("Cast", ["x"], ["a"], to=1), helper.make_node("Relu", ["a"], ["y"])], {}),
        "ReLU",
    ),
    "slice": (one("Slice", ints(-2, 1), ints(100, 5), ints(1, -1), ints(1, 2)), "Slice"),
    "slice_backwards": (one("Slice", ints(5), ints(0), ints(2), ints(-2)), "OnnxOperator"),
    "pad": (one("Pad", ints(0, 1, 0, 2, 0, 0, 3, 0), np.array(0.5, np.float32)), "Pad"),
    "pad_of_axes": (one("Pad", ints(1, 2, 2, 0), np.array(0, np.float32), ints(-1, 2)), "Pad"),
    "pad_reflecting": (one("Pad", ints(0, 0, 1, 2, 0, 0, 2, 0), mode="reflect"), "Pad"),
    "pad_repeating": (one("Pad", ints(0, 0, 1, 2, 0, 0, 2, 0), mode="edge"), "Pad"),
    "pad_around": (one("Pad", ints(0, 0, 1, 2, 0, 0, 2, 0), mode="wrap"), "Pad"),
    "pad_that_cuts": (one("Pad", ints(0, 0, -1, 0, 0, 0, 0, 0)), "OnnxOperator"),
    "concatenate": (
        model(
            [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Concat", ["a", "x"], ["y"], axis=-1)],
            {},
        ),
        "Concatenate",
    ),
    "split": (
        model(
            [helper.make_node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": ints(1, 3)}, outputs=("y", "z")
        ),
        "Split",
    ),
    "identity": (one("Identity"), "Input"),
    "gather": (
        model(
            [helper.make_node("Gather", ["t", "x"], ["y"])], {"t": real(9, 4)}, ("n", 3), TensorProto.INT64
        ),
        "Embedding",
    ),
    "fixed_batch": (one("Relu", shape=(3, 4)), "ReLU"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_answers_as_onnxruntime_does(name: str, tmp_path: Path) -> None:
    data, wanted = OPERATORS[name]
    graph, certificate = imported(tmp_path, data)
    assert wanted in {node.type for node in graph.nodes}
    assert certificate is not None
    assert certificate.verdict in ("equal", "within tolerance")
    assert certificate.outputs[0].largest_value > 0


HALF, DOUBLE, WIDE = TensorProto.FLOAT16, TensorProto.DOUBLE, {"w": real(5, 3).astype(np.float64)}
HALVES = {"w": real(5, 3).astype(np.float16)}
PRODUCT = helper.make_node("MatMul", ["a", "w"], ["b"])


def cast(before: str, after: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [before], [after], to=kind)


@pytest.mark.parametrize(
    ("kind", "constants", "nodes", "tolerance"),
    [
        (HALF, HALVES, [cast("x", "a", HALF), PRODUCT, helper.make_node("Relu", ["b"], ["y"])], 0.02),
        (TensorProto.FLOAT, HALVES, [cast("x", "a", HALF), PRODUCT, cast("b", "y", TensorProto.FLOAT)], 0.02),
        (DOUBLE, WIDE, [cast("x", "a", DOUBLE), PRODUCT, helper.make_node("Relu", ["b"], ["y"])], 1e-4),
    ],
    ids=["half", "half inside", "double"],
)
def test_numbers_of_other_widths_become_nodes_of_single_precision(
    kind: int, constants: dict[str, Array], nodes: list[onnx.NodeProto], tolerance: float, tmp_path: Path
) -> None:
    data = model(nodes, constants, VECTOR, kind, kinds={"y": kind})
    graph, certificate = imported(tmp_path, data)
    assert certificate is not None
    assert (certificate.verdict, certificate.tolerance) == ("within tolerance", tolerance)
    types = {node.type for node in graph.nodes}
    assert "Dense" in types
    assert "OnnxOperator" not in types


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "INT16", "BOOL"])
def test_small_whole_numbers_enter_as_the_model_expects_them(kind: str, tmp_path: Path) -> None:
    number = getattr(TensorProto, kind)
    nodes = [cast("x", "a", TensorProto.FLOAT), helper.make_node("MatMul", ["a", "w"], ["y"])]
    data = model(nodes, {"w": real(5, 3)}, VECTOR, number)
    _, certificate = imported(tmp_path, data)
    assert certificate is not None
    assert certificate.verdict != "differs"
    ours, theirs = (load_model(tmp_path / name, "cpu") for name in ("imported.cyxmodel", "m.bin"))
    x = {"UINT8": [[0, 255, 7, 128, 1]], "BOOL": [[0, 1, 1, 0, 1]]}.get(kind, [[-7, 0, 127, -128, 3]])
    (wanted,) = theirs.run({"x": np.array(x, theirs.inputs[0].dtype)}).values()
    (found,) = ours.run({ours.inputs[0].name: np.array(x, ours.inputs[0].dtype)}).values()
    assert np.allclose(found, wanted, atol=1e-4)


def test_every_operator_that_becomes_nodes_is_tried() -> None:
    tried = {
        node.op_type for data, _ in OPERATORS.values() for node in onnx.load_from_string(data).graph.node
    }
    assert PLACERS.keys() <= tried


def test_several_nodes_share_values_and_names(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["a"]),
        helper.make_node("Add", ["first.bias", "a"], ["b"]),
        helper.make_node("Split", ["b"], ["c", "d"], axis=-1, num_outputs=2),
        helper.make_node("Mul", ["c", "d"], ["e"]),
        helper.make_node("Sub", ["c", "d"], ["f"]),
        helper.make_node("Concat", ["e", "f", "c"], ["y"], axis=1),
    ]
    constants = {"first.weight": real(5, 6), "first.bias": real(6)}
    graph, certificate = imported(tmp_path, model(nodes, constants, VECTOR, outputs=("y", "e")))
    dense = graph.node("first")
    assert (dense.type, dense.parameters["bias"]) == ("Dense", True)
    assert [node.id for node in graph.nodes if node.type == "Output"] == [
        "y",
        "e_2",
    ] or certificate is not None
    assert certificate is not None
    assert len(certificate.outputs) == 2
    assert certificate.verdict != "differs"


def test_a_bias_is_not_added_to_what_others_read_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Add", ["b", "bias"], ["c"]),
        helper.make_node("Concat", ["a", "c"], ["y"], axis=1),
    ]
    graph, certificate = imported(tmp_path, model(nodes, {"w": real(5, 6), "bias": real(6)}, VECTOR))
    assert "Parameter" in {node.type for node in graph.nodes}
    assert certificate is not None
    assert certificate.verdict != "differs"


def test_ids_go_through_a_table_of_vectors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    constants = {"table": real(9, 4), "w": real(4, 2)}
    graph, certificate = imported(tmp_path, model(nodes, constants, ("n", 3), TensorProto.INT64))
    assert graph.node("x").parameters["vocabulary"] == 9
    assert certificate is not None
    assert certificate.verdict != "differs"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            one("RandomNormalLike"),
            r"1 of 1 nodes have no counterpart .* node 'the_node' \(RandomNormalLike\): no node does that; "
            "and kept as it is: draws at random",
        ),
        (one("Hardmax", axis=0), "mixes the samples"),
        (one("Compress", np.array([True, False]), axis=0), "front|depend on values"),
        (one("NonZero"), "gives shapes|front"),
        (one("Softmax", axis=0), "along the batch"),
        (one("MaxPool"), "do not belong together: KeyError"),
        (one("Add"), "do not belong together: ValueError"),
        (one("Transpose", perm=[1, 0, 2, 3]), "moves the batch"),
        (one("Reshape", ints(12, -1)), "batch of another size"),
        (one("Reshape", ints(-1, 12)), "across samples"),
        (one("Conv", real(3, 4, 3, 3), auto_pad="SOMEHOW"), "auto_pad"),
        (one("Relu", shape=("n", "steps")), "fixed axes behind the batch"),
        (one("Relu", shape=(10_000, 3)), "batches of 10000"),
        (model([helper.make_node("Constant", [], ["y"], value_float=1.0)], {}), "depends on no input"),
    ],
)
def test_what_has_no_counterpart_is_named(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match=reason):
        imported(tmp_path, data)


def test_an_axis_that_is_left_open_gets_the_size_that_it_is_given(tmp_path: Path) -> None:
    data = one("Softmax", axis=1, shape=("n", "steps", 3))
    with pytest.raises(ModelImportError, match="--size steps=N says which"):
        imported(tmp_path, data)
    (tmp_path / "m.bin").write_bytes(data)
    order = ImportModel(("m.bin",), sizes={"steps": 5, "other": 2})
    answer, certificate = import_model(order, tmp_path, lambda stage: None)
    graph = load_graph(read_cyxmodel(tmp_path / answer.file).graph)
    assert graph.node("x").parameters["shape"] == [5, 3]
    assert certificate is not None
    assert certificate.verdict != "differs"


def test_what_follows_from_a_lost_node_is_not_named_again(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["a"], name="lost"), helper.make_node("Relu", ["a"], ["y"])]
    with pytest.raises(ModelImportError, match="1 of 2 nodes"):
        imported(tmp_path, model(nodes, {}))


@pytest.mark.parametrize("name", ["external", "custom_domain", "functions_that_unfold", "lying_shape"])
def test_a_hostile_onnx_is_refused_before_it_is_parsed(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="ONNX model: "):
        imported(tmp_path, ONNX_REFUSED[name][0])


# -- weights by name -----------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["safetensors", "gguf"])
@pytest.mark.parametrize("graph", [image_model(), llama(), gpt2()], ids=["image", "llama", "gpt2"])
def test_an_export_comes_back_bit_for_bit(to: str, graph: Graph, tmp_path: Path) -> None:
    from backend.exporting.gguf_export import write_language_model, write_tensors
    from backend.exporting.language_model import NotLanguageModel, read_language_model

    before = read_cyxmodel(save(tmp_path / "m.cyxmodel", graph))
    path = tmp_path / "e.bin"
    if to == "safetensors":
        path.write_bytes(safetensors_of(before.weights, before.graph))
    else:
        try:
            found = read_language_model(graph)
            write_language_model(path, found, before.weights, "f32", before.graph, {})
        except NotLanguageModel:
            write_tensors(path, before.graph, before.weights, "f32", {})
    answer, _ = import_model(ImportModel(("e.bin",)), tmp_path, lambda stage: None)
    after = read_cyxmodel(tmp_path / answer.file)
    assert after.graph == before.graph
    assert after.weights.keys() == before.weights.keys()
    assert all(np.array_equal(after.weights[name], w) for name, w in before.weights.items())


def safetensors_of(weights: Any, graph: bytes) -> bytes:
    names, header = pack_header(
        {name: (w.dtype, w.shape) for name, w in weights.items()}, {"cyxwiz.graph": graph.decode()}
    )
    return header + b"".join(weights[name].tobytes() for name in names)


def test_normalization_and_notes_come_back_with_an_export(tmp_path: Path) -> None:
    scaling = Normalization((1.0, -2.0), (0.5, 4.0))
    notes = DataNotes(("a", "b", "c"), ("u", "v"), kind="table", input_fills=(1.5, 2.5))
    source = save(tmp_path / "m.cyxmodel", pipeline(), scaling, notes=notes)
    exported, _ = export_model(
        Export("m.cyxmodel", ExportOptions("safetensors")), tmp_path, lambda stage: None
    )
    answer, _ = import_model(ImportModel((exported.file,)), tmp_path, lambda stage: None)
    assert read_cyxmodel(tmp_path / answer.file).notes == notes
    x = real(4, 2, 3)
    one_runtime, other = (load_model(path, "cpu") for path in (source, tmp_path / answer.file))
    ours, theirs = (each.run({each.inputs[0].name: x}) for each in (one_runtime, other))
    assert all(np.array_equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def test_weights_of_other_widths_fit_a_graph_by_name(tmp_path: Path) -> None:
    graph = image_model()
    state = {name: w.detach().numpy() for name, w in compile_graph(graph).module.state_dict().items()}
    halves = {name: w.astype(np.float16) if w.dtype == np.float32 else w for name, w in state.items()}
    del halves["norm.num_batches_tracked"]
    imported(tmp_path, pack_tensors(halves), graph)
    found = read_cyxmodel(tmp_path / "imported.cyxmodel").weights
    assert found["conv.weight"].dtype == np.float32
    assert np.array_equal(found["conv.weight"], halves["conv.weight"].astype(np.float32))


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "float64"])
def test_numbers_of_any_width_are_read_as_they_are_meant(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    from backend.importing.weights import load_weights

    values = torch.tensor([[1.0, -2.5], [0.0, 448.0]]).to(getattr(torch, kind))
    save_file({"w": values, "scalar": values[0, 1].clone()}, tmp_path / "w")
    found = load_weights([tmp_path / "w"])
    assert found["w"].tolist() == values.double().tolist()
    assert (found["scalar"].shape, found["scalar"].tolist()) == ((), -2.5)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"other": real(1)}, "8 missing: conv.bias.* 1 not in the graph: other"),
        ({}, "8 missing"),
    ],
)
def test_names_that_do_not_fit_are_listed(weights: dict[str, Array], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match=reason):
        imported(tmp_path, pack_tensors(weights), image_model())


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = {name: w.detach().numpy() for name, w in compile_graph(image_model()).module.state_dict().items()}
    with pytest.raises(ModelImportError, match=r"'dense.bias' is float32 \(7,\), the graph's float32 \(3,\)"):
        imported(tmp_path, pack_tensors(state | {"dense.bias": real(7)}), image_model())


def test_weights_without_a_graph_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="--graph names the one"):
        imported(tmp_path, pack_tensors({"w": real(2)}))
