"""The window's visual language: spacing, type, colours, radii, motion. Pure; knows no Kivy.

Sizes are in dp (1/160 inch at scale 1). Colours are sRGB, 0 to 1, with alpha.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from backend.catalogue import Category, PortKind

Colour: TypeAlias = tuple[float, float, float, float]

# -- spacing: a grid of 4 dp ---------------------------------------------------------------------
HALF, STEP, MEDIUM, LARGE, HUGE = 4.0, 8.0, 12.0, 16.0, 24.0
TOUCH = 48.0
"""The smallest side of anything that can be touched."""
BAR = 56.0
PANEL_WIDTH, PANEL_NARROW = 320.0, 280.0
ROOMY_FROM = 1440.0
"""Windows at least so many dp wide have room for wide panels."""
COLUMN_WIDTH = 520.0
READING_WIDTH = 760.0
"""Wider pages are not read well."""
RADIUS, RADIUS_LARGE = 8.0, 16.0
ICON = 24.0
STROKE = 2.0

# -- motion: seconds -----------------------------------------------------------------------------
QUICK_S = 0.12
LONG_PRESS_S = 0.5
TOAST_S = 4.0

SCALES = (0.85, 1.0, 1.15, 1.3, 1.5, 2.0)
"""What a user may multiply all sizes by."""


@dataclass(frozen=True, slots=True)
class TextStyle:
    size: float
    """In dp; so is the height of a line."""
    line: float
    bold: bool = False
    mono: bool = False


TITLE = TextStyle(20, 28, bold=True)
HEADING = TextStyle(16, 24, bold=True)
BODY = TextStyle(15, 22)
STRONG = TextStyle(15, 22, bold=True)
SMALL = TextStyle(13, 18)
LABEL = TextStyle(12, 16, bold=True)
MONO = TextStyle(13, 20, mono=True)


@dataclass(frozen=True, slots=True)
class Palette:
    """``on_x`` is what is written on ``x``."""

    name: str
    canvas: Colour
    """Behind nodes."""
    surface: Colour
    """Bars and panels."""
    raised: Colour
    """Cards and rows on a surface, and nodes."""
    pressed: Colour
    line: Colour
    """Separates; carries no meaning."""
    border: Colour
    """Of what can be filled in: 3 : 1 on a surface."""
    text: Colour
    muted: Colour
    accent: Colour
    on_accent: Colour
    accent_soft: Colour
    """Behind what is selected; ``text`` is written on it."""
    success: Colour
    warning: Colour
    danger: Colour
    on_danger: Colour
    shade: Colour
    """Over everything that waits for a dialog."""
    links: Mapping[PortKind, Colour]
    categories: Mapping[Category, Colour]
    plots: tuple[Colour, ...]


def rgb(text: str, alpha: float = 1.0) -> Colour:
    """Of ``1f2630``."""
    red, green, blue = (int(text[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return red, green, blue, alpha


def faded(colour: Colour, alpha: float) -> Colour:
    return (*colour[:3], alpha)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """``share`` of the other, opaque."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one[:3], other[:3], strict=True))
    return red, green, blue, 1.0


def luminance(colour: Colour) -> float:
    """Relative, as WCAG 2.2 defines it."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.2, 1 to 21: text needs 4.5, a shape that carries meaning 3."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def toned(hue: float, saturation: float, ground: Colour, wanted: float) -> Colour:
    """The hue (degrees) at the lightness that stands out from the ground by ``wanted``."""
    on_dark = luminance(ground) < 0.18
    low, high = 0.0, 1.0
    for _ in range(24):
        lightness = (low + high) / 2
        colour = (*colorsys.hls_to_rgb(hue / 360, lightness, saturation), 1.0)
        if (contrast(colour, ground) < wanted) == on_dark:
            low = lightness
        else:
            high = lightness
    return (*colorsys.hls_to_rgb(hue / 360, high if on_dark else low, saturation), 1.0)


_LINK_HUES = {
    PortKind.TENSOR: 210,
    PortKind.LABELS: 38,
    PortKind.PARAMETERS: 275,
    PortKind.LOSS: 352,
    PortKind.OPTIMIZER: 140,
    PortKind.DATASET: 180,
}
_CATEGORY_HUES = {
    Category.STRUCTURE: 215,
    Category.DENSE: 205,
    Category.POOLING: 188,
    Category.NORMALIZATION: 172,
    Category.REGULARIZATION: 155,
    Category.RECURRENT: 258,
    Category.ATTENTION: 275,
    Category.ACTIVATION: 38,
    Category.SHAPE: 70,
    Category.MERGE: 92,
    Category.LOSS: 352,
    Category.OPTIMIZER: 140,
    Category.SCHEDULE: 120,
    Category.PENALTY: 15,
    Category.UTILITY: 225,
    Category.DATA: 180,
    Category.COMPOSITE: 310,
}
_PLOT_HUES = (210, 30, 140, 320, 265, 180)


def _links(ground: Colour) -> Mapping[PortKind, Colour]:
    return MappingProxyType({kind: toned(hue, 0.75, ground, 5.5) for kind, hue in _LINK_HUES.items()})


def _categories(ground: Colour) -> Mapping[Category, Colour]:
    return MappingProxyType({one: toned(hue, 0.6, ground, 4.8) for one, hue in _CATEGORY_HUES.items()})


def _plots(ground: Colour) -> tuple[Colour, ...]:
    return tuple(toned(hue, 0.8, ground, 5.0) for hue in _PLOT_HUES)


_DARK_RAISED, _LIGHT_RAISED = rgb("20262f"), rgb("ffffff")

DARK = Palette(
    name="dark",
    canvas=rgb("0e1116"),
    surface=rgb("161a21"),
    raised=_DARK_RAISED,
    pressed=rgb("313a46"),
    line=rgb("2a313b"),
    border=rgb("76828f"),
    text=rgb("e9edf2"),
    muted=rgb("a7b2bf"),
    accent=rgb("5cb0ff"),
    on_accent=rgb("07131f"),
    accent_soft=rgb("1f3a56"),
    success=rgb("4cd38a"),
    warning=rgb("f3b94a"),
    danger=rgb("ff7b7b"),
    on_danger=rgb("250606"),
    shade=rgb("000000", 0.6),
    links=_links(_DARK_RAISED),
    categories=_categories(_DARK_RAISED),
    plots=_plots(_DARK_RAISED),
)

LIGHT = Palette(
    name="light",
    canvas=rgb("e9edf2"),
    surface=rgb("f6f8fa"),
    raised=_LIGHT_RAISED,
    pressed=rgb("d9e0e8"),
    line=rgb("d5dce4"),
    border=rgb("6d7986"),
    text=rgb("14181e"),
    muted=rgb("4c5763"),
    accent=rgb("0a5fc4"),
    on_accent=rgb("ffffff"),
    accent_soft=rgb("d3e5fa"),
    success=rgb("0c6f3d"),
    warning=rgb("7d5200"),
    danger=rgb("b8222f"),
    on_danger=rgb("ffffff"),
    shade=rgb("10151c", 0.45),
    links=_links(rgb("e9edf2")),
    categories=_categories(_LIGHT_RAISED),
    plots=_plots(_LIGHT_RAISED),
)

PALETTES: Mapping[str, Palette] = MappingProxyType({found.name: found for found in (DARK, LIGHT)})


@dataclass(frozen=True, slots=True)
class Look:
    """What every widget is given: colours, and how many pixels a dp has."""

    palette: Palette = DARK
    pixels_per_dp: float = 1.0

    def px(self, size_dp: float) -> float:
        """Whole pixels, so that edges are sharp."""
        return float(round(size_dp * self.pixels_per_dp))
