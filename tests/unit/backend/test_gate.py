from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backend.workers.gate import Gate, TrainingCancelled

PATIENCE_S = 10


class Training:
    """A training thread that only counts steps and tells what happens to it."""

    def __init__(self, gate: Gate, segments: int = 3) -> None:
        self.gate = gate
        self.events: list[str] = []
        self.happened = threading.Condition()
        self.steps = 0
        self._segments = segments
        self._stop = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def tell(self, event: str) -> None:
        with self.happened:
            self.events.append(event)
            self.happened.notify_all()

    def wait_for(self, event: str) -> None:
        with self.happened:
            assert self.happened.wait_for(lambda: event in self.events, PATIENCE_S), self.events

    def _run(self) -> None:
        try:
            with self.gate.working():
                for segment in range(self._segments):
                    self.gate.wait_for_segment(segment, lambda at=segment: self.tell(f"waits {at}"))
                    for _ in range(1000):
                        self.gate.before_step(lambda: self.tell("paused"), lambda: self.tell("resumed"))
                        self.steps += 1
                    self.tell(f"done {segment}")
        except TrainingCancelled:
            self.tell("cancelled")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(allowed_segments=1, now=lambda: 0.0)
    yield gate
    gate.cancel()


def test_a_segment_without_permission_is_not_begun(gate: Gate) -> None:
    training = Training(gate)
    training.wait_for("waits 1")
    assert training.events == ["done 0", "waits 1"]
    gate.allow(3)
    training.wait_for("done 2")
    assert training.events == ["done 0", "waits 1", "done 1", "done 2"]


def test_permission_never_shrinks(gate: Gate) -> None:
    gate.allow(3)
    gate.allow(1)
    training = Training(gate)
    training.wait_for("done 2")


def test_pause_holds_and_resume_releases(gate: Gate) -> None:
    gate.pause()
    training = Training(gate, segments=1)
    training.wait_for("paused")
    assert training.steps == 0
    gate.resume()
    training.wait_for("done 0")
    assert training.events == ["paused", "resumed", "done 0"]


@pytest.mark.parametrize("event", ["paused", "waits 1"])
def test_cancel_ends_what_rests(gate: Gate, event: str) -> None:
    if event == "paused":
        gate.pause()
    training = Training(gate)
    training.wait_for(event)
    gate.cancel()
    training.thread.join(PATIENCE_S)
    assert training.events[-1] == "cancelled"


def test_a_guest_between_steps_finds_no_step_running(gate: Gate) -> None:
    gate.allow(1000)
    training = Training(gate, segments=1000)
    for _ in range(50):
        with gate.between_steps():
            before = training.steps
            threading.Event().wait(0.0005)
            assert training.steps == before
    gate.cancel()
    training.thread.join(PATIENCE_S)
    assert not training.thread.is_alive()


def test_a_step_that_lasts_is_seen_and_a_rest_is_not() -> None:
    now = 0.0
    gate = Gate(allowed_segments=1, now=lambda: now)
    assert gate.stalled_s() == 0
    with gate.working():
        now = 7.0
        assert gate.stalled_s() == 7
        gate.before_step(lambda: None, lambda: None)
        assert gate.stalled_s() == 0
    now = 99.0
    assert gate.stalled_s() == 0
