from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from backend.errors import ArchiveError
from backend.facts import DataNotes
from backend.formats.cyxmodel import (
    ArchiveLimits,
    CyxModel,
    Normalization,
    OptimizerGroup,
    TrainingState,
    inspect_cyxmodel,
    is_cyxmodel,
    read_cyxmodel,
    write_cyxmodel,
)
from backend.formats.tensors import pack_tensors
from backend.reports import Metrics

GRAPH = b'{"format_version":1}'


def model(**weights: np.ndarray) -> CyxModel:
    return CyxModel(
        graph=GRAPH,
        weights=weights or {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)},
        training=TrainingState(
            step=5,
            total_steps=10,
            segments=2,
            segments_done=1,
            seed=3,
            samples=40,
            sample_shape=(1, 8, 8),
            classes=10,
            normalization=Normalization((0.1,), (1.5,)),
            optimizer_groups=[OptimizerGroup({"lr": 1e-3, "betas": [0.9, 0.999], "fused": True}, [0])],
        ),
        history=(Metrics(step=5, total_steps=10, epoch=0, loss=0.1 + 0.2),),
        optimizer={"0.exp_avg": np.full((2, 3), 1e-20, np.float32)},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_cyxmodel(tmp_path / "m.cyxmodel", model())
    return tmp_path / "m.cyxmodel"


def test_what_is_written_is_read_back_exactly(path: Path) -> None:
    found, wanted = read_cyxmodel(path), model()
    assert (found.graph, found.training, found.history) == (wanted.graph, wanted.training, wanted.history)
    for name, array in wanted.weights.items():
        assert found.weights[name].dtype == array.dtype
        assert found.weights[name].shape == array.shape
        assert found.weights[name].tobytes() == array.tobytes()
    assert found.optimizer is not None
    assert found.optimizer["0.exp_avg"].tobytes() == np.full((2, 3), 1e-20, np.float32).tobytes()


def test_what_no_reader_would_accept_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"'weights\.safetensors' of \d+ bytes, limit 8"):
        write_cyxmodel(tmp_path / "m", model(), ArchiveLimits(weights_bytes=8))
    assert not list(tmp_path.iterdir())


def test_equal_models_are_equal_bytes(path: Path, tmp_path: Path) -> None:
    write_cyxmodel(tmp_path / "again", model())
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_inspection_tells_what_it_is_without_the_arrays(path: Path) -> None:
    summary = inspect_cyxmodel(path)
    assert summary.graph_hash == blake3(GRAPH).hexdigest()
    assert summary.weights["a.weight"].shape == (2, 3)
    assert summary.can_continue
    assert summary.training.step == 5
    assert is_cyxmodel(path)


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="dtype complex64"):
        write_cyxmodel(path, model(w=np.zeros(3, np.complex64)))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "m"
    write_cyxmodel(path, model(w=np.array([1, value], np.float32)))
    with pytest.raises(ArchiveError, match="'w' holds NaN or infinity"):
        read_cyxmodel(path)
    assert not np.isfinite(read_cyxmodel(path, require_finite=False).weights["w"]).all()


def test_every_single_changed_byte_is_noticed_or_harmless(path: Path) -> None:
    """Damage is refused, unless it is in a field that nothing reads: then the model is the same."""
    data, wanted = path.read_bytes(), read_cyxmodel(path)
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            found = read_cyxmodel(path)
        except ArchiveError:
            continue
        assert found.training == wanted.training
        assert found.weights["a.weight"].tobytes() == wanted.weights["a.weight"].tobytes()


def test_every_cut_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ArchiveError):
            read_cyxmodel(path)


NOTES = DataNotes(("cat", "dog"), ("a", "b"), '{"model": 1}', "table", ("price",), (0.5, 1.0), 255.0)


def test_notes_travel_with_the_model_and_a_model_without_them_still_reads(path: Path, tmp_path: Path) -> None:
    assert read_cyxmodel(path).notes == inspect_cyxmodel(path).notes == DataNotes()
    assert "notes.json" not in members(path)
    write_cyxmodel(tmp_path / "n", replace(model(), notes=NOTES))
    assert read_cyxmodel(tmp_path / "n").notes == inspect_cyxmodel(tmp_path / "n").notes == NOTES


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        (b"[1]", "notes.json"),
        (b'{"class_names": ["a", 3]}', "notes.json"),
        (b'{"code": "x"}', "unknown field"),
        (b'{"kind": "pickle"}', "allowed are image, table, text, series"),
        (b'{"white": -1}', "white is -1"),
        (b'{"input_fills": [1.0]}', "a finite one for each"),
        (b'{"tokenizer": "' + b"x" * (9 << 20) + b'"}', "tokenizer of 9437184 characters"),
        (b'{"class_names": ["' + b"x" * 300 + b'"]}', "texts of 256"),
        (b'{"class_names": [' + b'"a",' * 70_000 + b'"a"]}', "allowed are 65536 texts"),
        (b"[" * 100_000, "notes.json"),
        (b" " * (25 << 20), "notes.json"),
    ],
)
def test_hostile_notes_are_refused(path: Path, notes: bytes, words: str) -> None:
    contents = {**members(path), "notes.json": notes}
    manifest = msgspec.json.decode(contents["manifest.json"])
    manifest["members"]["notes.json"] = {"size": len(notes), "blake3": blake3(notes).hexdigest()}
    rebuild(path, {**contents, "manifest.json": msgspec.json.encode(manifest)})
    with pytest.raises(ArchiveError, match=words):
        read_cyxmodel(path)


# -- hostile archives ---------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rebuild(
    path: Path,
    contents: dict[str, bytes],
    change: Callable[[zipfile.ZipInfo], None] = lambda information: None,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            information = zipfile.ZipInfo(name)
            information.compress_type = compression
            change(information)
            archive.writestr(information, data)


def test_a_plain_rebuild_is_accepted(path: Path) -> None:
    """So the refusals below are refusals of what each changes."""
    rebuild(path, members(path))
    assert read_cyxmodel(path).training.step == 5


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../evil", "a/../../evil", "C:\\evil", "graph.json/", "GRAPH.JSON", "x" * 300]
)
def test_a_name_that_is_not_of_the_format_is_refused(path: Path, name: str) -> None:
    rebuild(path, {**members(path), name: b"x"})
    with pytest.raises(ArchiveError, match=r"member|members"):
        read_cyxmodel(path)


def test_a_link_is_refused(path: Path) -> None:
    def as_link(information: zipfile.ZipInfo) -> None:
        if information.filename == "graph.json":
            information.external_attr = (stat.S_IFLNK | 0o777) << 16

    rebuild(path, members(path), as_link)
    with pytest.raises(ArchiveError, match=r"'graph.json' is a link"):
        read_cyxmodel(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_appears_twice_is_refused(path: Path) -> None:
    contents = members(path)
    del contents["optimizer.safetensors"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*contents.items(), ("graph.json", b"{}")]:
            archive.writestr(zipfile.ZipInfo(name), data)
    with pytest.raises(ArchiveError, match=r"'graph.json' appears twice"):
        read_cyxmodel(path)


def test_a_compressed_bomb_is_refused_before_it_unfolds(path: Path) -> None:
    rebuild(path, {**members(path), "weights.safetensors": bytes(64 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArchiveError, match="compressed"):
        read_cyxmodel(path)


def test_too_many_members_are_refused(path: Path) -> None:
    rebuild(path, {f"member{number}": b"" for number in range(5000)})
    with pytest.raises(ArchiveError, match="archive of 5000 members, limit 7"):
        read_cyxmodel(path)


def test_a_member_over_its_limit_is_refused(path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"'weights.safetensors' of \d+ bytes, limit 10"):
        read_cyxmodel(path, ArchiveLimits(weights_bytes=10))


def test_bytes_before_between_and_after_members_are_refused(path: Path) -> None:
    data = path.read_bytes()
    for hidden in (b"MZ" + data, data + b"#!/bin/sh"):
        path.write_bytes(hidden)
        with pytest.raises(ArchiveError):
            read_cyxmodel(path)


def test_overlapping_members_are_refused(path: Path) -> None:
    """Two directory entries over the same bytes: how quines and bombs without compression are built."""
    data = bytearray(path.read_bytes())
    directory_at = struct.unpack_from("<L", data, len(data) - 6)[0]
    second = data.index(b"PK\x01\x02", directory_at + 4)
    struct.pack_into("<L", data, second + 42, 0)
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="expected"):
        read_cyxmodel(path)


def test_header_and_directory_that_disagree_are_refused(path: Path) -> None:
    data = path.read_bytes().replace(b'graph.json{"format', b'grapH.json{"format')
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="header and directory disagree"):
        read_cyxmodel(path)


def test_a_member_that_the_manifest_does_not_vouch_for_is_refused(path: Path) -> None:
    rebuild(path, {**members(path), "graph.json": b'{"format_version":2}'})
    with pytest.raises(ArchiveError, match=r"'graph.json' is not what the manifest says"):
        read_cyxmodel(path)


def test_a_missing_member_is_refused(path: Path) -> None:
    contents = members(path)
    del contents["weights.safetensors"]
    rebuild(path, contents)
    with pytest.raises(ArchiveError, match=r"members missing: weights.safetensors"):
        read_cyxmodel(path)


def remade(path: Path, name: str, data: bytes) -> None:
    """Replaces a member and has the manifest vouch for it."""
    contents = {**members(path), name: data}
    manifest = msgspec.json.decode(contents["manifest.json"])
    manifest["members"][name] = {"size": len(data), "blake3": blake3(data).hexdigest()}
    contents["manifest.json"] = msgspec.json.encode(manifest)
    rebuild(path, contents)


def test_weights_whose_header_lies_are_refused(path: Path) -> None:
    text = b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    remade(path, "weights.safetensors", struct.pack("<Q", len(text)) + text)
    with pytest.raises(ArchiveError, match="tensors take 4398046511104 bytes, the file holds 0"):
        read_cyxmodel(path)


def test_a_training_position_that_cannot_be_is_refused(path: Path) -> None:
    state = msgspec.json.decode(members(path)["training.json"])
    remade(path, "training.json", msgspec.json.encode({**state, "step": 11}))
    with pytest.raises(ArchiveError, match="step 11 of 10"):
        read_cyxmodel(path)


def test_unknown_fields_and_versions_are_refused(path: Path) -> None:
    contents = members(path)
    manifest = msgspec.json.decode(contents["manifest.json"])
    for change, text in ({"format_version": 2}, "readable is cyxmodel version 1"), ({"code": "x"}, "code"):
        rebuild(path, {**contents, "manifest.json": msgspec.json.encode({**manifest, **change})})
        with pytest.raises(ArchiveError, match=text):
            read_cyxmodel(path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for data in (b"", b"PK", bytes(1000), pack_tensors({"a": np.zeros(3)}), io.BytesIO(b"\x80\x04.").read()):
        path.write_bytes(data)
        assert not is_cyxmodel(path)
        with pytest.raises(ArchiveError):
            read_cyxmodel(path)
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_cyxmodel(tmp_path / "absent")
