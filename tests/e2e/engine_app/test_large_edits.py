"""Steps of thousands of nodes go on aside: told, called off by a button, and never half done."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Event
from typing import Any

import pytest
import trio

from backend.graph import Graph, Link, Node
from engine_app.document import commands
from engine_app.document.edits import RemoveNodes
from engine_app.document.view import place_of

pytestmark = pytest.mark.e2e

COUNT = 60


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands would take their time for nothing."""
    from engine_app.ui.panels import workbench

    monkeypatch.setattr(workbench, "MANY", COUNT)


def chain(count: int = COUNT) -> Graph:
    names = [f"r{number}" for number in range(count)]
    links = [Link(a, "output", b, "input") for a, b in pairwise(names)]
    return Graph("chain", tuple(Node(name, "ReLU") for name in names), tuple(links))


class Held:
    """A step that waits in its thread until it is let go."""

    def __init__(self, bench: Any) -> None:
        self.go, self._wiring = Event(), bench.canvas_widget.wiring
        bench.edit("Removing", self._make)

    def _make(self) -> RemoveNodes:
        self.go.wait()
        return RemoveNodes(tuple(node.id for node in self._wiring.nodes))


def button(window: Any, name: str) -> Any:
    return next(
        (
            each
            for each in window.host.walk()
            if getattr(each, "text", "") == name and hasattr(each, "action")
        ),
        None,
    )


async def ended(bench: Any, driver: Any) -> None:
    await driver.until(lambda: not bench._is_working)


COMMANDS = ("arrange", "duplicate", "cut", "mute", "bypass", "collapse", "group", "remove", "dissolve")


async def test_each_step_of_thousands_is_one_step_and_undone(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        bench.canvas_widget.change(commands.nudge(desk.wiring, ["r7"], 900.0, 900.0))
        bench.command("select_all")
        before = desk.graph
        for command in COMMANDS:
            bench.command(command)
            assert bench._is_working and desk.graph is before  # the window goes on
            await ended(bench, driver)
            assert len(desk.state.done) == 2 and desk.graph != before
            assert bench.canvas_widget.scene.index.keys() == {node.id for node in desk.graph.nodes}
            desk.undo()
            assert desk.graph == before and len(bench.canvas_widget.scene.cards) == COUNT
            before = desk.graph


async def test_what_was_copied_from_thousands_is_pasted_beside_them(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        bench.command("select_all")
        for command in ("copy", "paste"):
            bench.command(command)
            await ended(bench, driver)
        assert len(desk.graph.nodes) == 2 * COUNT and len(desk.state.selected) == COUNT
        places = {place_of(node) for node in desk.graph.nodes}
        assert len(places) == 2 * COUNT


async def test_it_is_told_and_called_off(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        before = desk.graph
        held = Held(bench)
        await driver.until(lambda: window.host.message.startswith("Removing 60 nodes"))
        await driver.frames(2)  # until its button has its place
        await driver.tap(button(window, "Cancel"))
        await ended(bench, driver)
        held.go.set()
        assert window.host.message == "Cancelled: nothing has changed."
        assert desk.graph is before and not desk.can_undo
        bench.command("select_all")
        bench.command("mute")  # and then the next one goes through
        await ended(bench, driver)
        assert desk.can_undo


class CalledOffAsItComes(trio.abc.Instrument):
    """Taps a button when the task has its answer, and has not run yet."""

    def __init__(self, tap: Callable[[], Any]) -> None:
        self._tap, self.was_tapped = tap, False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task.coro.cr_code.co_name == "_run" and not self.was_tapped:  # type: ignore[union-attr]
            self.was_tapped = True
            self._tap()


async def test_what_comes_in_the_frame_in_which_it_is_called_off_changes_nothing(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        before, held = desk.graph, Held(bench)
        await driver.until(lambda: window.host.message.startswith("Removing 60 nodes"))
        calling_off = CalledOffAsItComes(button(window, "Cancel").action)
        trio.lowlevel.add_instrument(calling_off)
        held.go.set()
        await ended(bench, driver)
        trio.lowlevel.remove_instrument(calling_off)
        assert calling_off.was_tapped and desk.graph is before
        assert window.host.message == "Cancelled: nothing has changed."


async def test_a_graph_that_changes_meanwhile_keeps_that_change_alone(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        held = Held(bench)
        bench.command("arrange")
        assert window.host.message == "The step before is still being made."
        desk.rename("Mine")
        held.go.set()
        await ended(bench, driver)
        await driver.frames(2)
        assert (desk.graph.name, len(desk.graph.nodes), len(desk.state.done)) == ("Mine", COUNT, 1)
        assert "changed meanwhile" in window.host.message


async def test_a_refusal_from_aside_is_told_and_changes_nothing(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain())
        bench, desk = window.content.bench, window.desk
        graph = desk.graph
        bench.edit("Removing", lambda: RemoveNodes(("nobody",)))
        await driver.until(lambda: "no node 'nobody'" in window.host.message)
        assert desk.graph is graph and not bench._is_working
