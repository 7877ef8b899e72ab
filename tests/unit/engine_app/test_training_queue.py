from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine_app.entry import CommandError
from engine_app.training_order import choose_segments, find_interrupted, note_rate, noted_rate
from engine_app.training_queue import (
    LOCK,
    MAX_FAILED,
    TICKET,
    Entry,
    Ticket,
    TrainingLine,
    ahead_of,
    is_local,
)


class Order(msgspec.Struct, frozen=True):
    graph_file: str = "a.json"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[TrainingLine]:
    yield TrainingLine(tmp_path)


def names(line: TrainingLine) -> list[str]:
    return [entry.name for entry in line.entries()]


def test_the_second_training_waits_until_the_first_is_over(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as first:
        assert first.waits_for() == []
        with line.open("train", "b", at_once=False) as second:
            assert second.waits_for() == [first.name]
            first.discard()
            assert second.waits_for() == [first.name]  # which still holds the slot
    with line.open("train", "c", at_once=False) as third:
        assert third.waits_for() == []


def test_those_who_wait_go_by_their_number(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as first, line.open("train", "b", at_once=False) as second:
        assert second.waits_for() == [first.name]
        assert first.waits_for() == []


def test_a_training_at_once_waits_for_none_and_none_waits_for_it(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as first:
        assert first.waits_for() == []
        with line.open("train", "b", at_once=True) as hasty:
            assert hasty.waits_for() == []
    with (
        line.open("train", "c", at_once=True) as hasty,
        line.open("train", "d", at_once=False) as patient,
    ):
        assert hasty.waits_for() == patient.waits_for() == []


def test_one_that_was_cut_short_is_kept_and_waited_for_by_nobody(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
    [entry] = line.entries()
    assert not entry.is_alive and entry.can_go_on
    with line.open("train", "b", at_once=False) as other:
        assert other.waits_for() == []
        assert names(line) == ["local-1", "local-2"]


def test_one_that_goes_on_is_before_those_that_came_later_but_not_before_one_that_runs(
    line: TrainingLine,
) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
    with line.open("train", "b", at_once=False) as running:
        assert running.waits_for() == []
        with (
            line.open("train", "c", at_once=False) as waiting,
            line.reopen("local-1", at_once=False) as again,
        ):
            assert again.waits_for() == [running.name]
            assert waiting.waits_for() == ["local-1", running.name]


def test_what_died_before_its_order_was_written_is_swept_away(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as place:
        gone = place.directory
    assert gone.exists() and line.entries() == []
    with line.open("train", "b", at_once=False):
        assert not gone.exists()


def test_no_number_is_given_twice(line: TrainingLine) -> None:
    for expected in ("local-1", "local-2", "local-3"):
        with line.open("train", "a", at_once=False) as place:
            assert place.name == expected
            place.discard()


def test_one_that_runs_cannot_be_gone_on_with(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
        with pytest.raises(CommandError, match="in use by process"), line.reopen(place.name, at_once=False):
            pass


@pytest.mark.parametrize("name", ["local-9", "local-0", "../local-1", "a1b2c3"])
def test_what_is_no_training_cannot_be_gone_on_with(line: TrainingLine, name: str) -> None:
    with pytest.raises(CommandError), line.reopen(name, at_once=False):
        pass


def test_a_damaged_ticket_is_no_training(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
    (place.directory / TICKET).write_bytes(b'{"kind": 1}')
    assert line.entries() == []


def test_only_a_local_training_is_called_local() -> None:
    assert is_local("local-12")
    assert not any(map(is_local, ("local-", "local-0", "local-1x", "abc", "local-1/..")))


def test_the_line_is_those_that_live_and_wait_with_lower_numbers() -> None:
    def entry(number: int, *, alive: bool = True, at_once: bool = False) -> Entry:
        return Entry(f"local-{number}", Path(), Ticket("train", "", 1, at_once), alive, True)

    entries = [entry(10), entry(9), entry(2, alive=False), entry(3, at_once=True), entry(11)]
    assert [each.number for each in ahead_of(11, entries)] == [9, 10]


def test_small_trainings_are_saved_four_times_and_large_ones_about_every_20_s() -> None:
    assert choose_segments(steps=1000, training_flops=10**9, parameters=1000) == 4
    assert choose_segments(steps=3, training_flops=10**9, parameters=1000) == 3
    assert choose_segments(steps=10**6, training_flops=int(3600 * 2e10), parameters=10**5) == 180
    large = choose_segments(steps=10**6, training_flops=int(3600 * 2e10), parameters=10**8)
    assert large == 30  # 6 s to write a checkpoint


def test_a_training_whose_lock_is_gone_already_is_not_listed(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as going, line.open("train", "b", at_once=False) as staying:
        lock = going.directory / LOCK
        lock.unlink()
        lock.symlink_to(going.directory / "gone" / LOCK)  # cannot be opened, as where the directory went
        assert names(line) == [staying.name]


def test_one_that_failed_for_good_is_listed_with_its_reason_and_keeps_nothing_else(
    line: TrainingLine,
) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
        (place.directory / "workers").mkdir()
        place.fail("the loss is nan", can_go_on=False)
    [entry] = line.entries()
    assert entry.failure == "the loss is nan" and not entry.can_go_on
    assert sorted(path.name for path in place.directory.iterdir()) == ["failure.txt", LOCK, TICKET]
    with pytest.raises(CommandError, match="local-1 failed and cannot go on: the loss is nan"):
        line.reopen("local-1", at_once=False).__enter__()
    with pytest.raises(CommandError, match="no train was cut short"):
        find_interrupted(line, None)
    line.forget("local-1")
    assert line.entries() == []


def test_one_that_failed_later_can_go_on_and_then_has_not_failed(line: TrainingLine) -> None:
    with line.open("train", "a", at_once=False) as place:
        place.write_order(Order())
        place.fail("the disk is full", can_go_on=True)
    assert line.entries()[0].failure and line.entries()[0].can_go_on
    with line.reopen("local-1", at_once=False):
        assert not line.entries()[0].failure
    [entry] = line.entries()
    assert not entry.failure and entry.can_go_on


def test_only_the_newest_failures_are_remembered(line: TrainingLine) -> None:
    for number in range(MAX_FAILED + 3):
        with line.open("train", "a", at_once=False) as place:
            place.fail(f"reason {number}", can_go_on=False)
    with line.open("train", "a", at_once=False):
        kept = [entry.failure for entry in line.entries() if entry.failure]
    assert kept == [f"reason {number}" for number in range(3, MAX_FAILED + 3)]


def test_one_that_runs_cannot_be_forgotten(line: TrainingLine) -> None:
    with (
        line.open("train", "a", at_once=False) as place,
        pytest.raises(CommandError, match="in use by process"),
    ):
        line.forget(place.name)


def test_a_rate_holds_for_a_checkpoint_up_to_its_step(tmp_path: Path) -> None:
    assert noted_rate(tmp_path, 0) is None
    note_rate(tmp_path, 7, 0.5)
    assert [noted_rate(tmp_path, step) for step in (0, 7, 8)] == [0.5, 0.5, None]
