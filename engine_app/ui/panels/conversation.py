"""Talking to a language model: what was said, and what it writes while it writes it."""

from __future__ import annotations

from typing import Any

from engine_app.plain import brief
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.tryout import Tryout
from engine_app.ui.widgets.box import Column, Gap, Row, Text, paint
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton
from engine_app.ui.widgets.fields import TextField

SHOWN_MESSAGES = 40
SHOWN_CHARACTERS, SHOWN_LINES = 8000, 200
"""Of one message: the end of it."""


class Conversation(Column):
    """``is_chat``: messages; else a text that the model goes on with."""

    def __init__(self, context: Context, tryout: Tryout, is_chat: bool) -> None:
        look = context.look
        super().__init__(look, gap=theme.MEDIUM)
        self._look, self._tryout, self._is_chat = look, tryout, is_chat
        self._said = Column(look, gap=theme.STEP)
        self._bubbles: list[tuple[Any, Text]] = []
        hint = "Say something" if is_chat else "How the text begins"
        self._field = TextField(look, "", hint=hint, lines=1 if is_chat else 3)
        self._buttons = Row(look)
        self._shown: bool | None = None
        for part in (self._said, self._field, self._buttons):
            self.add_widget(part)
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
        for message, text in self._bubbles:
            waits = not message.text and self._tryout.is_busy and message is messages[-1]
            text.text = "..." if waits else brief(message.text, SHOWN_LINES, SHOWN_CHARACTERS)

    def _bubble(self, is_mine: bool) -> Text:
        look = self._look
        row = Row(look)
        bubble = Column(look, gap=0, pad=(theme.MEDIUM, theme.STEP, theme.MEDIUM, theme.STEP), size_hint_x=5)
        paint(bubble, look.palette.accent_soft if is_mine else look.palette.canvas, look.px(theme.RADIUS))
        text = Text(look, "")
        bubble.add_widget(text)
        for part in (Gap(look), bubble) if is_mine else (bubble, Gap(look)):
            row.add_widget(part)
        self._said.add_widget(row)
        return text

    def _show_written(self) -> None:
        if not self._bubbles and self._tryout.written:
            self._bubbles = [(None, self._bubble(False))]
        for _, text in self._bubbles:
            text.text = brief(self._tryout.written, SHOWN_LINES, SHOWN_CHARACTERS)

    def _show_buttons(self) -> None:
        look, row = self._look, self._buttons
        row.clear_widgets()
        if self._tryout.is_busy:
            row.add_widget(PushButton(look, "Stop", self._tryout.stop, Kind.PLAIN, "stop"))
        else:
            row.add_widget(PushButton(look, "Send", self._send, Kind.PRIMARY, "send"))
        row.add_widget(Gap(look))
        if self._is_chat:
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
