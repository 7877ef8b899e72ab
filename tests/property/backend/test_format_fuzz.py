"""A taste of the fuzzing that ``scripts/fuzz/formats.py`` does for as long as one likes."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import pytest
from fuzz.formats import ERRORS, READERS, files, play
from fuzz.hostile_models import CORPUS
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ArchiveError
from backend.formats.onnx_check import check_onnx


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_damaged_files_break_no_reader(start: int, tmp_path: Path) -> None:
    corpus = files()
    for seed in range(start, start + 200):
        play(seed, corpus, tmp_path / "model")


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CORPUS.glob("*/*") if path.parent.name in READERS),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_the_corpus_is_judged_as_it_is_named(path: Path, tmp_path: Path) -> None:
    read = READERS[path.parent.name]
    path = Path(copyfile(path, tmp_path / path.name))
    if path.name.startswith("good-"):
        read(path.read_bytes(), path)
    else:
        with pytest.raises(ERRORS):
            read(path.read_bytes(), path)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read(data: bytes) -> None:
    try:
        check_onnx(data)
    except ArchiveError as error:
        assert str(error).startswith("ONNX model: ")
