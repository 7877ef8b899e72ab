"""What must be said before Kivy is imported for the first time, since it reads its settings while importing.

Kivy keeps to a folder of its own, leaves the command line and the log to the program, and takes touches
from the window alone: its default input section opens /dev/input, and takes touchpads for touchscreens.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WindowOptions:
    home: Path
    """Kivy's own folder, private to this program."""
    width: int = 1280
    height: int = 800
    max_fps: int = 60


def prepare_kivy(options: WindowOptions) -> None:
    """Imports kivy, without opening a window. Raises RuntimeError if someone was quicker."""
    if "kivy" in sys.modules:
        raise RuntimeError("kivy is already imported, and has read its settings")
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(
        KIVY_HOME=str(options.home),
        KIVY_NO_ARGS="1",
        KIVY_NO_ENV_CONFIG="1",
        KIVY_NO_FILELOG="1",
        KIVY_LOG_MODE="PYTHON",
        KIVY_EVENTLOOP="trio",
        SDL_TOUCH_MOUSE_EVENTS="0",  # or SDL adds a mouse to every finger
        SDL_VIDEO_X11_WMCLASS="cyxwiz",  # what desktops know its windows by
    )
    from kivy.config import Config

    # It tells at length, as critical, of every device and clipboard tool that a machine does not have.
    logging.getLogger("kivy").setLevel(logging.CRITICAL + 1)

    for name in list(Config["input"]):
        Config.remove_option("input", name)
    settings = {
        ("input", "mouse"): "mouse,disable_multitouch",
        ("graphics", "width"): options.width,
        ("graphics", "height"): options.height,
        ("graphics", "minimum_width"): 360,
        ("graphics", "minimum_height"): 480,
        ("graphics", "maxfps"): options.max_fps,
        ("graphics", "multisamples"): 0,  # what is drawn has smooth edges of its own
        ("kivy", "exit_on_escape"): 0,
        ("kivy", "desktop"): 1,
    }
    for (section, name), value in settings.items():
        Config.set(section, name, str(value))


def has_display() -> bool:
    """Whether a window could open; a driver that needs no display counts."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
