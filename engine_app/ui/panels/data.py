"""Choosing data, and seeing what is in it before anything is trained."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kivy.graphics import Color, Rectangle, SmoothRoundedRectangle
from kivy.graphics.texture import Texture
from kivy.uix.widget import Widget

from backend.readers.bundled import SETS
from backend.readers.table_of_readers import BUNDLED
from engine_app.document import commands
from engine_app.document.edits import Edit
from engine_app.document.errors import EditError
from engine_app.plain import brief, plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.converter import sections_of
from engine_app.ui.panels.pick_file import FilePicker
from engine_app.ui.panels.read_options import open_read
from engine_app.ui.theme import Look
from engine_app.ui.trainer import Preview, Trainer
from engine_app.ui.widgets.box import Card, Column, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import show_order

ENDINGS = (".csv", ".tsv", ".parquet", ".npz", ".npy", ".safetensors", ".txt", ".jsonl", ".gz")
MAX_CLASSES = 12
SEEN_PIXELS = 96
"""Of a thumbnail's shorter side, about: of larger pictures every so many."""
MAX_RANGES = 6
MAX_NAME = 80


class DataCard(Card):
    def __init__(self, context: Context, trainer: Trainer) -> None:
        super().__init__(context.look, gap=theme.MEDIUM)
        self._context = context
        self._trainer = trainer
        self._shown: Any = None
        self._stops = [trainer.listen(self.refresh), context.desk.listen(self.refresh)]
        trainer.look()
        self.refresh()

    def close(self) -> None:
        for stop in self._stops:
            stop()

    def refresh(self) -> None:
        trainer = self._trainer
        fit = self._fit()
        found = (trainer.source, trainer.is_reading, trainer.problem, trainer.preview, fit)
        if found == self._shown:
            return
        self._shown = found
        look = self._context.look
        self.clear_widgets()
        head = Row(look)
        head.add_widget(Text(look, "Data", theme.HEADING, lines=1, pos_hint={"center_y": 0.5}))
        text = "Change" if trainer.source else "Choose data"
        kind = Kind.PLAIN if trainer.source else Kind.PRIMARY
        head.add_widget(PushButton(look, text, self._choose, kind, "data"))
        self.add_widget(head)
        if not trainer.source:
            text = "A table, arrays, images, text, or a set that comes along."
            self.add_widget(Text(look, text, colour=look.palette.muted))
        else:
            row = Row(look)
            name = Text(look, plain(source_name(trainer.source)), theme.STRONG, lines=1)
            name.pos_hint = {"center_y": 0.5}
            row.add_widget(name)
            if self._has_options():
                row.add_widget(PushButton(look, "How to read it", self._ask_how, Kind.QUIET, "settings"))
            self.add_widget(row)
        show_order(
            look, self, trainer.problem, "Reading it" if trainer.is_reading else "", trainer.stop_reading
        )
        if fit is not None:
            text = "Set the graph to this data"
            self.add_widget(
                PushButton(
                    look,
                    text,
                    partial(self._context.desk.do, fit),
                    Kind.PRIMARY,
                    "build",
                    size_hint=(1, None),
                )
            )
        if trainer.preview is not None:
            self._show(trainer.preview)

    def _fit(self) -> Edit | None:
        """What makes the graph take the data; None where it does, or cannot."""
        preview, desk = self._trainer.preview, self._context.desk
        if preview is None or preview.facts is None or desk.state.inside:
            return None
        try:
            return commands.fitted_to(desk.graph, preview.facts)
        except EditError:
            return None

    def _has_options(self) -> bool:
        trainer = self._trainer
        if trainer.source in trainer.converter.origins:
            return True
        path = Path(trainer.source)
        return not trainer.source.startswith(BUNDLED) and any(astuple(sections_of(path)))

    def _ask_how(self) -> None:
        trainer = self._trainer
        open_read(self._context, trainer.converter, trainer.source, trainer.choose)

    def _choose(self) -> None:
        look, host = self._context.look, self._context.host
        column = Column(look, gap=0, pad=(theme.HALF, 0, theme.HALF, theme.STEP))

        def picked(source: str) -> None:
            host.close()
            self._trainer.choose(source)

        def browse() -> None:
            host.close()
            picker = FilePicker(self._context, ENDINGS, lambda path: picked(str(path)), folders=True)
            host.open("Open data", picker, side=not host.is_wide, wide=560, fills=True)

        column.add_widget(
            ListRow(
                look,
                "A file or folder",
                "CSV, Parquet, NumPy, text, a folder of images...",
                browse,
                icon="open",
            )
        )
        for name, text in SETS.items():
            column.add_widget(ListRow(look, name, text, partial(picked, BUNDLED + name), icon="data"))
        host.open("Choose data", column, side=not host.is_wide, wide=480)

    def _show(self, preview: Preview) -> None:
        look, found = self._context.look, preview.description
        shape = " × ".join(map(str, found.sample_shape))
        self.add_widget(Text(look, f"{found.samples:,} samples of {shape}, {found.dtype}", theme.SMALL))
        if _is_images(preview.samples):
            self.add_widget(Thumbnails(look, preview.samples))
        if found.classes:
            self.add_widget(Text(look, f"{len(found.classes)} CLASSES", theme.LABEL, look.palette.muted))
            most = max(entry.samples for entry in found.classes) or 1
            for entry in found.classes[:MAX_CLASSES]:
                self.add_widget(Bar(look, plain(entry.name[:MAX_NAME]), entry.samples, entry.samples / most))
            if len(found.classes) > MAX_CLASSES:
                self._say(f"and {len(found.classes) - MAX_CLASSES} more classes")
        ranges = list(found.targets) + list(found.inputs[:MAX_RANGES] or [found.values])
        self.add_widget(Text(look, "RANGES", theme.LABEL, look.palette.muted))
        for each in ranges:
            row = Row(look)
            row.add_widget(Text(look, plain(each.name[:MAX_NAME]), theme.SMALL, lines=1))
            text = f"{each.minimum:.4g} to {each.maximum:.4g}, mean {each.mean:.3g}"
            row.add_widget(
                Text(look, text, theme.SMALL, look.palette.muted, align="right", lines=1, size_hint_x=1.6)
            )
            self.add_widget(row)
        if len(found.inputs) > MAX_RANGES:
            self._say(f"and {len(found.inputs) - MAX_RANGES} more inputs")
        for warning in found.warnings:
            self.add_widget(Text(look, brief(warning), theme.SMALL, look.palette.warning))

    def _say(self, text: str) -> None:
        look = self._context.look
        self.add_widget(Text(look, text, theme.SMALL, look.palette.muted))


class Bar(Row):
    """A name, a length and a number."""

    def __init__(self, look: Look, name: str, number: int, share: float) -> None:
        super().__init__(look)
        self.add_widget(Text(look, name, theme.SMALL, lines=1, size_hint_x=0.45))
        place = Widget()
        with place.canvas:
            Color(*look.palette.plots[0])
            bar = SmoothRoundedRectangle(radius=[look.px(2)])

        def follow(*_: Any) -> None:
            bar.pos = (place.x, place.y + place.height / 2 - look.px(4))
            bar.size = (max(look.px(2), place.width * share), look.px(8))

        place.bind(pos=follow, size=follow)
        self.add_widget(place)
        self.add_widget(
            Text(
                look, f"{number:,}", theme.SMALL, look.palette.muted, align="right", lines=1, size_hint_x=0.25
            )
        )


class Thumbnails(Row):
    """The first samples, as pictures."""

    def __init__(self, look: Look, samples: Any) -> None:
        super().__init__(look, gap=theme.HALF, size_hint_y=None, height=look.px(theme.TOUCH))
        self._textures = [_texture(sample) for sample in samples]
        with self.canvas:
            Color(1, 1, 1)
            self._drawn = [Rectangle(texture=texture) for texture in self._textures]
        self.bind(pos=self._arrange, size=self._arrange)
        self._look = look

    def _arrange(self, *_: Any) -> None:
        side, gap = self._look.px(theme.TOUCH), self._look.px(theme.HALF)
        for at, drawn in enumerate(self._drawn):
            x = self.x + at * (side + gap)
            is_inside = x + side <= self.x + self.width + 1
            drawn.pos, drawn.size = (x, self.y), (side, side) if is_inside else (0, 0)


def _is_images(samples: Any) -> bool:
    return samples.ndim == 4 and samples.shape[1] in (1, 3) and min(samples.shape[2:]) >= 2


def _texture(sample: Any) -> Texture:
    """Of (channels, height, width); the least value is black and the greatest white."""
    coarse = max(1, min(sample.shape[1:]) // SEEN_PIXELS)
    sample = sample[:, ::coarse, ::coarse]
    low, high = float(sample.min()), float(sample.max())
    pixels = np.clip((sample.astype(np.float32) - low) / ((high - low) or 1) * 255, 0, 255).astype(np.uint8)
    pixels = np.moveaxis(np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, 0, 2)
    texture = Texture.create(size=(pixels.shape[1], pixels.shape[0]), colorfmt="rgb")
    texture.mag_filter = "nearest"
    texture.blit_buffer(np.ascontiguousarray(pixels[::-1]).tobytes(), colorfmt="rgb", bufferfmt="ubyte")
    return texture


def source_name(source: str) -> str:
    return source if source.startswith(BUNDLED) else Path(source).name
