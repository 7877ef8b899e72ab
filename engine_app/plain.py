"""Text of strangers on a terminal: peers' words, and names in files, may hold control sequences. Pure."""

from __future__ import annotations


def plain(text: str, *, lines: bool = False) -> str:
    """With escapes for whatever a terminal would act on; line ends stay where ``lines`` says so."""
    kept = "\n" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode()
        for char in text
    )


def brief(text: str, most_lines: int = 40, characters: int = 2000) -> str:
    """As ``plain``, with its lines, cut so that it can be drawn: its end, where errors say what they are."""
    kept = plain(text[-characters:], lines=True)[-characters:].split("\n")[-most_lines:]
    return "\n".join(kept)


def sentence(text: str) -> str:
    """As it stands alone, and not behind a name."""
    return text[:1].upper() + text[1:]
