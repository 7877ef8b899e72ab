"""Talking to a language model: what was said, and what it writes while it writes it."""

from __future__ import annotations

from typing import Any

from kivy.clock import Clock

from engine_app.plain import brief
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.theme import Look
from engine_app.ui.tryout import Tryout
from engine_app.ui.widgets.box import Column, Gap, Row, Text, paint, width_of
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.scroll import scroll_of

SHOWN_MESSAGES = 40
SHOWN_CHARACTERS, SHOWN_LINES = 8000, 200
"""Of one message: the end of it."""
WIDEST = 0.84
MEASURED = 300
"""Characters of a line: more are wider than any window."""


class _Bubble(Row):
    """As wide as what is said, and never as wide as there is room: whose it is shows."""

    def __init__(self, look: Look, is_mine: bool) -> None:
        super().__init__(look)
        self._look = look
        side = theme.MEDIUM
        self._ground = Column(look, gap=0, pad=(side, theme.STEP, side, theme.STEP), size_hint_x=None)
        colour = look.palette.accent_soft if is_mine else look.palette.canvas
        paint(self._ground, colour, look.px(theme.RADIUS))
        self._text = Text(look, "")
        self._natural = 0.0
        self._ground.add_widget(self._text)
        for part in (Gap(look), self._ground) if is_mine else (self._ground, Gap(look)):
            self.add_widget(part)
        self.bind(width=self._fit)

    def say(self, text: str) -> None:
        if text != self._text.text:
            longest = max(text.split("\n"), key=len)
            self._natural = width_of(self._look, longest[:MEASURED], theme.BODY)
            self._text.text = text
            self._fit()

    def _fit(self, *_: Any) -> None:
        self._ground.width = min(self._natural + self._look.px(2 * theme.MEDIUM) + 2, self.width * WIDEST)


class Conversation(Column):
    """``is_chat``: messages; else a text that the model goes on with."""

    def __init__(self, context: Context, tryout: Tryout, is_chat: bool) -> None:
        look = context.look
        super().__init__(look, gap=theme.MEDIUM)
        self._look, self._tryout, self._is_chat = look, tryout, is_chat
        self._said = Column(look, gap=theme.STEP)
        self._bubbles: list[tuple[Any, _Bubble]] = []
        hint = "Say something" if is_chat else "How the text begins"
        self._field = TextField(look, "", hint=hint, lines=1 if is_chat else 3)
        self._buttons = Row(look, pos_hint={"top": 1})
        self._shown: bool | None = None
        self._asks = Row(look) if is_chat else Column(look)
        if is_chat:
            self._buttons.size_hint_x = None
            self._buttons.bind(minimum_width=self._buttons.setter("width"))
        for part in (self._field, self._buttons):
            self._asks.add_widget(part)
        for part in (self._said, self._asks):
            self.add_widget(part)
        self._said.bind(height=self._follow)
        self._field.input.bind(on_text_validate=lambda *_: self._send())
        self.refresh()

    def refresh(self) -> None:
        if self._is_chat:
            self._show_messages()
        else:
            self._show_written()
        if self._shown != self._tryout.is_busy:
            self._shown = self._tryout.is_busy
            self._show_buttons()

    def _show_messages(self) -> None:
        messages = self._tryout.messages[-SHOWN_MESSAGES:]
        if [message for message, _ in self._bubbles] != messages:
            self._said.clear_widgets()
            self._bubbles = [(each, self._bubble(each.role == "user")) for each in messages]
        for message, bubble in self._bubbles:
            waits = not message.text and self._tryout.is_busy and message is messages[-1]
            bubble.say("..." if waits else brief(message.text, SHOWN_LINES, SHOWN_CHARACTERS))

    def _bubble(self, is_mine: bool) -> _Bubble:
        bubble = _Bubble(self._look, is_mine)
        self._said.add_widget(bubble)
        return bubble

    def _show_written(self) -> None:
        if not self._bubbles and self._tryout.written:
            self._bubbles = [(None, self._bubble(False))]
        for _, bubble in self._bubbles:
            bubble.say(brief(self._tryout.written, SHOWN_LINES, SHOWN_CHARACTERS))

    def _follow(self, *_: Any) -> None:
        """What is written grows upwards while its end is in sight: who reads further up is left alone."""
        scroll = scroll_of(self)
        if scroll is not None and scroll.shows(self._asks):
            Clock.schedule_once(lambda _dt: scroll.scroll_to(self._asks), 0)

    def _show_buttons(self) -> None:
        look, row = self._look, self._buttons
        row.clear_widgets()
        if self._tryout.is_busy:
            row.add_widget(PushButton(look, "Stop", self._tryout.stop, Kind.PLAIN, "stop"))
        else:
            row.add_widget(PushButton(look, "Send", self._send, Kind.PRIMARY, "send"))
        if not self._is_chat:
            row.add_widget(Gap(look))
        else:
            row.add_widget(IconButton(look, "delete", "Begin anew", self._tryout.forget))

    def _send(self) -> None:
        text = self._field.text
        if not text.strip() or self._tryout.is_busy:
            return
        if self._is_chat:
            self._field.input.text = ""
            self._tryout.chat(text)
        else:
            self._bubbles = []
            self._said.clear_widgets()
            self._tryout.complete(text)
