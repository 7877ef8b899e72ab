"""How the window looks, and help."""

from __future__ import annotations

import msgspec
from kivy.uix.boxlayout import BoxLayout

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.keys import sheet
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text, flow_of, page_title, paint, width_of
from engine_app.ui.widgets.buttons import PushButton, Segments
from engine_app.ui.widgets.facts import FactList
from engine_app.ui.widgets.scroll import Scroll


class SettingsPage(BoxLayout):
    def __init__(self, context: Context) -> None:
        super().__init__()
        look, act = context.look, context.act
        page = Column(look, gap=0)
        page.add_widget(page_title(look, "Settings"))
        column, second = Column(look, gap=theme.LARGE), Column(look, gap=theme.LARGE)
        settings = act.settings()
        card = _card(context, "Appearance")
        card.add_widget(Text(look, "Colours", theme.SMALL, look.palette.muted))
        card.add_widget(
            Segments(
                look,
                (("dark", "Dark"), ("light", "Light")),
                settings.palette,
                lambda name: act.change_settings(msgspec.structs.replace(act.settings(), palette=name)),
            )
        )
        card.add_widget(Text(look, "Size of everything", theme.SMALL, look.palette.muted))
        card.add_widget(
            Segments(
                look,
                [(str(scale), f"{scale:.0%}") for scale in theme.SCALES],
                str(settings.scale),
                lambda text: act.change_settings(msgspec.structs.replace(act.settings(), scale=float(text))),
            )
        )
        column.add_widget(card)
        card = _card(context, "Help")
        row = Row(look)
        row.add_widget(PushButton(look, "Keyboard shortcuts", act.show_shortcuts, icon="keyboard"))
        row.add_widget(PushButton(look, "Take the tour", act.start_tour, icon="help"))
        row.add_widget(Gap(look))
        card.add_widget(row)
        second.add_widget(card)
        card = _card(context, "This Engine")
        card.add_widget(FactList(look, [("Data folder", str(context.config.data_dir))]))
        second.add_widget(card)
        page.add_widget(flow_of(look, column, second))
        self.add_widget(Scroll(look, page, size_hint_max_x=look.px(2 * theme.READING_WIDTH)))

    def close(self) -> None:
        """It follows nothing."""


def _card(context: Context, title: str) -> Card:
    card = Card(context.look, gap=theme.MEDIUM)
    card.add_widget(Text(context.look, title, theme.HEADING))
    return card


def open_shortcuts(context: Context) -> None:
    """In two columns where they fit."""
    look, host = context.look, context.host
    columns = [Column(look, gap=theme.HUGE, pos_hint={"top": 1}) for _ in range(2 if host.is_wide else 1)]
    lengths = [0 for _ in columns]
    for title, rows in sheet().items():
        section = Column(look, gap=theme.HALF)
        section.add_widget(Text(look, title.upper(), theme.LABEL, look.palette.muted))
        for keys, meaning in rows:
            row = Row(look)
            row.add_widget(Text(look, meaning, lines=1))
            for combination in keys.split(", "):
                row.add_widget(KeyCap(look, combination))
            section.add_widget(row)
        shortest = lengths.index(min(lengths))
        lengths[shortest] += len(rows)
        columns[shortest].add_widget(section)
    body = Row(look, gap=40, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
    for column in columns:
        body.add_widget(column)
    host.open("Keyboard, fingers and mouse", body, wide=520 * len(columns))


class KeyCap(Text):
    """Keys that are pressed together."""

    def __init__(self, look: Look, keys: str) -> None:
        wide = width_of(look, keys, theme.MONO) + 2 * look.px(theme.STEP)
        super().__init__(look, keys, theme.MONO, align="center", lines=1, size_hint_x=None, width=wide)
        paint(self, look.palette.raised, look.px(theme.HALF), look.palette.line)
