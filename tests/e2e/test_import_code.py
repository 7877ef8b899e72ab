"""``cyxwiz import-code``: source runs in the sandbox alone, and what comes back of it is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine_app import code_files
from engine_app.cli import main

pytestmark = pytest.mark.e2e
EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "digits_cnn.json"
NET = """
import torch
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        return torch.relu(x)
"""
REACHES_OUT = """
import os, socket, subprocess
tried = {
    "files": lambda: open("/etc/passwd"),
    "network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "programs": lambda: subprocess.run(["/bin/true"]),
    "home": lambda: os.listdir(os.path.dirname(os.getcwd())),
}
for name, reach in tried.items():
    try:
        reach()
    except OSError as error:
        print(error)
    else:
        raise RuntimeError(f"reached {name}")
"""
LIES = """
import gc, os, time
from backend.code_import.messages import CodeImported
from backend.workers.main import Connection
(line,) = [each for each in gc.get_objects() if type(each) is Connection]
line.send(CodeImported(name="lie", weights="w"), BODY)
time.sleep(60)
"""


def bring(tmp_path: Path, source: str, shape: str = "4") -> Result:
    path = tmp_path / "net.py"
    path.write_text(source)
    arguments = ["import-code", str(path), "--input", shape, "-o", str(tmp_path / "net.json")]
    return CliRunner().invoke(main, arguments)


def test_an_example_goes_to_code_and_back_with_its_weights(tmp_path: Path) -> None:
    source, back, weights = tmp_path / "net.py", tmp_path / "net.json", tmp_path / "net.safetensors"
    assert CliRunner().invoke(main, ["code", str(EXAMPLE), "-o", str(source)]).exit_code == 0
    arguments = ["--input", "1x8x8", "-o", str(back), "--weights", str(weights)]
    result = CliRunner().invoke(main, ["import-code", str(source), *arguments])
    assert result.exit_code == 0, result.output
    types = [node["type"] for node in json.loads(back.read_text())["nodes"]]
    assert types.count("Conv2D") == types.count("BatchNorm") == 3
    assert weights.stat().st_size > 26_090 * 4


def test_code_reaches_neither_files_nor_network_nor_programs(tmp_path: Path) -> None:
    result = bring(tmp_path, REACHES_OUT + NET)
    assert result.exit_code == 0, result.output


def test_a_graph_that_the_code_made_up_is_checked_like_any_other(tmp_path: Path) -> None:
    result = bring(tmp_path, LIES.replace("BODY", "b'{\"format_version\": 99}'") + NET)
    assert result.exit_code == 1
    assert "format_version is 99" in result.output
    assert not (tmp_path / "net.json").exists()


def test_code_that_ends_the_process_or_never_ends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bring(tmp_path, "import os\nos._exit(3)\n" + NET)
    assert (result.exit_code, "exit code 3" in result.output) == (1, True)
    monkeypatch.setattr(code_files, "IMPORT_S", 6.0)
    result = bring(tmp_path, "while True: pass\n" + NET)
    assert (result.exit_code, "no graph after 6 s" in result.output) == (1, True)
