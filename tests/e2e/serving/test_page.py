"""The page of a model server in a real Chromium, driven as a user's hand does: pointer, keys, buttons."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from local_network import wait_until
from websockets.sync.client import ClientConnection, connect

from backend.facts import DataNotes
from tests.e2e.serving.servers import serving
from tests.e2e.serving.test_raw_inputs import NAMES, classifier, picture
from tests.e2e.serving.test_text_models import GGUF, real_model

pytestmark = pytest.mark.e2e
WAIT_S = 60.0
# Resolves once the selector shows and holds text.
SHOWN = """new Promise((done) => {
  const look = () => {
    const found = document.querySelector(%s);
    if (found && found.offsetParent !== null && found.textContent.trim()) done(found.textContent);
    else requestAnimationFrame(look);
  };
  look();
})"""


class Page:
    """One tab, over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_S))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def run(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def shown(self, selector: str) -> str:
        return str(self.run(SHOWN % json.dumps(selector)))

    def click(self, selector: str) -> None:
        self.drag(selector, (0.5, 0.5), (0.5, 0.5))

    def pick(self, model: str) -> None:
        self.run(f"pick.value = {json.dumps(model)}; pick.dispatchEvent(new Event('change'))")

    def upload(self, selector: str, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def key(self, key: str, number: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number)

    def drag(self, selector: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """From and to these shares of the element's box."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView();"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        points = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in (begin, end)]
        for kind, (x, y) in zip(
            ("mousePressed", "mouseMoved", "mouseReleased"), (points[0], *points[1:] * 2), strict=True
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


@contextmanager
def browsing(url: str, folder: Path) -> Iterator[Page]:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium: scripts/test installs it")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={folder}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("DevTools listening on ws://"):
                break
        port = line.split(":")[2].split("/")[0]
        tab = wait_until(lambda: first_tab(port), WAIT_S, "the browser's tab")
        with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            page = Page(socket)
            page.call("Runtime.enable")
            page.call("Log.enable")
            page.call("Page.navigate", url=url)
            yield page
            assert page.complaints == []
    finally:
        process.kill()
        process.communicate()


def first_tab(port: str) -> dict[str, Any] | None:
    """The browser listens before it has one."""
    with urlopen(f"http://127.0.0.1:{port}/json", timeout=WAIT_S) as answer:
        return next((each for each in json.load(answer) if each["type"] == "page"), None)


def test_a_drawing_is_answered_with_names_and_rows_row_by_row(tmp_path: Path) -> None:
    classifier(tmp_path / "pets.cyxmodel", (1, 16, 16), DataNotes(class_names=NAMES, kind="image", white=1.0))
    notes = DataNotes(class_names=NAMES, kind="table", input_names=("age", "colour=red", "colour=blue"))
    classifier(tmp_path / "rows.cyxmodel", (3,), notes)
    files = (str(tmp_path / "pets.cyxmodel"), str(tmp_path / "rows.cyxmodel"))
    with serving(tmp_path / "data", *files) as server, browsing(server.url, tmp_path / "browser") as page:
        assert "1 × 16 × 16" in page.shown("#draw")
        page.drag("#pad", (0.3, 0.3), (0.7, 0.7))
        assert page.shown("#bars .best span") in NAMES
        assert page.shown("#bars .best output").endswith("%")
        page.pick("rows")
        assert "CSV" in page.shown("#table")
        assert page.run("document.getElementById('rows').value") == "age,colour\n0,red"
        page.click("#ask")
        assert page.shown("#bars .best span") in NAMES


def test_files_are_answered_on_a_phone_and_by_keys_alone(tmp_path: Path) -> None:
    classifier(tmp_path / "pets.cyxmodel", (1, 16, 16), DataNotes(class_names=NAMES, kind="image", white=1.0))
    notes = DataNotes(class_names=NAMES, kind="table", input_names=("age", "colour=red", "colour=blue"))
    classifier(tmp_path / "rows.cyxmodel", (3,), notes)
    (tmp_path / "rows.csv").write_text("age,colour\n1,red\n2,blue\n3,red\n")
    (tmp_path / "pet.png").write_bytes(picture())
    files = (str(tmp_path / "pets.cyxmodel"), str(tmp_path / "rows.cyxmodel"))
    with serving(tmp_path / "data", *files) as server, browsing(server.url, tmp_path / "browser") as page:
        phone = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
        page.call("Emulation.setDeviceMetricsOverride", **phone)
        page.shown("#draw")
        page.upload("#image", tmp_path / "pet.png")
        assert page.shown("#bars .best span") in NAMES
        reached = []
        while "image" not in reached:
            page.key("Tab", 9)
            reached.append(page.run("document.activeElement.id"))
            assert len(reached) < 20, reached
        assert {"pick", "clear"} <= set(reached)
        # An answer of the model before is not shown for the next one.
        page.run("predictDrawing(); pick.value = 'rows'; pick.dispatchEvent(new Event('change'))")
        page.shown("#table")
        assert page.run("document.getElementById('answer').hidden")
        page.upload("#csv", tmp_path / "rows.csv")
        told = page.shown("#bars .bar:nth-child(3) span")
        assert told.removeprefix("3: ") in NAMES
        assert page.run("document.getElementById('bars').children.length") == 3
        page.run("document.getElementById('rows').focus()")
        page.key("Tab", 9)
        assert page.run("document.activeElement.id") == "ask"
        page.run("document.getElementById('answer').hidden = true")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r",
                  windowsVirtualKeyCode=13)  # fmt: skip
        page.shown("#answer")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_a_prompt_is_answered_token_by_token(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="scripts/llama_cpp compiles it")
    path = real_model(GGUF) / f"{GGUF}.gguf"
    more = ("--context", "512")
    with serving(tmp_path / "data", str(path), *more) as server, browsing(server.url, tmp_path / "b") as page:
        page.shown("#chat")
        page.run("tokens.value = 8")
        page.click("#prompt")
        page.call("Input.insertText", text="Name a colour.")
        page.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13
        )
        assert page.shown("#talk .mine") == "Name a colour."
        assert page.shown("#talk .theirs")
