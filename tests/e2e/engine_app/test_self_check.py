from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.e2e


def test_the_self_check_draws_the_main_screens_at_both_orientations(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "engine_app.cli", "app", "--self-check", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pictures = {path.stem: Image.open(path).convert("RGB") for path in tmp_path.glob("*.png")}
    assert len(pictures) >= 8
    assert {str(tmp_path / f"{name}.png") for name in pictures} == set(done.stdout.split())
    assert {image.size for image in pictures.values()} >= {(1280, 800), (800, 1280), (1920, 1080)}
    for name, image in pictures.items():
        assert len(image.getcolors(1 << 24) or ()) > 100, f"{name} is nearly empty"
