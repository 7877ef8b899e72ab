from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.pipeline import read_pipeline
from backend.sample_plan import TEST, TRAIN, VALIDATION, Schedule, Window, make_schedule
from tests.unit.backend.make_samples import small_graph


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    pipeline = read_pipeline(
        small_graph(
            epochs=draw(st.integers(1, 4)),
            batch_size=draw(st.integers(1, 40)),
            validation=draw(st.sampled_from([0.0, 0.1, 0.3])),
            test=draw(st.sampled_from([0.0, 0.1, 0.3])),
        )
    )
    samples = draw(st.integers(50, 200))
    total = pipeline.epochs * pipeline.steps_per_epoch(samples)
    segments = draw(st.integers(1, min(6, total))) if total else 1
    withheld = draw(st.sets(st.sampled_from([VALIDATION, TEST])))
    return make_schedule(pipeline, samples, segments, withheld, draw(st.integers(1, 20_000)))


def steps_of(schedule: Schedule, windows: list[Window]) -> list[tuple[int, int]]:
    """(first step, last step) of each training window."""
    found = []
    for window in windows:
        first = window.epoch * schedule.steps_per_epoch + window.first // schedule.batch_size
        found.append((first, first - (-window.count // schedule.batch_size)))
    return found


@given(schedules())
def test_each_step_is_fed_once_and_no_window_crosses_a_segment_or_epoch(schedule: Schedule) -> None:
    windows = [window for window in schedule.windows(0) if window.part == TRAIN]
    spans = steps_of(schedule, windows)
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])][: len(spans)]
    assert not spans or spans[-1][1] == schedule.total_steps
    ends = {schedule.segment_end(segment) for segment in range(schedule.segments)}
    ends |= set(range(0, schedule.total_steps + 1, max(1, schedule.steps_per_epoch)))
    for begin, end in spans:
        assert not any(begin < border < end for border in ends)


@given(schedules())
def test_what_is_evaluated_follows_its_epoch_and_the_test_comes_last(schedule: Schedule) -> None:
    windows = list(schedule.windows(0))
    for part, times in ((VALIDATION, schedule.epochs), (TEST, 1)):
        size = schedule.validation if part == VALIDATION else schedule.test
        assert sum(window.count for window in windows if window.part == part) == size * times
    kinds = [window.part for window in windows]
    assert kinds == sorted(kinds, key=lambda part: part == TEST)


@given(schedules(), st.data())
def test_a_resumed_training_needs_what_an_unbroken_one_still_would(
    schedule: Schedule, data: st.DataObject
) -> None:
    segment = data.draw(st.integers(0, schedule.segments - 1))
    step = schedule.segment_end(segment)
    whole, rest = list(schedule.windows(0)), list(schedule.windows(step))
    last_step = step == schedule.total_steps
    if not last_step:
        assert rest == whole[len(whole) - len(rest) :]
    trained = sum(window.count for window in rest if window.part == TRAIN)
    left = schedule.epochs * schedule.train - sum(
        window.count
        for window, (_, end) in zip(whole, steps_of(schedule, whole), strict=True)
        if window.part == TRAIN and end <= step
    )
    assert trained == left
