"""Pieces of tokens to text: whole characters only, cut before a stop sequence. Pure."""

from __future__ import annotations

import codecs


class TextStream:
    """``add`` gives what may be shown now; what could begin a stop sequence is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, piece: bytes) -> str:
        return self._release(self._decoder.decode(piece))

    def end(self) -> str:
        """What is left when no more comes."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        text, self._held = text + ("" if self.stopped else self._held), ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = self._begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _begun(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop sequence begins with."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stops):
                return length
        return 0
