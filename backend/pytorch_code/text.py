"""Pieces of Python source. A value of a graph gets into code through ``literal`` alone. Pure."""

from __future__ import annotations

import math
from typing import Any


class Code(str):
    """Source text that this package wrote; any other string is data, and quoted."""

    __slots__ = ()


def literal(value: Any) -> Code:
    """A value as Python writes it. Raises TypeError for what has no literal."""
    match value:
        case Code():
            return value
        case None | bool() | int():
            return Code(repr(value))
        case float() if math.isfinite(value):
            return Code(repr(value))
        case str():
            return Code(_quoted(value))
        case tuple():
            inner = ", ".join(map(literal, value))
            return Code(f"({inner},)" if len(value) == 1 else f"({inner})")
        case list():
            return Code(f"[{', '.join(map(literal, value))}]")
        case dict():
            return Code("{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}")
    raise TypeError(f"a {type(value).__name__} has no literal")


def call(function: str, *arguments: Any, **keywords: Any) -> Code:
    """A call with literals, or with code where an argument is Code."""
    parts: list[str] = [literal(argument) for argument in arguments]
    parts += [f"{name}={literal(value)}" for name, value in keywords.items()]
    return Code(f"{function}({', '.join(parts)})")


def unless(**pairs: tuple[Any, Any]) -> dict[str, Any]:
    """Keywords ``name=(value, default)`` without those that have the default."""
    return {name: value for name, (value, default) in pairs.items() if value != default}


def short(value: Any) -> Any:
    """A size with equal entries as torch takes it, too: one number."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def comment(text: str, limit: int = 80) -> str:
    """Any text as part of a comment or docstring: one line of plain characters, no quotes or escapes."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in "\"'\\{}#" else "?" for c in text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def indented(lines: list[str], levels: int) -> list[str]:
    return [f"{'    ' * levels}{line}" if line else line for line in lines]


def _quoted(value: str) -> str:
    """Double quotes, as formatters like them, where that needs no escape."""
    text = ascii(value)
    return f'"{value}"' if text == f"'{value}'" and '"' not in value else text
