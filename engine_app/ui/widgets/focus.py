"""Which widget the keyboard speaks to. One ring for the window; what lies above everything has it alone."""

from __future__ import annotations

from typing import Any

from kivy.core.window import Window

TAB = 9


def host_of(widget: Any) -> Any:
    """What the widget's window is covered by: the nearest ancestor that can show overlays; None outside."""
    while widget is not None and widget is not Window:
        if hasattr(widget, "show_tip"):
            return widget
        widget = widget.parent
    return None


def show_tip(widget: Any, text: str) -> None:
    host = host_of(widget)
    if host is not None:
        host.show_tip(widget, text)


def focusable(root: Any) -> list[Any]:
    """In the order of the tree, without what is hidden or disabled."""
    found: list[Any] = []
    _collect(root, found)
    return found


def _collect(widget: Any, found: list[Any]) -> None:
    if widget.opacity == 0 or widget.disabled:
        return
    if getattr(widget, "can_focus", False):
        found.append(widget)
    for child in reversed(widget.children):
        _collect(child, found)


class FocusRing:
    """Moves the focus within ``root()``, on Tab and Shift-Tab."""

    def __init__(self) -> None:
        self._current: Any = None

    @property
    def current(self) -> Any:
        """None if nothing has it, or what had it is gone."""
        if self._current is not None and self._current.get_parent_window() is None:
            self._current = None
        return self._current

    @property
    def writing(self) -> Any:
        """The field that letters go to; None for none."""
        current = self.current
        return current if getattr(current, "focus", False) else None

    def clear(self) -> None:
        self._give(None)

    def take(self, widget: Any) -> None:
        """A touch gave it the focus."""
        if widget is not self.current:
            self._give(widget)

    def move(self, root: Any, step: int) -> None:
        found = focusable(root)
        if not found:
            return
        at = found.index(self.current) + step if self.current in found else (0 if step > 0 else -1)
        self._give(found[at % len(found)])

    def key(self, root: Any, code: int, modifiers: list[str]) -> bool:
        """True if the key was for the ring or for what has the focus."""
        if code == TAB:
            self.move(root, -1 if "shift" in modifiers else 1)
            return True
        on_key = getattr(self.current, "on_key", None)
        return bool(on_key and not modifiers and on_key(code))

    def _give(self, widget: Any) -> None:
        if self._current is not None:
            self._current.has_focus = False
        self._current = widget
        if widget is not None:
            widget.has_focus = True
            _scroll_to(widget)


def _scroll_to(widget: Any) -> None:
    ancestor = widget.parent
    while ancestor is not None and ancestor is not Window:
        if hasattr(ancestor, "scroll_to"):
            ancestor.scroll_to(widget)
            return
        ancestor = ancestor.parent
