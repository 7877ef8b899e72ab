"""onnxruntime tells its maker what it runs unless it is told not to before it is first imported."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
IMPORT = re.compile(r"^\s*(?:import|from) onnxruntime", re.MULTILINE)
PACKAGES = ("backend", "p2p", "coordinator", "peer", "engine_app")


def test_whoever_imports_onnxruntime_turns_its_telemetry_off_first() -> None:
    importing = 0
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        source = path.read_text()
        for found in IMPORT.finditer(source):
            importing += 1
            assert '"ORT_DISABLE_TELEMETRY"' in source[: found.start()], path
    assert importing
