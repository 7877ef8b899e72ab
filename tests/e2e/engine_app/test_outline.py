"""The graph as a list: of ten thousand nodes too, and always as the graph is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from backend.graph import Graph, Link, Node

pytestmark = pytest.mark.e2e


def chain(count: int) -> Graph:
    names = [f"r{number}" for number in range(count)]
    links = [Link(a, "output", b, "input") for a, b in pairwise(names)]
    return Graph("chain", tuple(Node(name, "ReLU") for name in names), tuple(links))


def outline_of(window: Any) -> Any:
    from engine_app.ui.panels.outline import OutlinePanel

    return next(each for each in window.host.walk() if isinstance(each, OutlinePanel))


def shown(outline: Any) -> list[str]:
    """Ids of the nodes whose rows are there, from the top."""
    return [row._note.text.split(" · ")[0] for row in reversed(outline._rows.children)]


async def test_a_list_of_ten_thousand_nodes_makes_only_rows_that_are_seen(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.desk.open(chain(10_000))
        window.content.show_list()
        await driver.frames(4)
        outline = outline_of(window)
        assert shown(outline)[:3] == ["r0", "r1", "r2"]
        assert len(outline._rows.made) < 40
        window.desk.select("r9000")
        await driver.frames(2)
        row = outline._rows.made["r9000"]
        assert row.parent is not None and outline._scroll.shows(row)
        outline._scroll.scroll_by(1e9)
        await driver.frames(2)
        assert shown(outline)[-1] == "r9999" and len(outline._rows.made) < 120


async def test_the_list_follows_edits_and_what_is_found_out_later(open_window: Any) -> None:
    async with open_window() as (window, driver):
        window.open_example()
        window.content.show_list()
        await driver.frames(4)
        outline = outline_of(window)
        assert outline._rows.made["conv1"]._figure.text
        window.desk.remove("relu1")
        assert "relu1" not in shown(outline)
        window.desk.undo()
        assert "relu1" in shown(outline)
        window.desk.set_parameter("conv1", "filters", 7)
        assert outline._rows.made["conv1"]._figure.text.startswith("7 ×")
        window.desk.open(Graph("empty"))
        await driver.frames(2)
        assert outline._scroll.parent is None
