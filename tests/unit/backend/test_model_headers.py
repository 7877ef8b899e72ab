"""The refusal table of ONNX, GGUF and safetensors, and what good files say of themselves."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from fuzz.hostile_models import (
    GGUF_GOOD,
    GGUF_REFUSED,
    ONNX_GOOD,
    ONNX_REFUSED,
    SAFETENSORS_GOOD,
    SAFETENSORS_REFUSED,
    field,
    onnx,
    safetensors,
)

from backend.errors import ArchiveError
from backend.formats.gguf_header import read_gguf_header
from backend.formats.onnx_check import OnnxTensor, OnnxValue, check_onnx
from backend.formats.sniff import ModelFormat, sniff
from backend.formats.tensor_header import read_tensor_header


@pytest.mark.parametrize("name", ONNX_REFUSED)
def test_a_hostile_onnx_is_refused(name: str) -> None:
    data, reason = ONNX_REFUSED[name]
    with pytest.raises(ArchiveError, match=reason):
        check_onnx(data)


@pytest.mark.parametrize("name", ONNX_GOOD)
def test_a_good_onnx_is_accepted(name: str, tmp_path: Path) -> None:
    facts = check_onnx(ONNX_GOOD[name])
    assert facts.inputs == (OnnxValue("x", "float32", ("batch", 2)),)
    assert facts.outputs == (OnnxValue("y", "float32", ("batch", 2)),)
    (tmp_path / "m").write_bytes(ONNX_GOOD[name])
    assert sniff(tmp_path / "m") is ModelFormat.ONNX


def test_an_onnx_says_what_it_is() -> None:
    facts = check_onnx(ONNX_GOOD["matmul"])
    assert facts.initializers == (OnnxTensor("w", "float32", (2, 2)),)
    assert (facts.parameters, facts.operators) == (4, {"MatMul": 1})
    assert (facts.opsets, facts.metadata) == ({"": 20}, {"classes": "a,b"})
    assert (facts.producer, facts.ir_version, facts.name) == ("test", 10, "g")


def test_every_cut_of_an_onnx_is_refused() -> None:
    data = ONNX_GOOD["function"]
    graph_ends = data.index(b"\x42")
    for length in range(1, graph_ends):
        with pytest.raises(ArchiveError):
            check_onnx(data[:length])


@pytest.mark.parametrize("name", GGUF_REFUSED)
def test_a_hostile_gguf_is_refused(name: str, tmp_path: Path) -> None:
    data, reason = GGUF_REFUSED[name]
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ArchiveError, match=reason):
        read_gguf_header(tmp_path / "m")


def test_49_bytes_that_never_end_are_refused_at_once(tmp_path: Path) -> None:
    """gguf's own reader takes an array of 2^62 numbers at its word, and never returns."""
    data, reason = GGUF_REFUSED["endless_array"]
    assert len(data) == 49
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ArchiveError, match=reason):
        read_gguf_header(tmp_path / "m")


def test_a_gguf_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(GGUF_GOOD["values"])
    header = read_gguf_header(path)
    assert (header.version, header.architecture) == (3, "cyxwiz")
    assert header.metadata["yes"] is True
    assert (header.metadata["pi"], header.metadata["n"], header.metadata["types"]) == (3.5, 7, (1, 3))
    assert header.metadata["tokens"] == ("a", "\\xff")
    assert sniff(path) is ModelFormat.GGUF
    path.write_bytes(GGUF_GOOD["two_tensors"])
    tensors = read_gguf_header(path).tensors
    assert (tensors["a"].shape, tensors["b"].shape) == ((3,), (2, 32))
    assert (tensors["b"].kind.name, tensors["b"].begin, tensors["b"].size_bytes) == ("q8_0", 32, 68)


def test_every_cut_of_a_gguf_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "m", GGUF_GOOD["plain"]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ArchiveError):
            read_gguf_header(path)


@pytest.mark.parametrize("name", SAFETENSORS_REFUSED)
def test_a_hostile_safetensors_is_refused(name: str) -> None:
    data, reason = SAFETENSORS_REFUSED[name]
    with pytest.raises(ArchiveError, match=reason):
        read_tensor_header(io.BytesIO(data), len(data))


def test_formats_are_known_by_content(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for data, wanted in (
        (SAFETENSORS_GOOD["plain"], ModelFormat.SAFETENSORS),
        (ONNX_GOOD["identity"], ModelFormat.ONNX),
        (b"", ModelFormat.UNKNOWN),
        (b"\x80\x02}q\x00.", ModelFormat.UNKNOWN),
        (b'{"nodes": []}', ModelFormat.UNKNOWN),
        (safetensors(b"[]"), ModelFormat.UNKNOWN),
        (onnx()[:10], ModelFormat.UNKNOWN),
        (field(1, 10) * 5000, ModelFormat.UNKNOWN),
    ):
        path.write_bytes(data)
        assert sniff(path) is wanted, data[:40]


def test_what_is_no_file_is_unknown_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        assert sniff(path) is ModelFormat.UNKNOWN
