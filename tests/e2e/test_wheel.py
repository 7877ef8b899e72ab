"""The built wheel, installed where nothing of the source tree is, starts every command."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("cyxwiz", "cyxpeer", "cyxcoordinator")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty venv with the wheel; its dependencies are borrowed, so that no network is needed."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    here = Path(sysconfig.get_path("purelib"))
    there = next((home / "lib").glob("python3*")) / "site-packages"
    # Lines of a .pth file add a folder but do not run the .pth files inside it, so this
    # checkout's own editable install stays out.
    (there / "dependencies.pth").write_text(str(here))
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    done = subprocess.run(
        [*install, "--no-deps", "--no-index", str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.e2e
def test_wheel_carries_the_package_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "coordinator/chain/program/escrow.so" in names
    assert "coordinator/chain/program/idl.json" in names
    assert {f"backend/serving/page/{name}" for name in ("index.html", "page.css", "page.js")} <= names
    assert {
        f"{package}/py.typed" for package in ("p2p", "backend", "coordinator", "peer", "engine_app")
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


@pytest.mark.e2e
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_starts_from_the_wheel(installed: Path, command: str, tmp_path: Path) -> None:
    program = str(installed / "bin" / command)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "0.1.0" in version.stdout
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Usage" in help_text.stdout


@pytest.mark.e2e
def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import p2p, backend, coordinator, peer, engine_app; print(p2p.__file__)"
    python = str(installed / "bin" / "python")
    where = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert where.stdout.startswith(str(installed))
