"""onnxruntime tells its maker what it runs and leaves a device id at home; not where we load it.

The control shows that it would, in a process without network, so that nothing is sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.formats.onnx_write import one_node_model
from backend.onnx_node import OnnxNode, OnnxTensor

pytestmark = pytest.mark.e2e

NO_NETWORK = 99
WITHOUT_NETWORK = f"""
import ctypes, sys
new_user, new_network = 0x10000000, 0x40000000
if ctypes.CDLL(None).unshare(new_user | new_network):
    sys.exit({NO_NETWORK})
"""
RUN = "x = numpy.ones((1, 2), numpy.float32)\n"
UNTOLD = "import numpy, onnxruntime, sys\nonnxruntime.InferenceSession(sys.argv[1])\n"
OURS = {
    "a model that is served": "from backend.runtime.base import load_model\n"
    "load_model(Path(sys.argv[1]), 'cpu').run({'in0': x})\n",
    "an export that is tried": "from backend.exporting.runners import open_onnx\n"
    "open_onnx(Path(sys.argv[1]))[0]({'in0': x})\n",
    "an import that is compared": "import shutil\n"
    "from backend.importing.messages import ImportModel\n"
    "from backend.importing.run import import_model\n"
    "folder = Path(sys.argv[1]).parent\n"
    "import_model(ImportModel(('m.onnx',)), folder, lambda stage: None)\n",
}
NO_SOCKETS = """
import os
names = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
assert not [name for name in names if os.path.islink(name) and os.readlink(name).startswith("socket:")]
"""


def left_at_home(tmp_path: Path, code: str) -> list[str]:
    """The files that a program of this code leaves in its user's home, run with one model as its argument."""
    tensor = OnnxTensor("float32", (2,))
    (tmp_path / "m.onnx").write_bytes(one_node_model(OnnxNode("Relu", 20, {}, (tensor,), (tensor,)), {}))
    home = tmp_path / "home"
    home.mkdir()
    # A new environment: where CI is set onnxruntime keeps still by itself, and this would prove nothing.
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])}
    environment |= {"XDG_CACHE_HOME": str(home / ".cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx")],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == NO_NETWORK:
        pytest.skip("a process cannot leave the network here")
    assert done.returncode == 0, done.stderr
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_onnxruntime_would_leave_a_device_id(tmp_path: Path) -> None:
    found = left_at_home(tmp_path, WITHOUT_NETWORK + UNTOLD)
    assert any(path.endswith("deviceid") for path in found)


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_left_where_we_load_it(name: str, tmp_path: Path) -> None:
    head = f"import numpy, sys\nfrom pathlib import Path\n{RUN}"
    found = left_at_home(tmp_path, head + OURS[name] + NO_SOCKETS)
    assert not [path for path in found if "onnxruntime" in path.lower() or "microsoft" in path.lower()]
