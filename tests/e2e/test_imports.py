"""What each program really loads: backs up the import contracts, which see only what is written down."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "llama_cpp", "sklearn", "kivy")
MODULES = {
    "coordinator.daemon": HEAVY,
    "peer.daemon": HEAVY,
    "p2p.api": HEAVY,
    "engine_app.jobs": HEAVY,
    "engine_app.inspecting": HEAVY,
    "engine_app.exporting": HEAVY,
}


@pytest.mark.e2e
@pytest.mark.parametrize("module", MODULES)
def test_a_program_loads_no_numeric_runtime(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not loaded & set(MODULES[module])
