"""Curves as a PNG: as they are seen, on a ground of their own, their names above. Drawn off the screen."""

from __future__ import annotations

from errno import EIO
from pathlib import Path

from kivy.core.text import Label as CoreLabel
from kivy.graphics import Color, Rectangle
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.plots import Plot
from engine_app.ui.theme import Look


def write_plot(path: Path, look: Look, plot: Plot) -> None:
    """Raises OSError."""
    names = _names(look, plot)
    width, height = plot.size
    above = max(name.texture.height for name in names) + 2 * look.px(theme.STEP) if names else 0
    picture = Widget(size=(width, height + above))
    with picture.canvas:
        Color(*look.palette.raised)
        Rectangle(size=picture.size)
        Color(1, 1, 1)
        left = look.px(theme.MEDIUM)
        for name in names:
            Rectangle(texture=name.texture, pos=(left, height + look.px(theme.STEP)), size=name.texture.size)
            left += name.texture.width + look.px(theme.LARGE)
    picture.add_widget(plot.copy(picture.height))
    picture.export_to_png(str(path))
    if not path.is_file():  # Kivy does not say why
        raise OSError(EIO, "the picture could not be written")


def _names(look: Look, plot: Plot) -> list[CoreLabel]:
    size = look.px(theme.LABEL.size)
    labels = [
        CoreLabel(text=name, font_size=size, bold=True, color=each.colour)
        for name, each in plot.shown.items()
    ]
    for label in labels:
        label.refresh()
    return labels
