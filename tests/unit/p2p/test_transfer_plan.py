from __future__ import annotations

from p2p.identifiers import PeerId
from p2p.transfer import Manifest
from p2p.transfer_plan import (
    FIRST_WINDOW_BYTES,
    MAX_SPAN_BYTES,
    MAX_WINDOW_BYTES,
    MIN_SPAN_BYTES,
    Schedule,
    Span,
)

A, B = PeerId("A"), PeerId("B")
CHUNK = 128 << 10


def manifest(count: int, size: int = CHUNK) -> Manifest:
    return Manifest((size,) * count, tuple(index.to_bytes(32) for index in range(count)), bytes(32))


def schedule(count: int, *sources: PeerId, missing: list[int] | None = None) -> Schedule:
    return Schedule(manifest(count), list(range(count)) if missing is None else missing, sources or (A,))


def asked(plan: Schedule, source: PeerId = A, now: float = 0.0) -> list[Span]:
    spans = []
    while (span := plan.next_span(source, now)) is not None:
        spans.append(span)
    return spans


def deliver(plan: Schedule, source: PeerId, spans: list[Span], now: float) -> None:
    for span in spans:
        plan.arrived(source, span, now)
        plan.settled(source, span, now)


def test_chunks_are_asked_for_in_spans_in_the_order_of_the_file() -> None:
    plan = schedule(5)
    assert asked(plan) == [
        Span(0, 2, 0, 2 * CHUNK),
        Span(2, 4, 2 * CHUNK, 2 * CHUNK),
        Span(4, 5, 4 * CHUNK, CHUNK),
    ]


def test_only_what_is_missing_is_asked_for() -> None:
    plan = schedule(9, missing=[1, 4, 5, 8])
    assert [(span.first, span.end) for span in asked(plan)] == [(1, 2), (4, 6), (8, 9)]


def test_a_file_with_nothing_missing_is_complete() -> None:
    plan = schedule(3, missing=[])
    assert plan.is_complete
    assert asked(plan) == []


def test_no_more_than_a_window_is_on_the_way() -> None:
    plan = schedule(100)
    spans = asked(plan)
    assert sum(span.length for span in spans) == FIRST_WINDOW_BYTES
    plan.arrived(A, spans[0], 0.1)
    assert plan.next_span(A, 0.1) is None, "arrived is not yet on disk"
    plan.settled(A, spans[0], 0.1)
    assert asked(plan) == [Span(8, 10, 8 * CHUNK, MIN_SPAN_BYTES)]


def test_a_window_grows_while_that_makes_its_source_faster_and_no_further() -> None:
    plan, now = schedule(10_000), 0.0
    windows = []
    for _ in range(12):  # the time of a round does not depend on how much is on the way: a far source
        spans, now = asked(plan, now=now), now + 0.1
        windows.append(sum(span.length for span in spans))
        deliver(plan, A, spans, now)
    assert windows[:3] == [FIRST_WINDOW_BYTES << number for number in range(3)]
    assert windows[-1] == plan.window_bytes(A) == MAX_WINDOW_BYTES
    assert max(span.length for span in asked(plan)) == MAX_SPAN_BYTES

    plan, now = schedule(10_000), 0.0
    for _ in range(12):  # every byte takes its time: a near source at its limit
        spans = asked(plan, now=now)
        now += sum(span.length for span in spans) / 1e6
        deliver(plan, A, spans, now)
    assert plan.window_bytes(A) <= 2 * FIRST_WINDOW_BYTES


def test_a_window_covers_the_delay_of_its_source_and_no_more() -> None:
    """The readings of a busy machine grow and grow; a near source gets no large window by that."""
    plan, now = schedule(10_000), 0.0
    for number in range(12):
        spans = asked(plan, now=now)
        deliver(plan, A, spans[:1], now + 0.001)
        now += 0.001 + 0.1 / 1.5**number
        deliver(plan, A, spans[1:], now)
    assert plan.window_bytes(A) <= 4 * FIRST_WINDOW_BYTES


def test_a_chunk_larger_than_a_span_is_still_asked_for() -> None:
    plan = Schedule(manifest(3, 4 << 20), [0, 1, 2], (A,))
    assert [span.length for span in asked(plan)] == [4 << 20]


def test_sources_share_a_file_and_the_faster_one_gives_more() -> None:
    plan = schedule(1000, A, B)
    given = {A: 0, B: 0}
    for now in range(100):
        for source, every in ((A, 1), (B, 4)):
            if now % every == 0:
                spans = asked(plan, source, now)
                given[source] += sum(span.length for span in spans)
                deliver(plan, source, spans, now + 0.5)
    assert plan.is_complete
    assert given[A] > 2 * given[B] > 0
    assert sum(given.values()) == 1000 * CHUNK


def test_what_was_on_the_way_from_a_dropped_source_is_asked_of_another() -> None:
    plan = schedule(100, A, B)
    lost = asked(plan, A)
    plan.arrived(A, lost[1], 0.1)
    plan.drop(A)
    again = asked(plan, B)
    assert again[0] == lost[0]
    assert lost[1] not in again, "that has arrived"
    plan.settled(A, lost[1], 0.2)
    assert lost[2] in again
    assert asked(plan, A, 1.0) != [], "it may come back"


def test_chunks_that_were_bad_are_asked_for_again_and_the_good_ones_are_not() -> None:
    plan = schedule(2, A, B)
    (span,) = asked(plan, A)
    plan.arrived(A, span, 0.1)
    plan.settled(A, span, 0.2, bad=[1])
    assert not plan.is_complete
    assert asked(plan, B) == [Span(1, 2, CHUNK, CHUNK)]


def test_what_a_slow_source_keeps_waiting_at_the_end_is_asked_of_a_fast_one_once() -> None:
    plan = schedule(40, A, B)
    slow, now = asked(plan, B), 0.0
    while (spans := asked(plan, A, now)) and not set(spans) & set(slow):
        now += 0.5
        deliver(plan, A, spans, now)
    assert set(spans) == set(slow), "nothing else is left"
    assert asked(plan, A, now) == asked(plan, B, now) == []
    deliver(plan, A, spans, now)
    assert plan.is_complete
    assert asked(plan, A, now + 1.0) == asked(plan, B, now + 1.0) == []
    deliver(plan, B, slow, now + 9.0)  # the answers that nobody waits for any more change nothing
    assert plan.is_complete


def test_a_source_that_is_as_fast_is_left_to_finish() -> None:
    plan = schedule(32, A, B)
    for now in (0.0, 1.0):
        spans = {source: asked(plan, source, now) for source in (A, B)}
        for source in (A, B):
            if now == 0.0:
                deliver(plan, source, spans[source], now + 1.0)
    deliver(plan, A, spans[A], 1.9)
    assert asked(plan, A, 1.9) == []


def test_a_span_on_the_way_twice_is_not_put_back_when_one_of_the_two_fails() -> None:
    plan = schedule(10, A, B)
    slow = asked(plan, B)
    deliver(plan, A, asked(plan, A), 0.1)
    taken_over = asked(plan, A, 60.0)
    assert set(taken_over) == set(slow)
    plan.drop(B)
    assert asked(plan, B, 61.0) == []
    deliver(plan, A, taken_over, 62.0)
    assert plan.is_complete


def test_a_source_that_is_lost_again_and_again_gets_a_smaller_window_but_never_none() -> None:
    plan, windows = schedule(100), []
    for _ in range(5):
        windows.append(sum(span.length for span in asked(plan)))
        plan.drop(A)
    assert windows == [FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES // 2] + [MIN_SPAN_BYTES] * 3
