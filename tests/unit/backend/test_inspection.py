"""What is told of each kind of file, and that nothing is executed or left open for it."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fuzz.hostile_models import CORPUS, GGUF_GOOD, ONNX_GOOD

from backend.errors import ArchiveError, BackendError, DatasetError, GraphFormatError
from backend.exporting.export import export_model
from backend.exporting.messages import Export, ExportOptions
from backend.facts import DataNotes
from backend.formats.cyxmodel import read_cyxmodel, write_cyxmodel
from backend.formats.tensors import pack_header, pack_tensors
from backend.inspection import MAX_PARTS, inspect
from backend.reports import Metrics
from backend.serialize import dump_graph
from tests.unit.backend.model_files import image_model, save


def test_a_cyxmodel_tells_of_its_graph_and_training(tmp_path: Path) -> None:
    path = save(tmp_path / "m", image_model(), notes=DataNotes(("a", "b", "c"), kind="image"))
    history = tuple(Metrics(step=n, total_steps=9, epoch=0, loss=1 / n) for n in (1, 9))
    write_cyxmodel(path, replace(read_cyxmodel(path), history=history))
    found = inspect(path)
    assert (found.kind, found.size_bytes) == ("CyxWiz model", path.stat().st_size)
    assert found.graph is not None
    assert found.graph.types["Conv3D"] == 1
    assert (found.graph.inputs, found.graph.outputs) == ({"in": (1, 4, 4, 4)}, {"out": (3,)})
    assert found.facts["can_continue"]
    assert (found.facts["class_names"], found.facts["samples_are"]) == (["a", "b", "c"], "image")
    assert (found.facts["first"]["loss"], found.facts["last"]["step"]) == (1.0, 9)
    assert {tensor.name for tensor in found.tensors} > {"conv.weight", "norm.running_mean"}


@pytest.mark.parametrize(
    ("to", "kind"), [("safetensors", "safetensors weights"), ("gguf", "GGUF tensor container")]
)
def test_an_export_tells_of_the_graph_that_it_carries(tmp_path: Path, to: str, kind: str) -> None:
    save(tmp_path / "m.cyxmodel", image_model())
    export_model(Export("m.cyxmodel", ExportOptions(to)), tmp_path, lambda stage: None)  # type: ignore[arg-type]
    found = inspect(tmp_path / f"export.{to}")
    assert found.kind == kind
    assert found.graph is not None
    assert found.graph.types["Conv3D"] == 1
    assert {tensor.name for tensor in found.tensors} > {"conv.weight", "norm.running_mean"}


def test_an_onnx_and_a_gguf_tell_what_they_take_and_hold(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(ONNX_GOOD["matmul"])
    found = inspect(path)
    assert found.facts["inputs"] == {"x": "float32 (batch, 2)"}
    assert (found.facts["operators"], found.metadata) == ({"MatMul": 1}, {"classes": "a,b"})
    path.write_bytes(GGUF_GOOD["two_tensors"])
    found = inspect(path)
    assert found.kind == "GGUF tensor container"
    assert [(t.name, t.dtype, t.shape) for t in found.tensors] == [("a", "f32", (3,)), ("b", "q8_0", (2, 32))]


def test_a_graph_tells_what_is_wrong_with_it(tmp_path: Path) -> None:
    graph = image_model()
    (tmp_path / "g.json").write_bytes(dump_graph(replace(graph, links=graph.links[1:])))
    found = inspect(tmp_path / "g.json")
    assert found.kind == "graph"
    assert found.graph is not None
    assert found.graph.errors


def test_data_tells_how_much_of_what_there_is(tmp_path: Path) -> None:
    x, y = np.zeros((6, 2), np.float32), np.arange(6) % 3
    (tmp_path / "d.safetensors").write_bytes(pack_tensors({"x": x, "y": y}))
    (tmp_path / "d.csv").write_text("a,b,label\n" + "".join(f"{n},1,{n % 2}\n" for n in range(8)))
    found = inspect(tmp_path / "d.safetensors")
    assert (found.kind, found.facts["samples"], found.facts["classes"]) == ("dataset", 6, 3)
    found = inspect(tmp_path / "d.csv")
    assert (found.kind, found.facts["samples"], found.facts["sample_shape"]) == ("dataset", 8, (2,))


def model_folder(path: Path, index: dict[str, object] | None = None) -> Path:
    """Two files of weights, one of them in a type that numpy does not have."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 4}))
    (path / "a.safetensors").write_bytes(pack_tensors({"one": np.zeros((2, 3), np.float32)}))
    header = json.dumps({"two": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    listed = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}} if index is None else index
    (path / "model.safetensors.index.json").write_text(json.dumps(listed))
    return path


def test_a_model_folder_is_one_model(tmp_path: Path) -> None:
    found = inspect(model_folder(tmp_path / "m"))
    assert (found.kind, found.parameters) == ("model folder", 8)
    assert found.facts["architectures"] == ["LlamaForCausalLM"]
    assert found.metadata["hidden_size"] == 4
    assert {(tensor.name, tensor.dtype) for tensor in found.tensors} == {("one", "F32"), ("two", "BF16")}


def test_a_folder_tells_of_each_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    save(folder / "m.cyxmodel", image_model())
    (folder / "m.onnx").write_bytes(ONNX_GOOD["matmul"])
    (folder / "m.pt").write_bytes(b"\x80\x04\x95nothing good")
    (folder / ".hidden").write_bytes(b"")
    (folder / "inner").mkdir()
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    _, certificate = export_model(Export("m.cyxmodel", ExportOptions("cyxmodel")), folder, lambda stage: None)
    (folder / "export.cyxmodel").unlink()
    (folder / "m.certificate.json").write_bytes(msgspec.json.encode(certificate))
    found = inspect(folder)
    kinds = {
        name: part
        if isinstance(part, str)
        else (part.kind, part.size_bytes == (folder / name).stat().st_size)
        for name, part in found.parts.items()
    }
    assert "pickle" in str(kinds.pop("m.pt"))
    assert kinds == {
        "m.cyxmodel": ("CyxWiz model", True),
        "m.onnx": ("ONNX model", True),
        "m.certificate.json": ("parity certificate", True),
        "tokenizer.json": ("tokenizer", True),
    }
    assert found.runs_in == "each of its files by itself"
    (folder / "m.cyxmodel").unlink()
    assert inspect(folder).runs_in == "cyxwiz serve FOLDER"


def test_of_a_large_folder_so_many_files_are_looked_at(tmp_path: Path) -> None:
    for number in range(MAX_PARTS + 1):
        (tmp_path / f"{number:03}.onnx").write_bytes(ONNX_GOOD["matmul"])
    found = inspect(tmp_path)
    assert (len(found.parts), found.facts["files"], found.facts["looked_at"]) == (64, 65, 64)


def test_a_folder_of_pickles_is_refused_as_a_pickle_is(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04\x95nothing good")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArchiveError, match=r"pytorch_model.bin is a pickle"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"one": "../a.safetensors"}}, "names '../a.safetensors'"),
        ({"weight_map": {"one": "/etc/passwd"}}, "names '/etc/passwd'"),
        ({"weight_map": {"one": "a.bin"}}, "names 'a.bin'"),
        ({"weight_map": {"one": "a.safetensors", "more": "a.safetensors"}}, "does not say what"),
        ({"weight_map": {"one": "c.safetensors"}}, "cannot be read"),
        ({"weight_map": {"one": 1}}, "weight_map"),
        ({}, "weight_map"),
    ],
)
def test_an_index_that_lies_or_looks_elsewhere_is_refused(
    tmp_path: Path, index: dict[str, object], reason: str
) -> None:
    with pytest.raises(ArchiveError, match=reason):
        inspect(model_folder(tmp_path / "m", index))


def test_a_pickle_is_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"\x80\x04\x95nothing good")
    with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02")
    for name in ("m.pt", "n.pt"):
        with pytest.raises(ArchiveError, match="is a pickle"):
            inspect(tmp_path / name)


def test_what_is_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    (tmp_path / "nothing.bin").write_bytes(b"what?")
    with pytest.raises(DatasetError, match=r"nothing.bin is no model, no graph and no data"):
        inspect(tmp_path / "nothing.bin")


def test_json_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b'{"model": {"vocab": {"\xff": 1}}}')
    with pytest.raises(GraphFormatError):
        inspect(tmp_path / "t.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="neither a file nor a folder"):
        inspect(tmp_path / "pipe")


def test_long_metadata_is_cut(tmp_path: Path) -> None:
    _, header = pack_header({"w": (np.dtype(np.float32), (1,))}, {"story": "a" * 5000})
    (tmp_path / "m").write_bytes(header + bytes(4))
    assert len(str(inspect(tmp_path / "m").metadata["story"])) < 600


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/refused-*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_hostile_files_are_refused_in_words(path: Path) -> None:
    with pytest.raises(BackendError):
        inspect(path)
