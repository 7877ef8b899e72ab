"""Asking a model by hand: drawn, written, picked or typed, as the model's own description says it can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from kivy.clock import Clock

from backend.serving.asked import Asked
from engine_app.plain import brief, plain
from engine_app.ui import questions, theme
from engine_app.ui.context import Context
from engine_app.ui.ink import Pixels, rasterized
from engine_app.ui.panels.conversation import Conversation
from engine_app.ui.panels.pick_file import FilePicker
from engine_app.ui.questions import Answer, Way, picture_shape, ways
from engine_app.ui.tryout import Tryout
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton, Segments
from engine_app.ui.widgets.drawing import DrawPad, Picture
from engine_app.ui.widgets.facts import ShareBar, labelled
from engine_app.ui.widgets.fields import TextField

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_FILE_BYTES = 32 << 20
MAX_CELLS = 64
PAD_DP, SEEN_DP = 252.0, 84.0
BESIDE_FROM_DP = 640.0
"""Windows so wide have the answer beside the drawing, not below."""


class TryIt(Card):
    """Follows a Tryout."""

    def __init__(self, context: Context, tryout: Tryout, is_wide: bool) -> None:
        super().__init__(context.look, gap=theme.MEDIUM)
        self._context, self.tryout, self._is_wide = context, tryout, is_wide
        self._way: Way | None = None
        self._drawn: Any = None
        self.conversation: Conversation | None = None
        self.pad: DrawPad | None = None
        look = context.look
        self.add_widget(Text(look, "Try it", theme.HEADING))
        self._ways, self._body = Column(look), Column(look, gap=theme.MEDIUM)
        self._answer = Column(look, gap=theme.HALF)
        for part in (self._ways, self._body, self._answer):
            self.add_widget(part)
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = tryout.listen(self._soon)
        if tryout.about is None:
            tryout.look()
        self.refresh()

    def close(self) -> None:
        self._stop()
        self._soon.cancel()
        self.tryout.stop()

    def refresh(self) -> None:
        tryout = self.tryout
        if self._way is None and tryout.about is not None:
            self._begin()
        if self.conversation is not None:
            self.conversation.refresh()
        shown = (tryout.answers, tryout.problem, tryout.took_ms, tryout.is_busy, tryout.about is None)
        if shown != self._drawn:
            self._drawn = shown
            self._show_answer()

    def _begin(self) -> None:
        about = self.tryout.about
        found = ways(about) if about is not None else ()
        if not found:
            return
        if len(found) > 1:
            choices = [(way.name, way.value) for way in found]
            self._ways.add_widget(Segments(self._context.look, choices, found[0].name, self._choose))
        self._choose(found[0].name)

    def _choose(self, name: str) -> None:
        self.tryout.stop()
        self._way, self.pad, self.conversation = Way[name], None, None
        if self._answer.parent is not self:
            self._answer.parent.remove_widget(self._answer)
            self.add_widget(self._answer)
        self._body.clear_widgets()
        match self._way:
            case Way.CHAT | Way.WRITE:
                talk = Conversation(self._context, self.tryout, is_chat=self._way is Way.CHAT)
                self.conversation = talk
                self._body.add_widget(talk)
            case Way.DRAW:
                self._show_pad()
            case Way.PICTURE:
                self._show_button("Open a picture", "picture", partial(self._pick, PICTURES, self._picked))
            case Way.TEXT:
                self._show_writing("The text", partial(self._with_about, questions.written))
            case Way.ROW:
                self._show_row()
            case Way.CSV:
                hint = "A header, then a row a line"
                self._show_writing(hint, partial(self._with_about, questions.table), "Open a CSV")
            case Way.NUMBERS:
                shape = self._shape_text()
                self._show_writing(f"A list of {shape}", partial(self._with_about, questions.numbers))

    def _shape_text(self) -> str:
        about = self.tryout.about
        shape = about.inputs[0].shape[1:] if about and about.inputs else ()
        return " × ".join("any" if size < 0 else str(size) for size in shape) + " numbers, as JSON"

    def _with_about(self, make: Callable[..., Asked], *given: Any) -> Asked:
        """Raises QuestionError."""
        if self.tryout.about is None:
            raise questions.QuestionError("the model has not said what it takes")
        return make(self.tryout.about, *given)

    # -- drawing -------------------------------------------------------------------------------

    def _show_pad(self) -> None:
        look = self._context.look
        self.pad = DrawPad(look, PAD_DP, self._ask_drawn)
        self.pad.pos_hint = {"top": 1}
        row = Row(look, gap=theme.LARGE)
        row.add_widget(self.pad)
        side = Column(look, gap=theme.MEDIUM, pos_hint={"top": 1})
        self._seen = Picture(look, SEEN_DP)
        seen = Row(look, gap=theme.MEDIUM)
        seen.add_widget(self._seen)
        about = Column(look, gap=theme.HALF, pos_hint={"top": 1})
        hint = "What the model sees. Draw with a finger, the mouse, or the arrow keys and Space."
        about.add_widget(Text(look, hint, theme.SMALL, look.palette.muted))
        seen.add_widget(about)
        wipe = IconButton(look, "delete", "Wipe it clean", self.pad.wipe, Kind.PLAIN)
        wipe.pos_hint = {"top": 1}
        seen.add_widget(wipe)
        side.add_widget(seen)
        if self._context.host.width >= look.px(BESIDE_FROM_DP):
            self.remove_widget(self._answer)
            side.add_widget(self._answer)
        row.add_widget(side)
        self._body.add_widget(row)

    def _ask_drawn(self) -> None:
        pad, about = self.pad, self.tryout.about
        shape = picture_shape(about) if about is not None else None
        if pad is None or about is None or shape is None:
            return
        strokes = [list(stroke) for stroke in pad.strokes]
        if not strokes:
            self.tryout.stop()
            self.tryout.answers = ()
            self.refresh()
            return

        async def seen() -> None:
            ink = await trio.to_thread.run_sync(rasterized, strokes, *shape[1:])
            if pad is not self.pad or pad.strokes != strokes:
                return  # it was drawn on, or wiped, meanwhile
            self._see(ink)
            self.tryout.ask(lambda: questions.drawn(about, ink.tolist()))

        self._context.start(seen)

    def _see(self, ink: Pixels) -> None:
        if self.pad is not None:
            self._seen.show(ink)

    # -- writing and picking -------------------------------------------------------------------

    def _show_writing(self, hint: str, make: Callable[[str], Asked], file: str = "") -> None:
        look = self._context.look
        field = TextField(look, "", hint=hint, lines=5)
        self._body.add_widget(field)
        row = Row(look)

        def ask() -> None:
            text = field.text
            self.tryout.ask(lambda: make(text))

        row.add_widget(PushButton(look, "Ask", ask, Kind.PRIMARY, "send"))
        if file:

            def take(path: Path) -> None:
                self.tryout.ask(lambda: make(_read(path).decode("utf-8-sig", errors="replace")))

            row.add_widget(PushButton(look, file, partial(self._pick, (".csv",), take), icon="open"))
        row.add_widget(Gap(look))
        self._body.add_widget(row)

    def _show_button(self, text: str, icon: str, action: Callable[[], Any]) -> None:
        row = Row(self._context.look)
        row.add_widget(PushButton(self._context.look, text, action, Kind.PRIMARY, icon))
        row.add_widget(Gap(self._context.look))
        self._body.add_widget(row)

    def _pick(self, endings: tuple[str, ...], picked: Callable[[Path], Any]) -> None:
        host = self._context.host

        def took(path: Path) -> None:
            host.close()
            picked(path)

        picker = FilePicker(self._context, endings, took)
        host.open("Open a file", picker, side=not host.is_wide, wide=560, fills=True)

    def _picked(self, path: Path) -> None:
        make = partial(self._with_about, questions.pictured)
        self.tryout.ask(lambda: make(_read(path), path.suffix.lower()))

    def _show_row(self) -> None:
        look, about = self._context.look, self.tryout.about
        names = about.takes.input_names if about and about.takes else ()
        columns = list(dict.fromkeys(name.partition("=")[0] for name in names))[:MAX_CELLS]
        fields: dict[str, TextField] = {}
        across = 3 if self._is_wide else 2
        for at in range(0, len(columns), across):
            row = Row(look, gap=theme.MEDIUM)
            for name in columns[at : at + across]:
                options = [each.partition("=")[2] for each in names if each.startswith(f"{name}=")]
                fields[name] = TextField(look, "", hint=plain(", ".join(options[:4])))
                row.add_widget(labelled(look, plain(name), fields[name]))
            for _ in range(across - len(columns[at : at + across])):
                row.add_widget(Gap(look))
            self._body.add_widget(row)

        def ask() -> None:
            cells = {name: field.text for name, field in fields.items()}
            self.tryout.ask(lambda: self._with_about(questions.row_of, cells))

        self._show_button("Ask", "send", ask)

    # -- the answer ----------------------------------------------------------------------------

    def _show_answer(self) -> None:
        look, tryout, part = self._context.look, self.tryout, self._answer
        part.clear_widgets()
        if tryout.about is None and tryout.is_busy:
            part.add_widget(Text(look, "Asking the model what it takes", theme.SMALL, look.palette.muted))
        if tryout.problem:
            part.add_widget(Text(look, brief(tryout.problem), colour=look.palette.danger))
        if tryout.about is not None and not ways(tryout.about):
            text = "It takes several inputs: ask it through its address, with each as an array."
            part.add_widget(Text(look, text, colour=look.palette.muted))
        for answer in tryout.answers:
            self._add_answer(answer)
        if tryout.took_ms is not None and tryout.answers:
            took = f"{tryout.took_ms:.0f} ms" if tryout.took_ms >= 1 else "less than 1 ms"
            text = f"Answered in {took}"
            part.add_widget(Text(look, text, theme.SMALL, look.palette.muted))

    def _add_answer(self, answer: Answer) -> None:
        look, part = self._context.look, self._answer
        if answer.title:
            part.add_widget(Text(look, plain(answer.title), theme.LABEL, look.palette.muted))
        for at, (name, share) in enumerate(answer.bars):
            part.add_widget(ShareBar(look, plain(name), share, is_best=at == 0))
        for line in answer.lines:
            part.add_widget(Text(look, plain(line), theme.MONO))


def _read(path: Path) -> bytes:
    """Blocking. Raises QuestionError."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise questions.QuestionError(f"{path.name} has {size} bytes, limit {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise questions.QuestionError(f"{path.name}: {error.strerror}") from error
