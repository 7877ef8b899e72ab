"""Text of strangers on a terminal: peers' words, and names in files, may hold control sequences. Pure."""

from __future__ import annotations


def plain(text: str, *, lines: bool = False) -> str:
    """With escapes for whatever a terminal would act on; line ends stay where ``lines`` says so."""
    kept = "\n" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode()
        for char in text
    )
