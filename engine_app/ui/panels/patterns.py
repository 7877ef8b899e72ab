"""Ready pieces of graph, to choose one from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from engine_app.document.templates import TEMPLATES, Template
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.widgets.box import Column, Text
from engine_app.ui.widgets.buttons import ListRow


def open_patterns(context: Context, take: Callable[[Template], Any]) -> None:
    look, host = context.look, context.host
    column = Column(look, gap=0, pad=(theme.HALF, 0, theme.HALF, theme.STEP))

    def taken(template: Template) -> None:
        host.close()
        take(template)

    for group in dict.fromkeys(each.group for each in TEMPLATES):
        title = Text(look, group.upper(), theme.LABEL, look.palette.muted, lines=1)
        title.padding, title.height = (look.px(theme.MEDIUM), 0), look.px(32)
        column.add_widget(title)
        for each in (each for each in TEMPLATES if each.group == group):
            column.add_widget(ListRow(look, each.name, each.help, partial(taken, each), icon="pattern"))
    host.open("Add a pattern", column, side=not host.is_wide, wide=440)
