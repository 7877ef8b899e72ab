"""GGUF as this program writes and reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.errors import ArchiveError, ExportError
from backend.exporting.gguf_export import tokenizer_metadata, unpack_tensors, write_tensors
from backend.formats.gguf_header import GgufValue, read_gguf_header
from backend.formats.gguf_tensors import read_gguf
from backend.formats.gguf_write import GgufPiece, packed, write_gguf

RANDOM = np.random.default_rng(1)


def test_metadata_and_tensors_come_back(tmp_path: Path) -> None:
    metadata: dict[str, GgufValue] = {
        "general.architecture": "cyxwiz",
        "count": 7,
        "below": -1,
        "ratio": 0.5,
        "yes": True,
        "names": ("a", "ü"),
        "types": (1, 3),
        "empty": (),
    }
    pieces = [
        GgufPiece("a", "f32", RANDOM.standard_normal((3, 5)).astype(np.float32)),
        GgufPiece("b", "f16", RANDOM.standard_normal(7).astype(np.float32)),
        GgufPiece("c", "i64", np.array([2**40])),
        GgufPiece("d", "f64", np.array([0.1])),
    ]
    write_gguf(tmp_path / "m", metadata, pieces)
    header, tensors = read_gguf(tmp_path / "m")
    assert dict(header.metadata) == metadata
    for piece in pieces[:1] + pieces[2:]:
        assert np.array_equal(tensors[piece.name], piece.values)
    assert np.array_equal(tensors["b"], pieces[1].values.astype(np.float16))


def test_blocks_of_q8_0_come_back_within_half_a_step_of_their_scale(tmp_path: Path) -> None:
    values = RANDOM.standard_normal((4, 64)).astype(np.float32)
    values[1, :32] = 0.0
    write_gguf(tmp_path / "m", {}, [GgufPiece("w", "q8_0", values)])
    assert read_gguf_header(tmp_path / "m").tensors["w"].size_bytes == 8 * 34
    found = read_gguf(tmp_path / "m")[1]["w"]
    blocks = values.reshape(-1, 32)
    step = np.abs(blocks).max(1, keepdims=True) / 127
    assert (np.abs(found.reshape(-1, 32) - blocks) <= step * 0.51 + 127 * step * 2**-11).all()
    assert not found[1, :32].any()


@pytest.mark.parametrize(("kind", "value"), [("f16", 70_000.0), ("q8_0", 1e8)])
def test_numbers_that_a_kind_cannot_hold_are_refused(tmp_path: Path, kind: str, value: float) -> None:
    with pytest.raises(ArchiveError, match="'w' holds"):
        write_gguf(tmp_path / "m", {}, [GgufPiece("w", kind, np.full((1, 32), value, np.float32))])


def test_a_container_holds_weights_of_any_name_type_and_shape(tmp_path: Path) -> None:
    weights = {
        "n" * 100: RANDOM.standard_normal((2, 1, 2, 3, 4)).astype(np.float32),
        "norm.count": np.array(9),
        "flags": np.array([True, False]),
        "bytes": np.array([0, 255], np.uint8),
        "wide": np.array([1.5, 2.5]),
    }
    write_tensors(tmp_path / "m", b'{"nodes":[]}', weights, "f32", {})
    header, tensors = read_gguf(tmp_path / "m")
    graph, found = unpack_tensors(header, tensors)
    assert graph == b'{"nodes":[]}'
    for name, array in weights.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize(
    "records",
    [
        "",
        "[]",
        "{",
        '{"w":{"name":"w"}}',
        '{"w":{"name":"w","dtype":"object","shape":[1]}}',
        '{"w":{"name":"w","dtype":"float32","shape":[2]}}',
        '{"v":{"name":"w","dtype":"float32","shape":[1]}}',
    ],
)
def test_a_container_that_lies_is_refused(tmp_path: Path, records: str) -> None:
    metadata: dict[str, GgufValue] = {
        "general.architecture": "cyxwiz",
        "cyxwiz.graph": "{}",
        "cyxwiz.tensors": records,
    }
    write_gguf(tmp_path / "m", metadata, [GgufPiece("w", "f32", np.zeros(1, np.float32))])
    with pytest.raises(ArchiveError):
        unpack_tensors(*read_gguf(tmp_path / "m"))


TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "pre_tokenizer": {"type": "ByteLevel"},
    "added_tokens": [{"id": 3, "content": "<eos>", "special": True}],
}


def test_a_tokenizer_becomes_metadata() -> None:
    found = tokenizer_metadata(json.dumps(TOKENIZER), 5)
    assert found["tokenizer.ggml.tokens"] == ("a", "b", "ab", "<eos>", "[unused4]")
    assert found["tokenizer.ggml.token_type"] == (1, 1, 1, 3, 3)
    assert found["tokenizer.ggml.merges"] == ("a b",)
    assert found["tokenizer.ggml.eos_token_id"] == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram", "vocab": {}}}, "byte-level BPE"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "byte-level BPE"),
        ({"model": {"type": "BPE", "vocab": {"a": 9}, "merges": []}}, "the model 5"),
        ({"model": []}, "cannot be read"),
        ({"normalizer": {"type": "Lowercase"}}, "byte-level BPE"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "adds a space"),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, "into words first"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        tokenizer_metadata(json.dumps({**TOKENIZER, **change}), 5)


def test_numbers_are_rounded_to_q8_0_as_ggml_rounds() -> None:
    """As gguf's own quantization does, byte for byte, also next to halves."""
    values = np.zeros(32, np.float32)
    values[:8] = [127, 0.49999997, 0.5, 1.5, 2.5, -0.5, -0.49999997, -126.5]
    data = packed(GgufPiece("w", "q8_0", values))
    assert np.frombuffer(data, np.int8)[2:10].tolist() == [127, 0, 1, 2, 3, -1, 0, -127]
