"""Where the canvas looks. Screen places are pixels from its top left corner, y downwards. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine_app.document.view import Rect

MIN_ZOOM, MAX_ZOOM = 0.02, 4.0


@dataclass(frozen=True, slots=True)
class View:
    """``x`` and ``y``: the world's place in the corner; ``zoom``: pixels to a unit of the world."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0
    width: float = 1280.0
    height: float = 800.0

    @property
    def visible(self) -> Rect:
        return Rect(self.x, self.y, self.width / self.zoom, self.height / self.zoom)

    def to_world(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x / self.zoom, self.y + y / self.zoom

    def to_screen(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.x) * self.zoom, (y - self.y) * self.zoom

    def panned(self, dx: float, dy: float) -> View:
        """By pixels: what is under a finger stays under it."""
        return replace(self, x=self.x - dx / self.zoom, y=self.y - dy / self.zoom)

    def zoomed(self, factor: float, x: float, y: float) -> View:
        """The place on the screen stays where it is."""
        zoom = min(max(self.zoom * factor, MIN_ZOOM), MAX_ZOOM)
        at_x, at_y = self.to_world(x, y)
        return replace(self, zoom=zoom, x=at_x - x / zoom, y=at_y - y / zoom)

    def resized(self, width: float, height: float) -> View:
        """The middle stays in the middle."""
        x, y = self.visible.centre
        width, height = max(width, 1.0), max(height, 1.0)
        half = width / self.zoom / 2, height / self.zoom / 2
        return replace(self, width=width, height=height, x=x - half[0], y=y - half[1])

    def fitted(
        self, rect: Rect, margin: float = 48.0, largest: float = 1.0, foot: float = 0.0, head: float = 0.0
    ) -> View:
        """All of the rectangle in sight, ``margin`` pixels from the edges, at no more than a zoom.

        ``foot`` and ``head``: pixels at the bottom and at the top that something lies on.
        """
        head, foot = max(head, margin), max(foot, margin)
        across = max(self.width - 2 * margin, 1.0) / max(rect.width, 1.0)
        down = max(self.height - head - foot, 1.0) / max(rect.height, 1.0)
        zoom = min(max(min(across, down, largest), MIN_ZOOM), MAX_ZOOM)
        x, y = rect.centre
        middle = (self.height + head - foot) / 2
        return replace(self, zoom=zoom, x=x - self.width / zoom / 2, y=y - middle / zoom)

    def showing(self, rect: Rect, margin: float) -> View:
        """Panned as little as has the rectangle in sight, ``margin`` pixels from the edges if it fits."""
        seen = self.visible
        x = self.x + _shift(rect.x, rect.width, seen.x, seen.width, margin / self.zoom)
        y = self.y + _shift(rect.y, rect.height, seen.y, seen.height, margin / self.zoom)
        return replace(self, x=x, y=y)


def _shift(start: float, length: float, seen_from: float, seen: float, margin: float) -> float:
    margin = max(min(margin, (seen - length) / 2), 0.0)
    if start < seen_from + margin or length > seen:
        return start - margin - seen_from
    return max(start + length + margin - seen_from - seen, 0.0)
