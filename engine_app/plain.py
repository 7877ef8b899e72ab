"""Text of strangers, shown: as it is safe (``plain``), and as much as can be drawn. Pure."""

from __future__ import annotations

from p2p.plain import plain

__all__ = ["brief", "drawable", "plain", "sentence"]


def brief(text: str, most_lines: int = 40, characters: int = 2000) -> str:
    """As ``plain``, with its lines, cut so that it can be drawn: its end, where errors say what they are."""
    kept = plain(text[-characters:], lines=True)[-characters:].split("\n")[-most_lines:]
    return "\n".join(kept)


def drawable(text: str) -> str:
    """Halves of surrogate pairs, as in names of files that are not UTF-8, have no glyph: they are spelt."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def sentence(text: str) -> str:
    """As it stands alone, and not behind a name."""
    return text[:1].upper() + text[1:]
