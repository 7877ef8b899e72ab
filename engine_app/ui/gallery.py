"""Every control at once, to look at: part of the self-check."""

from __future__ import annotations

from typing import Any

from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import IconButton, Kind, ListRow, PushButton, Segments, Toggle
from engine_app.ui.widgets.fields import Choice, RangeSlider, SearchField, Stepper, TextField
from engine_app.ui.widgets.icons import ICONS
from engine_app.ui.widgets.scroll import Scroll


def build_gallery(look: Look) -> Widget:
    columns = Row(look, gap=theme.LARGE, pad=theme.LARGE)
    for cards in ((_buttons(look), _icons(look)), (_fields(look),), (_rows(look), _type(look))):
        column = Column(look, gap=theme.LARGE, pos_hint={"top": 1})
        for card in cards:
            column.add_widget(card)
        columns.add_widget(column)
    return Scroll(look, columns)


def _card(look: Look, title: str) -> Card:
    card = Card(look)
    card.add_widget(Text(look, title, theme.HEADING))
    return card


def _buttons(look: Look) -> Card:
    card = _card(look, "Buttons")
    for kind in Kind:
        row = Row(look)
        row.add_widget(PushButton(look, kind.value.capitalize(), kind=kind))
        row.add_widget(PushButton(look, "Start", kind=kind, icon="play"))
        disabled = PushButton(look, "Off", kind=kind)
        disabled.disabled = True
        row.add_widget(disabled)
        card.add_widget(row)
    row = Row(look)
    row.add_widget(Toggle(look, True, _ignore))
    row.add_widget(Toggle(look, False, _ignore))
    card.add_widget(row)
    card.add_widget(Segments(look, (("a", "Loss"), ("b", "Accuracy"), ("c", "Rate")), "a", _ignore))
    return card


def _icons(look: Look) -> Card:
    card = _card(look, "Icons")
    names = list(ICONS)
    for at in range(0, len(names), 7):
        row = Row(look, gap=0)
        for name in names[at : at + 7]:
            row.add_widget(IconButton(look, name, name))
        row.add_widget(Gap(look))
        card.add_widget(row)
    return card


def _fields(look: Look) -> Card:
    card = _card(look, "Fields")
    card.add_widget(TextField(look, "Digits, convolutional"))
    wrong = TextField(look, "", check=lambda text: f"found {text!r}, must be an integer")
    wrong.show("seven")
    card.add_widget(wrong)
    card.add_widget(SearchField(look, "Search 111 node types", _ignore))
    card.add_widget(Stepper(look, 32, _ignore, check=lambda text: None))
    card.add_widget(RangeSlider(look, 0.25, 0, 1, _ignore))
    card.add_widget(Choice(look, "same", ("same", "valid"), _ignore))
    return card


def _rows(look: Look) -> Card:
    card = _card(look, "Rows")
    for category, colour in list(look.palette.categories.items())[:5]:
        card.add_widget(ListRow(look, category.value, "What it does, in a line", mark=colour, figure="12"))
    chosen = ListRow(look, "Chosen", icon="check", figure="1 × 8 × 8")
    chosen.choose(True)
    card.add_widget(chosen)
    return card


def _type(look: Look) -> Card:
    card = _card(look, "Type")
    for name in ("TITLE", "HEADING", "STRONG", "BODY", "SMALL", "LABEL", "MONO"):
        card.add_widget(Text(look, f"{name.capitalize()} 0123 AVay", getattr(theme, name)))
    for name in ("muted", "accent", "success", "warning", "danger"):
        card.add_widget(Text(look, f"This is {name}", colour=getattr(look.palette, name)))
    return card


def _ignore(_value: Any) -> None:
    """The gallery changes nothing."""
