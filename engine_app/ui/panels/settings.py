"""How the window looks, and help."""

from __future__ import annotations

import msgspec
from kivy.uix.boxlayout import BoxLayout

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.keys import sheet
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text, flow_of, page_title
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


def shortcut_sheet(context: Context) -> Column:
    look = context.look
    column = Column(look, gap=theme.STEP, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
    for keys, meaning in sheet():
        row = Row(look)
        row.add_widget(Text(look, meaning, lines=1))
        row.add_widget(Text(look, keys, theme.MONO, look.palette.muted, align="right", lines=1))
        column.add_widget(row)
    return column
