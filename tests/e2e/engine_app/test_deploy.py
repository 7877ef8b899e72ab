"""Models leave the window: served and asked by hand, exported and certified."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.facts import DataNotes
from backend.formats.cyxmodel import Normalization
from backend.formats.sniff import ModelFormat
from backend.graph import Node
from engine_app.ui.examples import DIGITS
from tests.unit.backend.catalogue_cases import SEQUENCE, onnx_given
from tests.unit.backend.model_files import OUT, chain, door, save

pytestmark = pytest.mark.e2e

Open = Callable[..., AbstractAsyncContextManager[tuple[Any, Any]]]
SPACE, UP, RIGHT = 32, 273, 275


def digits_model(path: Path) -> Path:
    notes = DataNotes(tuple("0123456789"), kind="image", white=16.0)
    return save(path, DIGITS, Normalization((5.0,), (0.2,)), notes=notes)


def button(root: Any, text: str) -> Any:
    from engine_app.ui.widgets.buttons import PushButton

    return next(
        each for each in root.walk(restrict=True) if isinstance(each, PushButton) and each.text == text
    )


def texts(root: Any) -> list[str]:
    from engine_app.ui.widgets.box import Text

    return [each.text for each in root.walk(restrict=True) if isinstance(each, Text)]


def bars(root: Any) -> list[str]:
    from engine_app.ui.widgets.facts import ShareBar

    return [each.name for each in root.walk(restrict=True) if isinstance(each, ShareBar)]


async def slowly(driver: Any, holds: Callable[[], bool]) -> None:
    """For what a worker has to start for."""
    with trio.fail_after(110):
        while not holds():
            await driver.frames(1)


async def test_a_model_is_deployed_drawn_on_with_a_finger_and_stopped(
    open_window: Open, tmp_path: Path
) -> None:
    model = digits_model(tmp_path / "digits.cyxmodel")
    async with open_window() as (window, driver):
        window.context.act.deploy(model)
        await driver.until(lambda: "A CyxWiz model, run by torch" in texts(window.host.children[0]))
        await driver.frames(8)
        await driver.tap(button(window.host.children[0], "Deploy"))
        (server,) = window.servers.all
        page = window.content
        await slowly(driver, lambda: server.is_over or page.try_it is not None)
        assert server.state == "ready", server.text
        assert server.url.startswith("http://127.0.0.1:")
        await driver.until(lambda: page.try_it.pad is not None)
        await driver.frames(4)
        pad = page.try_it.pad
        x, y = pad.to_window(*pad.pos)
        await driver.drag((x + 60, y + 40), (x + 160, y + 220))
        await slowly(driver, lambda: bool(bars(page)))
        assert len(bars(page)) == 5 and set(bars(page)) < set("0123456789")
        await slowly(driver, lambda: server.reading.requests > 0)
        assert await trio.to_thread.run_sync(_reached, server.url)
        window._may_close()
        assert window.host.is_asking  # it says that somebody may be asking
        driver.key(27)
        await driver.frames()
        await driver.tap(button(page, "Stop"))
        await slowly(driver, lambda: server.is_over)
        assert server.state == "stopped"
        assert not await trio.to_thread.run_sync(_reached, server.url)
        await driver.frames(4)
        await driver.tap(button(page, "Remove"))
        assert window.servers.all == []


def _reached(url: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


async def test_beyond_this_machine_a_key_comes_first_and_taken_ports_are_told(
    open_window: Open, tmp_path: Path
) -> None:
    from backend.workers.model_server import bind
    from engine_app.key_file import read_keys
    from engine_app.ui.panels.serve import ServeSheet

    model = digits_model(tmp_path / "digits.cyxmodel")
    async with open_window() as (window, driver):
        window.context.act.deploy(model)
        sheet = next(each for each in window.host.walk(restrict=True) if isinstance(each, ServeSheet))
        await driver.until(lambda: not button(sheet.foot, "Deploy").disabled)
        sheet._set_host("0.0.0.0")
        await driver.frames(8)
        assert button(sheet.foot, "Deploy").disabled
        await driver.tap(button(sheet, "Make a key"))
        await driver.until(lambda: bool(sheet._key))
        await driver.frames(4)
        assert not button(sheet.foot, "Deploy").disabled
        (kept,) = read_keys(window.context.config.data_dir)
        assert kept.sha256 not in sheet._key and sheet._key.startswith(f"cyx_{kept.id}_")
        sheet._set_host("127.0.0.1")
        with bind("127.0.0.1", 0) as taken:
            sheet._port.input.text = str(taken.getsockname()[1])
            assert "another port is needed" in sheet._port.problem
            sheet._go()
        assert window.servers.all == []


async def test_a_file_that_is_no_model_is_told_before_anything_starts(
    open_window: Open, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    async with open_window() as (window, driver):
        window.context.act.deploy(tmp_path / "model.onnx")
        sheet = window.host.children[0]
        await driver.until(lambda: any("model.onnx is unknown" in text for text in texts(sheet)))
        assert button(sheet, "Deploy").disabled


@pytest.mark.parametrize("place", ["here", "peer"])
async def test_what_is_found_of_a_model_that_was_replaced_or_put_away_is_not_shown(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from engine_app.ui.panels import serve, serve_peer

    slow, fast = tmp_path / "slow.onnx", digits_model(tmp_path / "fast.cyxmodel")
    slow.write_text("no model")
    go, looked = threading.Event(), list[Path]()

    def find(path: Path, tokenizer: Path | None) -> tuple[Path, None]:
        if path == slow:
            assert go.wait(60)
        looked.append(path)
        return path, None

    monkeypatch.setattr(serve if place == "here" else serve_peer, "find_model", find)
    async with open_window() as (window, driver):
        serve.open_deploy(window.context, window.servers, window.network, slow, place)
        sheet = window.host.children[0]
        kind = serve.ServeSheet if place == "here" else serve_peer.PeerSheet
        (form,) = (each for each in sheet.walk(restrict=True) if isinstance(each, kind))
        take = form._take if place == "here" else form.take
        take(fast)
        await driver.until(lambda: form._format is ModelFormat.CYXMODEL)
        take(slow)
        assert button(sheet, "Deploy").disabled, "of this one nothing is known yet"
        take(fast)
        await driver.until(lambda: form._format is ModelFormat.CYXMODEL)
        go.set()
        await driver.until(lambda: looked.count(slow) == 2)
        await driver.frames(4)
        assert form._format is ModelFormat.CYXMODEL
        take(slow)
        window.host.close()
        await driver.until(lambda: looked.count(slow) == 3)
        await driver.frames(4)
        assert form.model is None and form._problem == ""


async def test_a_model_is_talked_to_and_stopped_and_a_pad_is_drawn_on_by_keys(open_window: Open) -> None:
    from engine_app.ui.self_check_models import CHAT_MODEL, SAID, shown_servers

    async with open_window() as (window, driver):
        window.servers.all = shown_servers(Path("/"))
        window.show_page("deploy")
        page = window.content
        await driver.until(lambda: page.try_it is not None and page.try_it.pad is not None)
        page.try_it.pad.has_focus = True
        for code in (SPACE, UP, UP, RIGHT, SPACE):
            assert page.try_it.pad.on_key(code)
        assert page.try_it.pad.strokes == [[(0.5, 0.5), (0.5, 0.55), (0.5, 0.6), (0.55, 0.6)]]
        await driver.until(lambda: bars(page)[:1] == ["3"])
        page.choose("here-2")
        await driver.until(lambda: page.try_it.conversation is not None)
        await driver.frames(4)
        field = page.try_it.conversation._field
        field.input.text = "How is a peer paid?"
        await driver.tap(button(page, "Send"))
        await driver.until(lambda: "".join(SAID) in texts(page))
        assert CHAT_MODEL["name"] in texts(page)
        assert [each.role for each in page.try_it.tryout.messages] == ["user", "assistant"]


async def test_a_model_is_exported_with_its_certificate(open_window: Open, tmp_path: Path) -> None:
    from engine_app.ui.panels.export import ExportSheet

    model = digits_model(tmp_path / "digits.cyxmodel")
    target = tmp_path / "weights.safetensors"
    async with open_window() as (window, driver):
        window.context.act.export(model)
        exporter = window.exporter
        await driver.until(lambda: exporter.graph is not None)
        sheet = next(each for each in window.host.walk(restrict=True) if isinstance(each, ExportSheet))
        sheet._choose("safetensors")
        sheet._target.input.text = str(target)
        await driver.frames(8)
        await driver.tap(button(sheet.foot, "Export"))
        assert exporter.is_busy
        await slowly(driver, lambda: not exporter.is_busy)
        assert exporter.problem == ""
        await driver.frames(4)
        assert await trio.Path(target).is_file()
        assert "The answers are equal, bit for bit" in texts(sheet)
        end = sheet.to_window(sheet.center_x, sheet.y)
        assert end[1] >= sheet.foot.top - 2, "what came of it can be seen without scrolling"
        sheet._target.input.text = str(tmp_path / "second.safetensors")
        sheet._start()
        exporter.cancel()
        await slowly(driver, lambda: not exporter.is_busy)
        assert not await trio.Path(tmp_path / "second.safetensors").exists()


async def test_a_node_that_a_format_cannot_hold_is_named_and_a_tap_selects_it(
    open_window: Open, tmp_path: Path
) -> None:
    from engine_app.ui.panels.export import ExportSheet
    from engine_app.ui.widgets.buttons import ListRow

    graph = chain(door(*SEQUENCE), Node("soft", "OnnxOperator", 1, onnx_given("Softsign", SEQUENCE)), OUT)
    async with open_window() as (window, driver):
        window.desk.open(graph)
        window.context.act.export(save(tmp_path / "soft.cyxmodel", graph))
        await driver.until(lambda: bool(window.exporter.refused.get("pytorch")))
        sheet = next(each for each in window.host.walk(restrict=True) if isinstance(each, ExportSheet))
        sheet._choose("pytorch")
        await driver.frames(8)
        assert button(sheet.foot, "Export").disabled
        row = next(
            e for e in sheet.walk(restrict=True) if isinstance(e, ListRow) and e.name.startswith("soft ")
        )
        await driver.tap(row)
        assert window.page == "build"
        assert window.desk.selected == "soft"
        assert not window.host.is_asking


async def test_the_graph_is_saved_as_a_picture_of_both_kinds(open_window: Open, tmp_path: Path) -> None:
    from kivy.core.image import Image

    from engine_app.ui.panels.graph_files import PictureSheet, open_picture

    async with open_window() as (window, driver):
        window.open_example()
        window.desk.select("conv1")
        open_picture(window.context)
        sheet = next(each for each in window.host.walk(restrict=True) if isinstance(each, PictureSheet))
        sheet.target.input.text = str(tmp_path / "graph.png")
        await driver.frames(8)
        await driver.tap(button(sheet, "Save"))
        # What is told of it may have gone again by the end of a frame that draws so large a picture.
        await driver.until((tmp_path / "graph.png").exists)
        image = Image.load(str(tmp_path / "graph.png"))
        assert image.width > 2000 and image.height > 800
        assert window.desk.selected == "conv1"
        open_picture(window.context)
        sheet = next(each for each in window.host.walk(restrict=True) if isinstance(each, PictureSheet))
        sheet.target.input.text = str(tmp_path / "graph.png")
        sheet.choose("svg")
        await driver.frames(8)
        await driver.tap(button(sheet, "Save"))
        await driver.until(lambda: window.host.message == "Saved graph.svg")
        assert (await trio.Path(tmp_path / "graph.svg").read_text()).startswith("<svg")


async def test_files_dropped_on_the_window_open_as_what_they_are(open_window: Open, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    made = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "rectified",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "relu.onnx"))
    made.node[0].op_type = "Nonsense"
    odd = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(odd, str(tmp_path / "odd.onnx"))
    (tmp_path / "rows.csv").write_text("a,b\n1,0\n2,1\n3,0\n")
    (tmp_path / "strange.xyz").write_text("?")
    (tmp_path / "broken.onnx").write_text("?")
    async with open_window() as (window, driver):

        def drop(name: str) -> None:
            from kivy.core.window import Window

            Window.dispatch("on_drop_file", str(tmp_path / name).encode(), 100, 100)

        drop("rows.csv")
        await driver.until(lambda: window.page == "train" and window.trainer.preview is not None)
        drop("strange.xyz")
        await driver.until(lambda: "strange.xyz cannot be opened" in window.host.message)
        drop("relu.onnx")
        await slowly(driver, lambda: any(node.type == "ReLU" for node in window.desk.graph.nodes))
        assert window.page == "build"
        assert window.settings.recent[0].endswith("relu.cyxmodel")
        await driver.until(lambda: not window.host.is_asking)
        drop("broken.onnx")
        await driver.until(lambda: any("broken.onnx is no ONNX" in text for text in texts(window.host)))
        assert "Deploy it instead" not in texts(window.host)
        window.host.close()
        drop("odd.onnx")
        await slowly(driver, lambda: "Deploy it instead" in texts(window.host))
        await driver.frames(8)
        await driver.tap(button(window.host.children[0], "Deploy it instead"))
        await driver.until(lambda: "odd.onnx" in texts(window.host))
