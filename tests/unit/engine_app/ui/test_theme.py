from __future__ import annotations

import pytest

from backend.catalogue import Category, PortKind
from engine_app.ui import theme
from engine_app.ui.theme import DARK, LIGHT, Look, Palette, contrast, rgb

PALETTES = pytest.mark.parametrize("palette", [DARK, LIGHT], ids=lambda palette: palette.name)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(rgb("000000"), rgb("ffffff")) == pytest.approx(21)
    assert contrast(rgb("777777"), rgb("ffffff")) == pytest.approx(4.48, abs=0.01)


@PALETTES
def test_text_can_be_read_on_everything_it_is_written_on(palette: Palette) -> None:
    for ground in (palette.canvas, palette.surface, palette.raised, palette.pressed, palette.accent_soft):
        assert contrast(palette.text, ground) >= 7
        assert contrast(palette.muted, ground) >= 4.5
    assert contrast(palette.on_accent, palette.accent) >= 4.5
    assert contrast(palette.on_danger, palette.danger) >= 4.5


@PALETTES
@pytest.mark.parametrize("name", ["accent", "success", "warning", "danger"])
def test_colours_that_say_something_can_be_read_as_text(palette: Palette, name: str) -> None:
    for ground in (palette.canvas, palette.surface, palette.raised, palette.pressed, palette.accent_soft):
        assert contrast(getattr(palette, name), ground) >= 4.5


@PALETTES
def test_shapes_that_carry_meaning_stand_out(palette: Palette) -> None:
    assert min(contrast(palette.border, ground) for ground in (palette.surface, palette.raised)) >= 3
    assert set(palette.links) == set(PortKind)
    assert min(contrast(found, palette.canvas) for found in palette.links.values()) >= 3
    assert set(palette.categories) == set(Category)
    for ground in (palette.surface, palette.raised):  # they are written in the inspector and on nodes
        assert min(contrast(found, ground) for found in palette.categories.values()) >= 4.5
    assert min(contrast(found, palette.raised) for found in palette.plots) >= 4.5  # so is a legend


@PALETTES
def test_no_two_kinds_of_link_look_alike(palette: Palette) -> None:
    colours = list(palette.links.values())
    for at, one in enumerate(colours):
        for other in colours[at + 1 :]:
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.15


def test_sizes_are_on_the_grid_and_in_whole_pixels() -> None:
    sizes = (theme.HALF, theme.STEP, theme.MEDIUM, theme.LARGE, theme.HUGE, theme.TOUCH, theme.BAR)
    assert all(size % 4 == 0 for size in sizes)
    assert Look(pixels_per_dp=1.15).px(13) == 15.0
