"""The controls, under a finger and under the keyboard."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TAB, ENTER, ESCAPE = 9, 13, 27


def host_with(*widgets: Any) -> Any:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.box import Column
    from engine_app.ui.widgets.overlays import Host

    look = Look()
    host, column = Host(look), Column(look, pos_hint={"top": 1})
    for widget in widgets:
        column.add_widget(widget)
    host.set_content(column)
    return host


async def test_a_touch_presses_only_if_it_ends_where_it_began(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.buttons import PushButton

    pressed: list[str] = []
    button = PushButton(Look(), "Go", lambda: pressed.append("go"))
    async with show(host_with(button)) as driver:
        assert min(button.size) >= 48
        await driver.tap(button)
        assert pressed == ["go"]
        await driver.drag(button.center, (button.right + 100, button.y - 100))
        assert pressed == ["go"]


async def test_tab_walks_and_enter_presses_and_a_dialog_has_the_keyboard_alone(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.buttons import PushButton

    pressed: list[str] = []
    buttons = [PushButton(Look(), name, lambda name=name: pressed.append(name)) for name in "ab"]
    host = host_with(*buttons)
    async with show(host) as driver:
        for code in (TAB, TAB, ENTER):
            host.on_key(code, [])
        assert pressed == ["b"]
        host.ask("Really?", "It is gone then.", "Delete", lambda: pressed.append("deleted"))
        await driver.frames()
        host.on_key(ENTER, [])
        assert pressed == ["b"]  # nothing in the dialog has the focus yet
        host.on_key(TAB, ["shift"])
        host.on_key(ENTER, [])
        assert pressed == ["b", "deleted"]
        assert not host.is_asking
        host.ask("Really?", "", "Yes", lambda: pressed.append("no"))
        host.on_key(ESCAPE, [])
        assert not host.is_asking


async def test_a_field_says_what_is_wrong_and_gives_only_what_is_right(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.fields import Stepper

    taken: list[float] = []

    def check(text: str) -> str | None:
        return None if text.isdecimal() and 1 <= int(text) <= 8 else f"{text} is not from 1 to 8"

    stepper = Stepper(Look(), 7, taken.append, check=check)
    async with show(host_with(stepper)) as driver:
        stepper.field.input.focus = True
        stepper.field.input.text = "99"
        assert stepper.field.problem == "99 is not from 1 to 8"
        stepper.field.input.focus = False
        assert taken == []
        stepper.field.input.focus = True
        stepper.field.input.text = "7"
        stepper.field.input.focus = False
        less, more = stepper.children[2], stepper.children[0]
        await driver.tap(more)
        await driver.tap(more)
        await driver.tap(less)
        assert taken == [8, 7]  # 9 is not offered


async def test_a_row_in_a_list_can_be_pressed_and_the_list_dragged_from_it(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.box import Column
    from engine_app.ui.widgets.buttons import ListRow
    from engine_app.ui.widgets.overlays import Host
    from engine_app.ui.widgets.scroll import Scroll

    look, pressed = Look(), []
    column = Column(look, gap=0)
    rows = [ListRow(look, f"row {number}", action=lambda n=number: pressed.append(n)) for number in range(60)]
    for row in rows:
        column.add_widget(row)
    host, scroll = Host(look), Scroll(look, column)
    host.set_content(scroll)
    async with show(host) as driver:
        await driver.tap(rows[2])
        assert pressed == [2]
        x, y = rows[9].center
        await driver.drag((x, y), (x, y + 300))
        assert pressed == [2]
        assert scroll.offset > 200
        host.on_key(TAB, ["shift"])
        host.on_key(ENTER, [])
        assert pressed == [2, 59]
        await driver.frames()
        assert rows[59].y >= scroll.y  # the focus is scrolled to


async def test_rows_are_made_as_they_come_into_view_and_the_keyboard_reaches_them_all(show: Any) -> None:
    from functools import partial

    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.buttons import ListRow
    from engine_app.ui.widgets.overlays import Host
    from engine_app.ui.widgets.rows import Entry, LazyRows
    from engine_app.ui.widgets.scroll import Scroll

    look, made = Look(), []

    def make(number: int) -> ListRow:
        made.append(number)
        return ListRow(look, f"row {number}")

    entries = [Entry(str(number), 48, partial(make, number)) for number in range(200)]
    host, rows = Host(look), LazyRows(look)
    scroll = Scroll(look, rows)
    host.set_content(scroll)
    rows.show(entries)
    async with show(host) as driver:
        await driver.frames()
        first = made.copy()
        assert first == list(range(len(first))) and scroll.height / 48 <= len(first) < 40
        scroll.scroll_by(100 * 48)
        await driver.frames()
        shown = [each.name for each in reversed(rows.children)]
        assert "row 100" in shown and "row 0" not in shown and 60 not in made
        scroll.to_top()
        for _ in range(60):
            host.on_key(TAB, [])
        assert host.ring.current.name == "row 59" and host.ring.current.y >= scroll.y
        rows.show(entries[::-1])
        assert rows.children[-1].name != "row 0"
        assert len(made) == len(set(made))  # each is made once


async def test_a_slider_follows_the_finger_and_tells_once_at_the_end(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.fields import RangeSlider

    moved: list[float] = []
    changed: list[float] = []
    slider = RangeSlider(Look(), 0.5, 0, 1, changed.append, step=0.05, moved=moved.append)
    async with show(host_with(slider)) as driver:
        await driver.drag(slider.center, (slider.right, slider.center_y))
        assert changed == [1.0]
        assert moved == sorted(moved) and len(moved) >= 5


async def test_a_long_press_tells_what_a_button_is_for_and_does_not_press_it(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.buttons import IconButton

    pressed: list[str] = []
    button = IconButton(Look(), "undo", "Undo the last change", lambda: pressed.append("undo"))
    host = host_with(button)
    async with show(host) as driver:
        finger = driver.finger(*button.center)
        finger.down()
        await driver.until(lambda: host._tip is not None)
        finger.up()
        await driver.frames()
        assert host._tip is None
        assert pressed == []


async def test_a_tap_in_a_frame_that_takes_long_is_a_tap(show: Any) -> None:
    from kivy.clock import Clock

    from engine_app.ui.theme import LONG_PRESS_S, Look
    from engine_app.ui.widgets.buttons import IconButton

    pressed: list[str] = []
    button = IconButton(Look(), "undo", "Undo the last change", lambda: pressed.append("undo"))
    async with show(host_with(button)) as driver:
        Clock.schedule_once(lambda _: time.sleep(1.5 * LONG_PRESS_S))  # before input is told
        finger = driver.finger(*button.center)
        finger.down()
        await driver.frames(1)
        finger.up()
        await driver.frames()
        assert pressed == ["undo"]


async def test_a_field_keeps_its_letters_from_shortcuts(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.fields import TextField
    from engine_app.ui.widgets.overlays import bind_keys

    field = TextField(Look(), "dense")
    host = host_with(field)
    seen: list[tuple[Any, ...]] = []

    def shortcuts(code: int, _text: str, modifiers: list[str]) -> bool:
        seen.append((code, *modifiers))
        return True

    stop = bind_keys(host, shortcuts)
    async with show(host) as driver:
        await driver.tap(field.input)
        assert host.ring.writing is field.input
        driver.key(ord("x"), "x")
        driver.key(ord("a"), None, ("ctrl", "numlock"))
        driver.write("conv")
        await driver.frames()
        assert field.text == "conv"
        driver.key(ord("s"), None, ("ctrl",))
        driver.key(283)
        assert seen == [(ord("s"), "ctrl"), (283,)]
    stop()


async def test_a_field_can_be_touched_in_the_moment_in_which_it_appears(show: Any) -> None:
    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.box import Column
    from engine_app.ui.widgets.fields import TextField

    column = Column(Look())
    host = host_with(column)
    async with show(host) as driver:
        field = TextField(Look())
        field.input.size = host.size
        column.add_widget(field)
        finger = driver.finger(*host.center)
        finger.down()
        finger.move(*host.center)
        finger.up()
        await driver.frames(2)
        await driver.tap(field.input)
        assert field.input.focus
