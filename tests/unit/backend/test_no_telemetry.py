"""Nothing of ours imports ONNX Runtime without having told it before to send nothing."""

from __future__ import annotations

import re

import pytest

from tests.unit.backend.test_no_pickle import ROOT, sources

IMPORT = re.compile(r"^\s*(import onnxruntime|from onnxruntime)", re.MULTILINE)
USERS = [path for path in sources() if IMPORT.search(path.read_text())]


def test_something_is_looked_at() -> None:
    assert ROOT / "backend" / "runtime" / "onnx_runtime.py" in USERS


@pytest.mark.parametrize("path", USERS, ids=lambda path: path.name)
def test_telemetry_is_off_before_the_first_import(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    told = text.find("ORT_DISABLE_TELEMETRY")
    first = IMPORT.search(text)
    assert first is not None
    assert 0 <= told < first.start()
