"""Three steps for who starts the window for the first time."""

from __future__ import annotations

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.widgets.box import Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import Kind, PushButton

STEPS = (
    (
        "Build",
        "A network is a graph of nodes. Add them from the list, tap one to change its parameters. Shapes and "
        "problems follow every change, and undo takes back anything.",
    ),
    (
        "Train",
        "Choose data and start: on this machine, in a process of its own, with live curves. Pause, go on or "
        "cancel at any time.",
    ),
    (
        "Hand it to others",
        "The same graph goes to a stranger's GPU. Tokens are released only for work that arrived and checks "
        "out, segment by segment.",
    ),
)


def start(context: Context, at: int = 0) -> None:
    look, host = context.look, context.host
    title, text = STEPS[at]
    column = Column(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
    column.add_widget(Text(look, text))
    column.add_widget(Text(look, f"Step {at + 1} of {len(STEPS)}", theme.SMALL, look.palette.muted))
    row = Row(look)
    is_last = at == len(STEPS) - 1

    def go_on() -> None:
        host.close()
        start(context, at + 1)

    def example() -> None:
        host.close()
        context.act.open_example()

    row.add_widget(PushButton(look, "Start empty" if is_last else "Skip", host.close, Kind.QUIET))
    row.add_widget(Gap(look))
    if is_last:
        row.add_widget(PushButton(look, "Open the digits example", example, Kind.PRIMARY))
    else:
        row.add_widget(PushButton(look, "Next", go_on, Kind.PRIMARY))
    column.add_widget(row)
    host.open(title, column, wide=480)
