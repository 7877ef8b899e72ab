"""An X display of its own with a window manager, a window on it, and hands: real mouse and real keys."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PLACE = Path(__file__).parent / "window.py"
START_S, WAIT_S, PAUSE_S = 120.0, 60.0, 0.05
_HEAD = struct.Struct(">25I")
"""Of an X window dump, in which Xvfb keeps its screen."""


class ScreenError(Exception):
    """The window did not do in time what it should."""


@contextlib.contextmanager
def open_screen(directory: Path, width: int = 1400, height: int = 900) -> Iterator[Screen]:
    """Xvfb and openbox, until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    told, tells = os.pipe()
    with contextlib.ExitStack() as ends:
        server = _start(
            ends,
            [*f"Xvfb -displayfd {tells} -screen 0 {width}x{height}x24 -fbdir".split(), str(directory)],
            directory / "xvfb.log",
            pass_fds=(tells,),
        )
        os.close(tells)
        with os.fdopen(told, "rb") as line:
            number = line.readline().decode().strip()
        if not number:
            raise ScreenError(
                f"Xvfb ended with {server.wait()}: {(directory / 'xvfb.log').read_text()[-500:]}"
            )
        environment = os.environ | {"DISPLAY": f":{number}"}
        environment.pop("SDL_VIDEODRIVER", None)
        _start(ends, ["openbox"], directory / "openbox.log", env=environment)
        yield Screen(environment, directory / "Xvfb_screen0", directory)


def _start(
    ends: contextlib.ExitStack, words: list[str], log: Path, **options: Any
) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
    ends.callback(_end, process)
    return process


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Screen:
    def __init__(self, environment: dict[str, str], memory: Path, directory: Path) -> None:
        self.environment = environment
        self._memory = memory
        self.directory = directory

    def picture(self) -> npt.NDArray[np.uint8]:
        """What is on the screen: (height, width, 3), red first."""
        data = self._memory.read_bytes()
        head = _HEAD.unpack_from(data)
        width, height, stride, colours = head[4], head[5], head[12], head[19]
        begins = head[0] + 12 * colours
        rows = np.frombuffer(data, np.uint8, stride * height, begins).reshape(height, stride)
        return rows[:, : 4 * width].reshape(height, width, 4)[:, :, 2::-1].copy()

    def save(self, name: str) -> Path:
        """For whoever looks into a failed test."""
        from PIL import Image

        path = self.directory / f"{name}.png"
        Image.fromarray(self.picture()).save(path)
        return path

    @contextlib.contextmanager
    def open_window(self, data_dir: Path, file: Path | None = None) -> Iterator[Window]:
        words = [sys.executable, str(PLACE), str(data_dir), *([str(file)] if file else [])]
        log = (self.directory / "window.log").open("wb")
        process = subprocess.Popen(
            words, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            window = Window(self, process)
            window.wait_for(
                lambda: window.find("Add a node") or window.find("Next"), "the first frame", START_S
            )
            window.attach()
            yield window
        except BaseException:
            print(self.save("failed"))
            raise
        finally:
            log.close()
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


class Window:
    """Places are pixels from the window's upper left corner."""

    def __init__(self, screen: Screen, process: subprocess.Popen[str]) -> None:
        self._screen = screen
        self._process = process
        self._pause = threading.Event()
        self._id = ""

    # -- looking -------------------------------------------------------------------------------

    def ask(self, what: str, **more: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"ask": what, **more}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            log = (self._screen.directory / "window.log").read_text(errors="replace")
            raise ScreenError(f"the window ended with {self._process.wait()}:\n{log[-3000:]}")
        return json.loads(answer)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("state")
        return found

    def find(
        self, text: str, *, field: bool = False, until: float | None = None
    ) -> tuple[float, float] | None:
        place = self.ask("find", text=text, field=field, until=until)
        return None if place is None else (place[0], place[1])

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        """The first true value. Raises ScreenError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            self._pause.wait(PAUSE_S)
        seen = ", ".join(self.ask("texts"))
        raise ScreenError(f"waited {timeout_s:g} s for {what}; on the screen: {seen[:1500]}")

    # -- hands ---------------------------------------------------------------------------------

    def attach(self) -> None:
        """Finds the window on the screen, and fills the screen with it."""
        self._id = self.wait_for(self._search, "a window on the display")
        self.wait_for(self._is_managed, "the window manager", START_S)
        self._do("windowactivate", "--sync", self._id)

    def _search(self) -> str:
        found = self._ask_display("search", "--class", "^cyxwiz$")
        return found.stdout.split()[-1] if found.stdout.split() else ""

    def _is_managed(self) -> bool:
        return self._ask_display("get_num_desktops").returncode == 0

    def _ask_display(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = self._screen.environment
        return subprocess.run(
            ["xdotool", *words], env=environment, capture_output=True, text=True, check=False
        )

    def _do(self, *words: object) -> None:
        subprocess.run(
            ["xdotool", *map(str, words)],
            env=self._screen.environment,
            check=True,
            timeout=WAIT_S,
            capture_output=True,
        )

    def move(self, place: tuple[float, float]) -> None:
        self._do("mousemove", "--window", self._id, round(place[0]), round(place[1]))

    def press(self, text: str) -> None:
        """What says so, as soon as it is there."""
        self.click(self.wait_for(lambda: self.find(text), f"{text!r}"))

    def click(self, place: tuple[float, float], button: int = 1, times: int = 1) -> None:
        self.move(place)
        self._do("click", "--repeat", times, "--delay", 60, button)

    def drag(self, start: tuple[float, float], end: tuple[float, float], button: int = 1) -> None:
        self.move(start)
        self._do("mousedown", button)
        for share in (0.0, 0.2, 0.6, 1.0):
            self.move((start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share))
            self.ask("state")  # Kivy tells one place for all that happens within a frame
        self._do("mouseup", button)

    def keys(self, *names: str) -> None:
        self._do("key", "--delay", 30, *names)

    def write(self, text: str) -> None:
        self._do("type", "--delay", 15, "--", text)

    def fill(self, place: tuple[float, float], text: str) -> None:
        """Writes into a field in place of what is in it, and waits until it stands there."""
        self.click(place)
        self.wait_for(lambda: self.ask("written") is not None, "the field to take the keyboard")
        self.keys("ctrl+a")
        self.write(text)
        self.wait_for(lambda: self.ask("written") == text, f"{text!r} to be written")

    def close(self) -> None:
        """As the window manager's button does; the program has to end by itself."""
        self.keys("alt+F4")

    def ended(self, timeout_s: float = WAIT_S) -> int:
        return self._process.wait(timeout_s)
