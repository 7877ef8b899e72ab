from __future__ import annotations

import pytest

from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.jobs import FileRef, JobMetrics
from p2p.progress import Numbered, ProgressLog
from p2p.protocols.job import JobClosed, JobFailed, JobProgress, JobStage, ResultReady, SegmentFinished

FILE = FileRef("0" * 64, "1" * 64, 5)


def metrics(step: int) -> JobMetrics:
    return JobMetrics(step, 1000, 0, 0.5)


def progress(step: int) -> JobProgress:
    return JobProgress(0, metrics(step))


def segment(number: int) -> SegmentFinished:
    return SegmentFinished(0, number, FILE, metrics(number))


def taken(log: ProgressLog) -> list[Numbered]:
    messages = []
    while (message := log.take()) is not None:
        messages.append(message)
    return messages


def test_messages_are_numbered_from_one_in_the_order_of_sending() -> None:
    log = ProgressLog()
    log.add(JobStage(99, "training", "on cpu"))
    log.add(progress(1))
    log.add(segment(0))
    sent = taken(log)
    assert [type(message) for message in sent] == [JobStage, JobProgress, SegmentFinished]
    assert [message.sequence for message in sent] == [1, 2, 3]
    assert (log.oldest, log.latest) == (1, 3)


def test_a_slow_follower_gets_the_newest_progress_and_every_landmark() -> None:
    log = ProgressLog(credit=2)
    log.add(progress(1))
    log.add(progress(2))
    assert taken(log) == [JobProgress(1, metrics(2))]
    log.add(segment(0))
    for step in range(3, 50):
        log.add(progress(step))
        log.add(JobStage(0, "training", f"step {step}"))
    log.add(segment(1))
    log.add(ResultReady(0, FILE, metrics(50)))
    log.add(JobClosed(0, "done"))
    assert [message.sequence for message in taken(log)] == [2], "credit of two is used up"
    log.acknowledge(1)
    assert taken(log) == [JobProgress(3, metrics(49))]
    log.acknowledge(3)
    assert [type(message) for message in taken(log)] == [JobStage, SegmentFinished]
    log.acknowledge(5)
    assert [type(message) for message in taken(log)] == [ResultReady, JobClosed]
    assert not log.is_drained
    log.acknowledge(7)
    assert log.is_drained


def test_a_follower_that_reconnects_gets_what_it_missed() -> None:
    log = ProgressLog()
    for step in range(4):
        log.add(progress(step))
        log.add(segment(step))
        taken(log)
    log.replay(5)
    assert [message.sequence for message in taken(log)] == [6, 7, 8]
    log.replay(8)
    assert taken(log) == []


def test_a_follower_that_lost_its_notes_gets_every_landmark_again() -> None:
    log = ProgressLog(credit=3)
    for step in range(4):
        log.add(progress(step))
        log.add(segment(step))
        while taken(log):
            log.acknowledge(log.latest)
    log.replay(0)
    assert log.oldest == 2
    assert [message.sequence for message in taken(log)] == [2, 4, 6], "as far as the credit goes"
    log.acknowledge(6)
    assert [message.sequence for message in taken(log)] == [8]


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    log = ProgressLog()
    log.add(segment(0))
    taken(log)
    with pytest.raises(RemoteProtocolError, match="number 2 was never sent, the newest is 1"):
        log.acknowledge(2)
    with pytest.raises(RemoteProtocolError, match="number 9 was never sent, the newest is 1"):
        log.replay(9)


def test_an_old_acknowledgement_changes_nothing() -> None:
    log = ProgressLog(credit=2)
    for step in range(2):
        log.add(progress(step))
        taken(log)
    log.acknowledge(2)
    log.acknowledge(1)
    assert log.is_drained


def test_the_log_is_bounded() -> None:
    log = ProgressLog(credit=4, max_landmarks=3)
    for step in range(1000):
        log.add(progress(step))
        log.take()
    for _ in range(3):
        log.add(JobFailed(0, "internal", "worker died", True))
    with pytest.raises(LocalProtocolError, match="more than 3 segments, results and ends"):
        log.add(JobClosed(0, "stopped"))
    log.acknowledge(log.latest)
    assert len(taken(log)) <= 4
