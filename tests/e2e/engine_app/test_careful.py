"""What a window must not do, whatever comes: die of a name or a number, lose a graph, do a thing twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.graph import Graph, Node
from engine_app.ui.examples import DIGITS

pytestmark = pytest.mark.e2e

Open = Callable[..., AbstractAsyncContextManager[tuple[Any, Any]]]


async def test_parameters_that_a_file_has_wrong_are_shown_and_can_be_put_right(open_window: Open) -> None:
    wrong = (("Dense", "units", "many"), ("Dense", "units", [1, 2]), ("Dropout", "rate", "half"))
    nodes = tuple(
        Node(f"n{at}", kind, parameters={name: value}) for at, (kind, name, value) in enumerate(wrong)
    )
    async with open_window() as (window, driver):
        window.desk.open(Graph("wrong", nodes))
        for node in nodes:
            window.desk.select(node.id)
            await driver.frames(2)
        window.desk.set_parameter("n0", "units", 8)
        await driver.frames(2)
        assert window.host.message == ""


async def test_names_of_files_that_are_not_unicode_are_listed_and_told(
    open_window: Open, tmp_path: Path
) -> None:
    from engine_app.ui.panels.pick_file import FilePicker
    from engine_app.ui.widgets.buttons import ListRow

    odd = os.fsdecode(b"odd\xff.csv")
    try:
        (tmp_path / odd).write_text("a,b\n1,0\n2,1\n")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    for number in range(300):
        (tmp_path / f"many{number}").mkdir()
    async with open_window() as (window, driver):
        window.show_page("train")
        picked: list[Path] = []
        picker = FilePicker(window.context, (".csv",), picked.append, start=tmp_path)
        window.host.open("Open", picker, fills=True)
        await driver.until(lambda: bool(picker._list.made))
        await driver.frames(2)
        assert len(picker._list.made) < 100  # those in view, of many
        picker._scroll.scroll_by(picker._list.height)
        await driver.frames(2)
        row = next(each for each in picker.walk() if isinstance(each, ListRow) and "odd" in each.name)
        await driver.tap(row)
        assert picked == [tmp_path / odd]
        window.host.close()
        window.trainer.choose(str(picked[0]))
        await driver.until(lambda: not window.trainer.is_reading)
        await driver.frames(3)
        assert "not Unicode" in window.trainer.problem
        assert window.host.message == ""


async def test_a_folder_that_is_called_recent_is_listed_below_the_recent_files(
    open_window: Open, tmp_path: Path
) -> None:
    from engine_app.ui.panels.pick_file import FilePicker
    from engine_app.ui.widgets.buttons import ListRow

    folder = tmp_path / "recent"
    folder.mkdir()
    (folder / "here.csv").write_text("a,b\n1,0\n")
    async with open_window() as (window, driver):
        recent = [tmp_path / "before.csv"]
        picker = FilePicker(window.context, (".csv",), print, recent, folder)
        window.host.open("Open", picker, fills=True)
        await driver.until(lambda: bool(picker._list.made))
        await driver.frames(2)
        rows = [each for each in picker._list.children if isinstance(each, ListRow)]
        assert len(rows) == 3 and window.host.message == ""


async def test_a_path_whose_name_is_too_long_is_no_path(open_window: Open) -> None:
    from engine_app.ui.panels.pick_file import FilePicker, folder_problem
    from engine_app.ui.panels.read_options import path_problem

    long = "x" * 300
    assert folder_problem(f"{long}/x") == f"there is no folder {long}"
    assert path_problem(long) == f"there is no file {long}"
    async with open_window() as (window, driver):
        picker = FilePicker(window.context, (".csv",), print)
        picker._written(long)
        await driver.frames(2)
        assert window.host.message == f"There is no {long}"


async def test_a_path_of_nobodys_home_is_a_path_like_any_other(show: Any) -> None:
    from engine_app.ui.panels.pick_file import folder_problem, path_of

    assert path_of("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
    assert folder_problem("~nobody-has-this-name/x") == "there is no folder ~nobody-has-this-name"


async def test_a_run_whose_loss_was_no_number_is_in_the_list(open_window: Open, tmp_path: Path) -> None:
    from engine_app.ui.runs import Run, RunFiles

    run = Run("diverged", "bundled:digits", 1)
    run.add({"step": 1, "total_steps": 2, "loss": float("nan")})
    run.outcome = "cancelled"
    RunFiles(tmp_path / "engine" / "runs").save(run.saved(ended_at=0))
    async with open_window() as (window, driver):
        window.show_page("train")
        await driver.frames(3)
        window.content.compare(window.trainer.history[0])
        await driver.frames(2)
        assert window.host.message == ""


async def test_two_fingers_press_a_button_once(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.buttons import PushButton
    from tests.e2e.engine_app.test_widgets import host_with

    pressed: list[str] = []
    button = PushButton(Look(), "Pay", lambda: pressed.append("paid"))
    async with show(host_with(button)) as driver:
        fingers = [driver.finger(button.center_x + shift, button.center_y) for shift in (-8, 8)]
        for finger in fingers:
            finger.down()
        for finger in fingers:
            finger.up()
        await driver.frames()
        assert len(pressed) == 1
        await driver.tap(button)
        assert len(pressed) == 2


async def test_a_graph_that_is_begun_while_another_is_written_is_no_part_of_that_file(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_app.ui import files

    written, write = trio.Event(), files.write_graph

    async def slow(path: Path, graph: Graph) -> None:
        await written.wait()
        await write(path, graph)

    monkeypatch.setattr(files, "write_graph", slow)
    async with open_window() as (window, driver):
        window.desk.open_unsaved(DIGITS)
        window._write(tmp_path / "digits.json")
        window._begin_with(Graph("another"))
        written.set()
        await driver.until(lambda: window.host.message.startswith("Saved"))
        assert (window.path, window.desk.graph.name) == (None, "another")
        assert (tmp_path / "digits.json").is_file()


async def test_what_is_edited_while_a_file_is_read_is_not_thrown_away(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_app.document.files import open_graph, save_graph

    save_graph(tmp_path / "digits.json", DIGITS)
    asked, read_on = threading.Event(), threading.Event()

    def slow(path: Path, aspect: float) -> Any:
        asked.set()
        assert read_on.wait(60)
        return open_graph(path, aspect)

    monkeypatch.setattr("engine_app.ui.app.open_graph", slow)
    async with open_window() as (window, driver):
        window.open_file(tmp_path / "digits.json")
        await driver.until(asked.is_set)
        window.desk.add("ReLU")
        read_on.set()
        await driver.until(lambda: window.host.is_asking)
        assert [node.type for node in window.desk.graph.nodes] == ["ReLU"]


async def test_a_job_is_not_paid_in_other_parts_than_are_written(open_window: Open) -> None:
    from engine_app.ui.examples import DIGITS_DATA
    from engine_app.ui.self_check_models import show_network
    from tests.e2e.engine_app.test_orders import Answering

    async with open_window() as (window, driver):
        window.trainer.source = DIGITS_DATA
        window.open_example()
        network = window.network
        show_network(network, DIGITS, DIGITS_DATA)
        session = Answering({"jobs": network.jobs})
        network._session = session
        window.show_page("jobs")
        await driver.frames(4)
        order = window.content._order
        order._segments.field.input.text = "4000"
        order._submit()
        await driver.frames(2)
        assert (session.asked, network.busy) == ([], "")
        assert "1000" in order._segments.field.problem
        order._segments.field.input.text = "8"
        order._submit()
        await driver.until(lambda: session.was_asked("submit") and not network.busy)
        assert session.asked[-1][1]["segments"] == 8


async def test_nothing_of_a_coordinator_is_shown_once_it_is_left(open_window: Open) -> None:
    from engine_app.ui.examples import DIGITS_DATA
    from engine_app.ui.self_check_models import show_network

    async with open_window() as (window, driver):
        network = window.network
        show_network(network, DIGITS, DIGITS_DATA)
        assert network.peers and network.estimate
        network.disconnect()
        await driver.frames(2)
        assert (network.peers, network.estimate, network.state) == ([], None, "off")


async def test_what_a_new_connection_tells_again_is_not_told_twice(open_window: Open) -> None:
    async with open_window() as (window, _):
        story = window.network._story("job", "digits")
        for number in (1, 2):
            story.tell({"kind": "state", "text": f"line {number}", "number": number})
        story.tell({"kind": "progress", "metrics": {"step": 1, "total_steps": 2, "loss": 1.0}})
        assert (story.last, len(story.lines)) == (2, 2)


async def test_a_balance_is_asked_for_whenever_it_is_shown(open_window: Open) -> None:
    async with open_window() as (window, driver):
        window.purse.create("")
        await driver.until(lambda: not window.purse.busy)
        for _ in range(2):
            window.show_page("wallet")
            assert window.purse.busy == "Asking the chain"
            await driver.until(lambda: not window.purse.busy)
            window.show_page("build")
            await driver.frames(2)
