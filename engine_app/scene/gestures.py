"""What fingers and mouse do, told as gestures. A state machine without a clock: times are arguments.

One finger presses, then taps, holds or drags. A second finger ends whatever the first one did, wherever
both are, and from then on they pan and zoom together until the last is lifted: a pinch moves no node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

SLOP = 10.0
"""How far, in dp, a finger may slip and still tap."""
LONG_PRESS_S = 0.5
DOUBLE_TAP_S = 0.3
DOUBLE_TAP_DISTANCE = 32.0
MAX_FINGERS = 10


class Button(Enum):
    """A finger is the primary one."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    MIDDLE = "middle"


@dataclass(frozen=True, slots=True)
class Modifiers:
    shift: bool = False
    control: bool = False
    alt: bool = False


NONE = Modifiers()


@dataclass(frozen=True, slots=True)
class Pressed:
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Tapped:
    x: float
    y: float
    modifiers: Modifiers = NONE
    secondary: bool = False
    """The right button: the menu."""


@dataclass(frozen=True, slots=True)
class DoubleTapped:
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Held:
    """A long press, while the finger is still down. The menu that it opens takes the finger over."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class DragBegun:
    """``x`` and ``y``: where the finger went down."""

    x: float
    y: float
    modifiers: Modifiers = NONE
    button: Button = Button.PRIMARY


@dataclass(frozen=True, slots=True)
class Dragged:
    x: float
    y: float
    dx: float
    dy: float


@dataclass(frozen=True, slots=True)
class DragEnded:
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class DragCancelled:
    pass


@dataclass(frozen=True, slots=True)
class Pinched:
    """``x`` and ``y``: between the fingers, now; they moved by (dx, dy) and spread by ``factor``."""

    x: float
    y: float
    dx: float
    dy: float
    factor: float


@dataclass(frozen=True, slots=True)
class Scrolled:
    """``steps`` above 0 away from the user."""

    x: float
    y: float
    steps: float
    modifiers: Modifiers = NONE


Gesture: TypeAlias = (
    Pressed
    | Tapped
    | DoubleTapped
    | Held
    | DragBegun
    | Dragged
    | DragEnded
    | DragCancelled
    | Pinched
    | Scrolled
)


class _Phase(Enum):
    IDLE = "idle"
    PRESS = "press"
    HELD = "held"
    DRAG = "drag"
    PINCH = "pinch"
    SPENT = "spent"
    """Fingers of a gesture that is over, still down."""


@dataclass(frozen=True, slots=True)
class _Finger:
    x: float
    y: float
    start_x: float
    start_y: float
    down_at_s: float
    modifiers: Modifiers
    button: Button


class GestureRecognizer:
    """Feed it in the order of time; each call returns what that made certain. ``dp``: pixels to a dp."""

    def __init__(self, dp: float = 1.0) -> None:
        self.dp = dp
        self._fingers: dict[object, _Finger] = {}
        self._phase = _Phase.IDLE
        self._was_looked_at = False
        """Whether a frame has passed since the finger went down."""
        self._last_tap: tuple[float, float, float] | None = None

    @property
    def is_idle(self) -> bool:
        return not self._fingers

    def down(
        self,
        finger: object,
        x: float,
        y: float,
        at_s: float,
        modifiers: Modifiers = NONE,
        button: Button = Button.PRIMARY,
    ) -> list[Gesture]:
        if finger in self._fingers or len(self._fingers) >= MAX_FINGERS:
            return []
        self._fingers[finger] = _Finger(x, y, x, y, at_s, modifiers, button)
        if len(self._fingers) == 1:
            self._phase, self._was_looked_at = _Phase.PRESS, False
            return [Pressed(x, y)]
        before, self._phase = self._phase, _Phase.PINCH
        return [DragCancelled()] if before is _Phase.DRAG else []

    def move(self, finger: object, x: float, y: float) -> list[Gesture]:
        found = self._fingers.get(finger)
        if found is None:
            return []
        if self._phase is _Phase.PINCH:
            return self._pinch(finger, x, y)
        self._fingers[finger] = replace(found, x=x, y=y)
        if self._phase is _Phase.DRAG:
            return [Dragged(x, y, x - found.x, y - found.y)]
        dx, dy = x - found.start_x, y - found.start_y
        if self._phase is _Phase.PRESS and math.hypot(dx, dy) > SLOP * self.dp:
            self._phase = _Phase.DRAG
            begun = DragBegun(found.start_x, found.start_y, found.modifiers, found.button)
            return [begun, Dragged(x, y, dx, dy)]
        return []

    def up(self, finger: object, x: float, y: float, at_s: float) -> list[Gesture]:
        gestures = self.move(finger, x, y)
        found = self._fingers.pop(finger, None)
        if found is None:
            return []
        phase = self._phase
        if self._fingers:
            self._phase = _Phase.PINCH if len(self._fingers) > 1 else _Phase.SPENT
            return gestures
        self._phase = _Phase.IDLE
        match phase:
            case _Phase.PRESS:
                return [*gestures, self._tap(found, at_s)]
            case _Phase.DRAG:
                return [*gestures, DragEnded(x, y)]
            case _:
                return gestures

    def tick(self, now_s: float) -> list[Gesture]:
        """Call it once a frame: a finger that stays becomes a long press.

        Not in the first frame after it went down: that may have taken long, and have moved the finger.
        """
        if self._phase is not _Phase.PRESS:
            return []
        was_looked_at, self._was_looked_at = self._was_looked_at, True
        (found,) = self._fingers.values()
        is_short = not was_looked_at or now_s - found.down_at_s < LONG_PRESS_S
        if is_short or found.button is not Button.PRIMARY:
            return []
        self._phase = _Phase.HELD
        return [Held(found.start_x, found.start_y)]

    def cancel(self) -> list[Gesture]:
        """The window lost its focus, or Escape: what was begun is called off."""
        phase, self._phase = self._phase, _Phase.IDLE
        self._fingers.clear()
        return [DragCancelled()] if phase is _Phase.DRAG else []

    def _tap(self, found: _Finger, at_s: float) -> Gesture:
        x, y = found.start_x, found.start_y
        if found.button is Button.SECONDARY:
            return Tapped(x, y, found.modifiers, secondary=True)
        last, self._last_tap = self._last_tap, (x, y, at_s)
        if last is not None and at_s - last[2] <= DOUBLE_TAP_S:
            near = math.hypot(x - last[0], y - last[1]) <= DOUBLE_TAP_DISTANCE * self.dp
            if near and found.button is Button.PRIMARY:
                self._last_tap = None
                return DoubleTapped(x, y)
        return Tapped(x, y, found.modifiers)

    def _pinch(self, finger: object, x: float, y: float) -> list[Gesture]:
        """By the first two fingers; the others do nothing."""
        names = list(self._fingers)[:2]
        before = [self._fingers[name] for name in names]
        self._fingers[finger] = replace(self._fingers[finger], x=x, y=y)
        if finger not in names:
            return []
        after = [self._fingers[name] for name in names]
        old_x, old_y, old_span = _middle(*before)
        new_x, new_y, new_span = _middle(*after)
        factor = new_span / old_span if min(old_span, new_span) > self.dp else 1.0
        return [Pinched(new_x, new_y, new_x - old_x, new_y - old_y, factor)]


def _middle(one: _Finger, other: _Finger) -> tuple[float, float, float]:
    return (one.x + other.x) / 2, (one.y + other.y) / 2, math.hypot(one.x - other.x, one.y - other.y)
