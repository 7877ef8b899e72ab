"""Which chunks to ask of which source next. Pure.

Chunks that follow each other are asked for as one span. Each source has a window, in bytes that
were asked of it and are not on disk yet; the window grows for as long as that makes the source
faster, and no further than what its delay asks for, so a near source has little on the way and a
far one enough. A kill therefore costs one
window of each source at most, and the rest of the span that fills it. Spans are handed out in the
order of the file to whoever has room: faster sources take more of them. When none are left, a
source with nothing to do asks again for what a slower one keeps waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2p.identifiers import PeerId
from p2p.transfer import Manifest

FIRST_WINDOW_BYTES = 1 << 20
MAX_WINDOW_BYTES = 8 << 20
"""Of one source: also what a kill can cost."""
MIN_SPAN_BYTES = 256 << 10
MAX_SPAN_BYTES = 1 << 20
SPANS_PER_WINDOW = 4

_FASTER = 1.2
"""By how much a larger window must raise the speed of a source to be worth it."""
_COVER = 2.0
"""How many times what a source gives during its delay may be on the way from it."""
_SLOWER = 2.0
"""How many times longer a span must be expected to take where it is, to be asked for elsewhere."""
_SILENCE_S = 1.0
"""A source of unknown speed counts as slow after that."""


@dataclass(frozen=True, slots=True)
class Span:
    """Chunks ``first`` to ``end`` (not included), which are ``length`` bytes from ``offset`` on."""

    first: int
    end: int
    offset: int
    length: int


@dataclass(slots=True)
class _Source:
    window: int
    on_the_way: dict[Span, float] = field(default_factory=dict)
    """Asked for and not on disk yet, with the moment of asking; oldest first."""
    arrived: set[Span] = field(default_factory=set)
    """Of those, the ones that only the disk has to take."""
    bytes_per_s: float = 0.0
    """In the newest round, which is a window's worth of bytes; 0 before anything came."""
    best: float = 0.0
    quickest_s: float = float("inf")
    """The least time from asking for a span to having it on disk."""
    round_began: float | None = None
    round_bytes: int = 0

    @property
    def pending(self) -> int:
        return sum(span.length for span in self.on_the_way)


class Schedule:
    """Of one file, from its missing chunks to the last one on disk."""

    def __init__(
        self,
        manifest: Manifest,
        missing: Sequence[int],
        sources: Iterable[PeerId],
        max_window_bytes: int = MAX_WINDOW_BYTES,
    ) -> None:
        self._max_window = max_window_bytes
        self._first_window = min(FIRST_WINDOW_BYTES, max_window_bytes)
        self._sizes = manifest.sizes
        self._offsets = manifest.offsets()
        self._left = set(missing)
        self._todo: deque[tuple[int, int]] = deque(_runs(missing))
        self._sources = {source: _Source(self._first_window) for source in sources}

    @property
    def is_complete(self) -> bool:
        return not self._left

    def window_bytes(self, source: PeerId) -> int:
        return self._sources[source].window

    def next_span(self, source: PeerId, now: float) -> Span | None:
        """What to ask this source for now, or None while its window is full or nothing is left for it."""
        state = self._sources[source]
        room, share = state.window - state.pending, state.window // SPANS_PER_WINDOW
        least = min(MIN_SPAN_BYTES, share)
        if state.on_the_way and room < least:
            return None
        limit = max(least, min(MAX_SPAN_BYTES, share, room))
        span = self._take_todo(limit) or self._take_over(source, state, now)
        if span is not None:
            if not state.on_the_way:
                state.round_began, state.round_bytes = now, 0
            state.on_the_way[span] = now
        return span

    def arrived(self, source: PeerId, span: Span, now: float) -> None:
        """The answer is here; its bytes are still to be checked and written."""
        state = self._sources[source]
        if span not in state.on_the_way:
            return
        state.arrived.add(span)
        state.round_bytes += span.length
        if state.round_began is None or now <= state.round_began:
            return
        speed = state.round_bytes / (now - state.round_began)
        if state.round_bytes < state.window:
            state.bytes_per_s = state.bytes_per_s or speed
            return
        state.bytes_per_s = speed
        state.round_began, state.round_bytes = now, 0
        if state.bytes_per_s > _FASTER * state.best:
            state.best = state.bytes_per_s
            enough = _COVER * state.best * min(state.quickest_s, MAX_WINDOW_BYTES / state.best)
            state.window = max(state.window, min(self._max_window, 2 * state.window, int(enough) + 1))

    def settled(self, source: PeerId, span: Span, now: float, bad: Iterable[int] = ()) -> None:
        """The span's chunks are on disk, but for the ``bad`` ones, which are asked for again."""
        state = self._sources[source]
        asked_at = state.on_the_way.pop(span, None)
        if asked_at is not None:
            state.quickest_s = min(state.quickest_s, now - asked_at)
        state.arrived.discard(span)
        failed = set(bad)
        self._left.difference_update(index for index in range(span.first, span.end) if index not in failed)
        if failed:
            self._put_back(span)

    def drop(self, source: PeerId) -> None:
        """Asks others for what was on the way from this source, which may come back."""
        state = self._sources[source]
        spans = [span for span in state.on_the_way if span not in state.arrived]
        for span in spans:
            del state.on_the_way[span]
        for span in reversed(spans):
            self._put_back(span)
        # Whatever cut it, a source that was too slow for its window gets a smaller one.
        least = min(MIN_SPAN_BYTES, self._first_window)
        state.window = max(least, min(self._first_window, state.window // 2))
        state.best = state.bytes_per_s = 0.0
        state.round_began = None

    # -- inside --------------------------------------------------------------------------------------

    def _take_todo(self, limit: int) -> Span | None:
        while self._todo:
            first, end = self._todo.popleft()
            while first < end and first not in self._left:
                first += 1
            if first == end:
                continue
            last, length = first + 1, self._sizes[first]
            while last < end and last in self._left and length + self._sizes[last] <= limit:
                length += self._sizes[last]
                last += 1
            if last < end:
                self._todo.appendleft((last, end))
            return Span(first, last, self._offsets[first], length)
        return None

    def _take_over(self, source: PeerId, state: _Source, now: float) -> Span | None:
        """A span that a slower source keeps waiting, the slowest first; each is asked for twice at most."""
        if not state.bytes_per_s:
            return None
        worst: tuple[float, Span] | None = None
        for other_id, other in self._sources.items():
            if other_id == source:
                continue
            for span, wait_s in _waits(other, now):
                ours_s = (state.pending + span.length) / state.bytes_per_s
                if wait_s > _SLOWER * ours_s and (worst is None or wait_s > worst[0]) and self._once(span):
                    worst = wait_s, span
        return worst[1] if worst else None

    def _once(self, span: Span) -> bool:
        """Asked of one source only, and still needed."""
        asked = sum(span in state.on_the_way for state in self._sources.values())
        return asked == 1 and not self._left.isdisjoint(range(span.first, span.end))

    def _put_back(self, span: Span) -> None:
        """In front of all else, unless it is on the way from another source as well."""
        if any(span in state.on_the_way for state in self._sources.values()):
            return
        needed = [index for index in range(span.first, span.end) if index in self._left]
        self._todo.extendleft(reversed(_runs(needed)))


def _waits(source: _Source, now: float) -> list[tuple[Span, float]]:
    """How much longer each span on the way from a source should take, in seconds."""
    waits, ahead = [], 0
    for span, asked_at in source.on_the_way.items():
        if span in source.arrived:
            continue
        ahead += span.length
        waited_s = now - asked_at
        if source.bytes_per_s:
            # One that has fallen silent will not be as fast as it was.
            expected_s = ahead / source.bytes_per_s
            waits.append((span, max(expected_s, waited_s - expected_s)))
        elif waited_s > _SILENCE_S:
            waits.append((span, waited_s))
    return waits


def _runs(indexes: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs: first, and one beyond the last."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][1] == index:
            runs[-1] = runs[-1][0], index + 1
        else:
            runs.append((index, index + 1))
    return runs
