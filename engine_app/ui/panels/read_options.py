"""How data is read, where its file alone does not say: the target, what is missing, texts, time series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kivy.clock import Clock

from backend.readers.source import Missing, ReadOptions, Task
from engine_app.plain import brief, plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.converter import Converter, sections_of
from engine_app.ui.files import holds
from engine_app.ui.panels.pick_file import path_of
from engine_app.ui.parameters import whole_problem
from engine_app.ui.widgets.box import Column, Row, Text
from engine_app.ui.widgets.buttons import Kind, PushButton, Segments
from engine_app.ui.widgets.facts import ProgressLine, labelled
from engine_app.ui.widgets.fields import Stepper, TextField
from engine_app.ui.widgets.overlays import Foot

MISSING = (("refuse", "Refuse"), ("drop", "Drop the row"), ("fill", "Fill in the mean"))
TASKS = (("auto", "Automatic"), ("classification", "Classes"), ("regression", "Numbers"))
CHANNELS = (("", "As they are"), ("1", "Grey"), ("3", "Colour"))
MOST = 1 << 16


Done = Callable[[str], Any]
Check = Callable[[str], str | None]


def _fine(_text: str) -> None:
    """Whatever is written will do."""


class ReadSheet(Column):
    """Reads with these options, and gives ``done`` the dataset file that comes of it."""

    def __init__(
        self,
        context: Context,
        converter: Converter,
        source: Path,
        given: ReadOptions,
        done: Callable[[str], Any],
    ) -> None:
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self._context, self._converter = context, converter
        self._source, self._done = source, done
        self._values: dict[str, Any] = {"missing": given.missing.value, "task": given.task.value}
        self._values["channels"] = str(given.channels or "")
        self._fields: dict[str, TextField] = {}
        self._into: Column = self
        self._wrong = ""
        self.add_widget(Text(look, plain(source.name), theme.STRONG, lines=1))
        found = sections_of(source)
        if found.table:
            self._add_table(given)
        if found.table:
            plainly = ReadOptions()
            self._fold("Text in a column", lambda: self._add_text(given, is_table=True), bool(given.text))
            self._fold("Time series", lambda: self._add_series(given), given.window != plainly.window)
        elif found.text:
            self._add_text(given, is_table=False)
        if found.images:
            self._add_images(given)
        if found.arrays:
            self._add_path("labels", "File of labels", given.labels, "For arrays and IDX files")
        self.foot = Foot(look)
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = converter.listen(self._soon)
        self.refresh()

    def close(self) -> None:
        self._stop()
        self._soon.cancel()

    # -- controls ------------------------------------------------------------------------------

    def _fold(self, title: str, add: Callable[[], None], is_open: bool) -> None:
        """What few tables need is behind its title until it is asked for; what it says counts as it is."""
        self._into = part = Column(self._context.look, gap=theme.LARGE)
        add()
        self._into = self
        if is_open:
            self.add_widget(part)
            return

        def unfold() -> None:
            at = self.children.index(button)
            self.remove_widget(button)
            self.add_widget(part, index=at)

        button = PushButton(self._context.look, title, unfold, Kind.QUIET, "down")
        self.add_widget(button)

    def _add_table(self, given: ReadOptions) -> None:
        row = Row(self._context.look, gap=theme.LARGE)
        row.add_widget(self._text("target", "Column to predict", ", ".join(given.target), "the last one"))
        row.add_widget(self._text("drop", "Columns to leave out", ", ".join(given.drop), "none"))
        self.add_widget(row)
        self._add_choice("task", "The target is", TASKS)
        self._add_choice("missing", "Where a value is missing", MISSING)

    def _add_text(self, given: ReadOptions, is_table: bool) -> None:
        if is_table:
            self._into.add_widget(self._text("text", "Column of text to cut into tokens", given.text, "none"))
        row = Row(self._context.look, gap=theme.LARGE)
        row.add_widget(self._number("length", "Tokens in a sample", given.length, 1))
        row.add_widget(self._number("vocabulary", "Tokens that there are", given.vocabulary, 259))
        self._into.add_widget(row)
        self._add_path("tokenizer", "Tokenizer", given.tokenizer, "tokenizer.json; empty: one is trained")

    def _add_series(self, given: ReadOptions) -> None:
        row = Row(self._context.look, gap=theme.MEDIUM)
        row.add_widget(self._number("window", "Rows in a window", given.window, 0))
        row.add_widget(self._number("horizon", "Rows ahead", given.horizon, 1))
        row.add_widget(self._number("stride", "From one to the next", given.stride, 1))
        self._into.add_widget(row)
        look = self._context.look
        text = "A window above 0 makes a time series of the table."
        self._into.add_widget(Text(look, text, theme.SMALL, look.palette.muted))

    def _add_images(self, given: ReadOptions) -> None:
        size = "x".join(map(str, given.image_size)) if given.image_size else ""
        self.add_widget(self._text("size", "Height x width", size, "32x32; empty: as they are", size_problem))
        self._add_choice("channels", "Colours", CHANNELS)

    def _add_choice(self, name: str, title: str, choices: tuple[tuple[str, str], ...]) -> None:
        look = self._context.look
        chosen = Segments(look, choices, self._values[name], partial(self._values.__setitem__, name))
        self.add_widget(labelled(look, title, chosen))

    def _add_path(self, name: str, title: str, given: Path | None, hint: str) -> None:
        self._into.add_widget(self._text(name, title, str(given or ""), hint, path_problem))

    def _text(
        self,
        name: str,
        title: str,
        value: str,
        hint: str,
        check: Callable[[str], str | None] = lambda text: None,
    ) -> Column:
        look = self._context.look
        self._fields[name] = TextField(look, value, check=check, hint=hint)
        return labelled(look, title, self._fields[name])

    def _number(self, name: str, title: str, value: int, low: int) -> Column:
        look = self._context.look
        stepper = Stepper(look, value, lambda _value: None, check=lambda text: whole_problem(text, low, MOST))
        self._fields[name] = stepper.field
        return labelled(look, title, stepper)

    # -- what they say -------------------------------------------------------------------------

    def options(self) -> ReadOptions | None:
        """None where something is written that will not do; it is told beside its field."""
        if any(field.problem for field in self._fields.values()):
            return None
        text = {name: field.text.strip() for name, field in self._fields.items()}
        size = text.get("size", "").lower().partition("x")
        plain_options = ReadOptions()
        return ReadOptions(
            target=_names(text.get("target", "")),
            drop=_names(text.get("drop", "")),
            missing=Missing(self._values["missing"]),
            task=Task(self._values["task"]),
            labels=_path(text.get("labels", "")),
            image_size=(int(size[0]), int(size[2])) if size[0] else None,
            channels=int(self._values["channels"]) if self._values["channels"] else None,
            text=text.get("text", ""),
            length=int(text.get("length", plain_options.length)),
            vocabulary=int(text.get("vocabulary", plain_options.vocabulary)),
            tokenizer=_path(text.get("tokenizer", "")),
            window=int(text.get("window", plain_options.window)),
            horizon=int(text.get("horizon", plain_options.horizon)),
            stride=int(text.get("stride", plain_options.stride)),
        )

    def refresh(self) -> None:
        look, converter, part = self._context.look, self._converter, self.foot
        part.clear_widgets()
        for problem in filter(None, (self._wrong, converter.problem)):
            part.add_widget(Text(look, brief(problem), colour=look.palette.danger))
        if converter.is_busy:
            line = ProgressLine(look)
            line.show(converter.share)
            part.add_widget(line)
            row = Row(look)
            told = f"Reading, {converter.share:.0%}"
            row.add_widget(
                Text(look, told, theme.SMALL, look.palette.muted, lines=1, pos_hint={"center_y": 0.5})
            )
            row.add_widget(PushButton(look, "Cancel", converter.cancel, Kind.QUIET, "stop"))
            part.add_widget(row)
            return
        part.add_widget(
            PushButton(look, "Read it this way", self._start, Kind.PRIMARY, "data", size_hint=(1, None))
        )

    def _start(self) -> None:
        options = self.options()
        self._wrong = "" if options is not None else "One of the values will not do: see below its field."
        if options is None:
            self.refresh()
        elif options == ReadOptions():
            self._finish(str(self._source))  # nothing to convert: the file is read as it is
        else:
            self._converter.start(self._source, options, self._finish)

    def _finish(self, source: str) -> None:
        self._context.host.close_with(self)
        self._done(source)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for each in text.split(",") if (name := each.strip()))


def _path(text: str) -> Path | None:
    return path_of(text) if text else None


def size_problem(text: str) -> str | None:
    height, _, width = text.strip().lower().partition("x")
    if not text.strip():
        return None
    fits = all(whole_problem(each, 1, 4096) is None for each in (height, width))
    return None if fits else f"found {text[:20]!r}, must be height and width such as 32x32, at most 4096"


def path_problem(text: str) -> str | None:
    path = _path(text.strip())
    return None if path is None or holds(Path.is_file, path) else f"there is no file {path}"


def open_read(context: Context, converter: Converter, source: str, done: Done) -> None:
    """For a source that was chosen, or for the file that was made of one."""
    path, options = converter.origins.get(source, (Path(source), ReadOptions()))
    sheet = ReadSheet(context, converter, path, options, done)
    host = context.host
    is_below = not host.is_wide
    host.open("How to read the data", sheet, side=is_below, wide=600, foot=sheet.foot, gone=sheet.close)
