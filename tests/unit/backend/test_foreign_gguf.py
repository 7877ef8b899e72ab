"""GGUF files of other programs as graphs: only what is a llama or a GPT-2 to the letter."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.compiler import compile_graph
from backend.errors import ArchiveError, ModelImportError
from backend.exporting.gguf_export import write_language_model
from backend.exporting.language_model import read_language_model
from backend.exporting.source import answers_of
from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.gguf_header import GgufValue, read_gguf_header
from backend.formats.gguf_tensors import read_gguf
from backend.formats.gguf_types import KIND_NUMBERS, TENSOR_KINDS
from backend.formats.gguf_write import GgufPiece, write_gguf
from backend.formats.tensors import Array
from backend.graph import Graph
from backend.importing.messages import ImportModel
from backend.importing.run import import_model
from backend.parity import Certificate
from backend.serialize import load_graph
from tests.unit.backend.model_files import TOKENS, gpt2, llama, save

HAS_LLAMA = importlib.util.find_spec("llama_cpp") is not None
Metadata = dict[str, GgufValue]


def theirs(folder: Path, graph: Graph) -> tuple[Metadata, dict[str, Array]]:
    """As another program would write this model: no graph of ours in it."""
    model = read_cyxmodel(save(folder / "m.cyxmodel", graph))
    write_language_model(
        folder / "ours",
        read_language_model(graph),
        model.weights,
        "f32",
        model.graph,
        {"general.name": "Small"},
    )
    header, tensors = read_gguf(folder / "ours")
    return {key: value for key, value in header.metadata.items() if key != "cyxwiz.graph"}, tensors


def taken_over(
    folder: Path, metadata: Mapping[str, GgufValue], tensors: Mapping[str, Array]
) -> tuple[Path, str, Certificate | None]:
    pieces = [GgufPiece(name, "f32", values) for name, values in tensors.items()]
    write_gguf(folder / "theirs.gguf", metadata, pieces)
    answer, certificate = import_model(ImportModel(("theirs.gguf",)), folder, lambda stage: None)
    return folder / answer.file, answer.about, certificate


def answers(path: Path) -> Array:
    model = read_cyxmodel(path)
    compiled = compile_graph(load_graph(model.graph))
    compiled.module.load_state_dict({name: torch.from_numpy(w) for name, w in model.weights.items()})
    compiled.module.eval()
    (end,) = compiled.inputs
    ids = np.random.default_rng(0).integers(0, TOKENS, (2, *end.shape))
    return answers_of(compiled.module, {end.name: ids})[0]


@pytest.mark.parametrize("graph", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_a_model_of_another_program_answers_as_it_did(graph: Graph, tmp_path: Path) -> None:
    path, about, certificate = taken_over(tmp_path, *theirs(tmp_path, graph))
    assert about.startswith(f"a {read_language_model(graph).architecture} of 16 steps")
    assert (certificate is not None) == HAS_LLAMA
    assert certificate is None or certificate.verdict == "within tolerance"
    found, expected = answers(path), answers(tmp_path / "m.cyxmodel")
    # A GGUF does not say whether a model was made to answer for the last step alone.
    assert np.allclose(found if expected.ndim == 3 else found[:, -1], expected, atol=1e-5)
    assert load_graph(read_cyxmodel(path).graph).name == "Small"


def test_a_matrix_of_both_ends_is_used_for_both(tmp_path: Path) -> None:
    metadata, tensors = theirs(tmp_path, llama())
    del tensors["output.weight"]
    path, _, _ = taken_over(tmp_path, metadata, tensors)
    weights = read_cyxmodel(path).weights
    assert np.array_equal(weights["head.output.weight"], weights["embedding.weight"])


def test_a_graph_takes_no_more_steps_than_are_wanted(tmp_path: Path) -> None:
    metadata, tensors = theirs(tmp_path, llama())
    write_gguf(tmp_path / "t", metadata, [GgufPiece(name, "f32", values) for name, values in tensors.items()])
    answer, _ = import_model(ImportModel(("t",), sizes={"steps": 4}), tmp_path, lambda stage: None)
    assert load_graph(read_cyxmodel(tmp_path / answer.file).graph).node("tokens").parameters["shape"] == [4]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, t: m.update({"general.architecture": "mamba"}), "architecture 'mamba', taken over are"),
        (lambda m, t: m.update({"llama.rope.scaling.factor": 8.0}), "rope.scaling.factor is 8.0"),
        (lambda m, t: m.update({"llama.expert_count": 8}), "expert_count is 8"),
        (lambda m, t: m.update({"llama.rope.dimension_count": 2}), "only a part of each head"),
        (lambda m, t: m.update({"llama.block_count": 1 << 30}), "block_count is 1073741824, must be"),
        (lambda m, t: m.update({"llama.embedding_length": "wide"}), "embedding_length is 'wide'"),
        (
            lambda m, t: m.update({"llama.feed_forward_length": 1 << 20}),
            "speaks of .* weights, the tensors are",
        ),
        (lambda m, t: m.update({"llama.attention.head_count": 3}), "heads|speaks of"),
        (lambda m, t: m.update({"llama.rope.freq_base": "fast"}), "freq_base is 'fast', must be a number"),
        (lambda m, t: m.pop("llama.block_count"), "block_count is None"),
        (lambda m, t: t.pop("token_embd.weight"), "no token_embd.weight"),
        (
            lambda m, t: t.update({"rope_freqs.weight": np.ones(4, np.float32)}),
            "'rope_freqs.weight', which a",
        ),
        (lambda m, t: t.pop("blk.0.attn_q.weight"), "speaks of"),
        (lambda m, t: t.update({"blk.0.ffn_up.weight": t["blk.0.ffn_up.weight"].T.copy()}), "is shaped"),
    ],
)
def test_what_is_something_else_is_refused(
    change: Callable[[Metadata, dict[str, Array]], Any], reason: str, tmp_path: Path
) -> None:
    metadata, tensors = theirs(tmp_path, llama())
    change(metadata, tensors)
    with pytest.raises(ModelImportError, match=reason):
        taken_over(tmp_path, metadata, tensors)


# -- what is stored in blocks ------------------------------------------------------------------------


def packed(folder: Path, kind: str, data: bytes, shape: tuple[int, ...]) -> Array:
    """The one tensor of a file that is written byte for byte."""
    write_gguf(
        folder / "g", {"general.architecture": "x"}, [GgufPiece("w", "q8_0", np.zeros(shape, np.float32))]
    )
    raw = bytearray((folder / "g").read_bytes())
    at = raw.rindex(KIND_NUMBERS["q8_0"].to_bytes(4, "little") + bytes(8))
    raw[at : at + 4] = KIND_NUMBERS[kind].to_bytes(4, "little")
    begin = read_gguf_header(folder / "g").data_at
    (folder / "g").write_bytes(bytes(raw[:begin]) + data + bytes(-len(data) % 32))
    return read_gguf(folder / "g")[1]["w"]


def half(value: float) -> bytes:
    return np.array(value, "<f2").tobytes()


def test_blocks_of_four_bits_are_read_as_ggml_writes_them(tmp_path: Path) -> None:
    """Lower halves of the bytes first, then the upper ones."""
    data = bytes([0xF0, 0x81] + [0x88] * 14)
    found = packed(tmp_path, "q4_0", half(0.5) + data, (32,))
    assert found[[0, 1, 2, 16, 17]].tolist() == [-4.0, -3.5, 0.0, 3.5, 0.0]
    found = packed(tmp_path, "q4_1", half(0.5) + half(-1.0) + data, (32,))
    assert found[[0, 1, 16, 17]].tolist() == [-1.0, -0.5, 6.5, 3.0]


def test_bfloat16_is_the_upper_half_of_a_float(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e30] * 32, np.float32)
    data = (values.view("<u4") >> 16).astype("<u2").tobytes()
    found = packed(tmp_path, "bf16", data, (96,))
    assert np.array_equal(found.view("<u4") >> 16, values.view("<u4") >> 16)


def test_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"'w' is iq2_xxs, readable are bf16, .* q8_0"):
        packed(tmp_path, "iq2_xxs", bytes(66), (256,))


def blocks_of(kind: str) -> np.ndarray[Any, Any]:
    """Bytes of all sorts, with scales that are numbers."""
    size = TENSOR_KINDS[KIND_NUMBERS[kind]]
    raw = np.random.default_rng(0).integers(0, 256, (8, size.block_bytes), np.uint8)
    for at in SCALES.get(kind, (0,)):
        raw[:, at : at + 2] = np.linspace(-2, 2, 8, dtype="<f2")[:, None].view(np.uint8)
    return raw


SCALES: Mapping[str, tuple[int, ...]] = {"q6_k": (208,), "q2_k": (80, 82), "q3_k": (108,)} | dict.fromkeys(
    ("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)
)
"""Where numbers of half precision stand in a block."""


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("q2_k", "e21b963058211a0f"),
        ("q3_k", "fe7c19deb7f1385d"),
        ("iq4_nl", "682c21ee1a6f9c14"),
        ("iq4_xs", "70bb1a463609e60d"),
        ("q4_k", "4b5c53f3595860b2"),
        ("q5_k", "df8e2719b96df786"),
        ("q6_k", "ffaac7ef7dc2d653"),
    ],
)
def test_blocks_are_read_to_the_bit_as_the_gguf_package_reads_them(
    kind: str, digest: str, tmp_path: Path
) -> None:
    """The digests are of what ``gguf.quants`` 0.19 makes of the same bytes."""
    raw = blocks_of(kind)
    found = packed(tmp_path, kind, raw.tobytes(), (8, TENSOR_KINDS[KIND_NUMBERS[kind]].block))
    assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()[:16] == digest


@pytest.mark.skipif(not HAS_LLAMA, reason="scripts/llama_cpp compiles it")
@pytest.mark.parametrize(
    "kind",
    ["q2_k", "q3_k", "iq4_nl", "iq4_xs", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"],
)
def test_blocks_are_read_as_ggml_reads_them(kind: str, tmp_path: Path) -> None:
    """Its own function for each kind, on bytes of all sorts."""
    import llama_cpp

    (library,) = (Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so")
    read = getattr(ctypes.CDLL(str(library)), f"dequantize_row_{kind.replace('k', 'K')}")
    size = TENSOR_KINDS[KIND_NUMBERS[kind]]
    raw = blocks_of(kind)
    wanted = np.zeros(8 * size.block, np.float32)
    read(
        raw.ctypes.data_as(ctypes.c_void_p),
        wanted.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(len(wanted)),
    )
    found = packed(tmp_path, kind, raw.tobytes(), (8, size.block))
    assert np.allclose(found.reshape(-1), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 1
