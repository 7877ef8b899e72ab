"""Tests with a real X server, a window manager, a mouse and keys: what an offscreen window cannot show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.display.screen import Screen, Window, open_screen


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    missing = [name for name in ("Xvfb", "openbox", "xdotool") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    with open_screen(tmp_path / "screen") as opened:
        yield opened


@pytest.fixture
def window(screen: Screen, tmp_path: Path) -> Iterator[Window]:
    """As it starts for the first time."""
    with screen.open_window(tmp_path / "engine") as opened:
        yield opened
