"""What takes long is called off by a button, and leaves nothing: reading, the chain, a model, a picture."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import trio

from backend.graph import Graph
from backend.serialize import dump_graph
from engine_app.config import Config

pytestmark = pytest.mark.e2e


def buttons(window: Any, text: str) -> list[Any]:
    from engine_app.ui.widgets.buttons import PushButton

    return [each for each in window.host.walk() if isinstance(each, PushButton) and each.text == text]


async def press(window: Any, driver: Any, text: str) -> None:
    await driver.until(lambda: bool(buttons(window, text)))
    await driver.frames(3)
    await driver.tap(buttons(window, text)[0])


@asynccontextmanager
async def silent_chain(_config: Config) -> AsyncIterator[None]:
    await trio.sleep_forever()
    yield


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """One that does not answer until it is told to."""
    answers = Event()

    def opened(*_: Any) -> None:
        answers.wait()

    monkeypatch.setattr("backend.readers.open_source", opened)
    yield answers
    answers.set()


async def test_reading_data_is_called_off(open_window: Any, tmp_path: Path, disk: Event) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    async with open_window() as (window, driver):
        window.show_page("train")
        window.trainer.choose(str(tmp_path / "data.csv"))
        await press(window, driver, "Call off")
        assert not window.trainer.is_reading and window.trainer.preview is None
        assert window.trainer.problem.startswith("Reading: called off")
        assert window.trainer.source == str(tmp_path / "data.csv")
        await driver.frames(2)
        assert not buttons(window, "Call off")


async def test_what_the_chain_does_not_answer_is_called_off(
    open_window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_app.ui.purse.open_wallet_chain", silent_chain)
    async with open_window() as (window, driver):
        window.show_page("wallet")
        window.purse.refresh()
        await press(window, driver, "Call off")
        await driver.until(lambda: not window.purse.busy)
        assert window.purse.problem == "Asking the chain: called off" and window.purse.units is None


async def test_opening_a_model_is_called_off(open_window: Any, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), str(model))
    async with open_window() as (window, driver):
        before = window.desk.graph
        window.open_file(model)
        await press(window, driver, "Cancel")
        await driver.until(lambda: not window.importer.is_busy)
        await driver.frames(3)
        assert window.desk.graph is before and not window.host.is_asking
        assert not list((tmp_path / "engine" / "models").glob("*.cyxmodel"))


async def test_what_could_not_be_called_off_any_more_is_told_as_it_is(
    open_window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from p2p.chain.wallet import Wallet

    begun, go, make = Event(), Event(), Wallet.create

    def create(*words: Any) -> Wallet:
        begun.set()
        go.wait()
        return make(*words)

    monkeypatch.setattr(Wallet, "create", create)
    async with open_window() as (window, driver):
        window.purse.create("")
        await driver.until(begun.is_set)
        window.purse.call_off()
        go.set()
        await driver.until(lambda: not window.purse.busy)
        assert window.purse.exists and window.purse.address and window.purse.problem == ""


async def test_a_folder_that_answers_late_is_not_shown_over_the_one_wanted_since(
    open_window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_app.ui.panels.pick_file import FilePicker

    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.mkdir()
    fast.mkdir()
    looked, answers, left, look = Event(), Event(), Event(), Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == slow:
            looked.set()
            answers.wait()
            left.set()
        return iter(list(look(path)))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    async with open_window() as (window, driver):
        picker = FilePicker(window.context, (".json",), print, start=fast)
        try:
            picker._go(slow)
            await driver.until(looked.is_set)
            picker._go(fast)
            await driver.until(lambda: picker._path.text == str(fast))
        finally:
            answers.set()
        await driver.until(left.is_set)
        await driver.frames(5)
        assert picker._path.text == str(fast)


async def test_a_file_that_is_read_slowly_is_not_opened_over_the_one_wanted_since(
    open_window: Any, tmp_path: Path
) -> None:
    slow, fast = tmp_path / "slow.json", tmp_path / "fast.json"
    os.mkfifo(slow)
    fast.write_bytes(dump_graph(Graph("Fast")))
    async with open_window() as (window, driver):
        window.open_file(slow)
        await driver.until(lambda: window.host.message.startswith("Opening slow.json"))
        window.open_file(fast)
        await driver.until(lambda: window.desk.graph.name == "Fast")
        await trio.to_thread.run_sync(slow.write_bytes, dump_graph(Graph("Slow")))
        await driver.frames(10)
        assert window.desk.graph.name == "Fast" and window.path == fast
