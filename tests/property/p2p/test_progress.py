from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2p.jobs import FileRef, JobMetrics
from p2p.progress import Numbered, ProgressLog
from p2p.protocols.job import JobClosed, JobFailed, JobProgress, JobStage, ResultReady, SegmentFinished
from tests.property.effort import examples

FILE = FileRef("0" * 64, "1" * 64, 5)
CREDIT = 3


def metrics(step: int) -> JobMetrics:
    return JobMetrics(step, 1000, 0, 0.5)


def without_number(message: Numbered) -> str:
    return repr(message).replace(f"sequence={message.sequence},", "sequence=0,", 1)


class FollowedLog(RuleBasedStateMachine):
    """A peer writes, an Engine reads, acknowledges, forgets, loses its stream and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ProgressLog(credit=CREDIT)
        self.steps = 0
        self.landmarks: list[str] = []
        """All that was added and must arrive, in order."""
        self.numbers: dict[int, str] = {}
        """What each number has stood for."""
        self.received: dict[int, Numbered] = {}
        """What the follower has stored."""
        self.on_the_way: list[Numbered] = []
        self.acknowledged = 0

    def add(self, message: Numbered) -> None:
        self.steps += 1
        self.log.add(message)
        if not isinstance(message, JobProgress | JobStage):
            self.landmarks.append(without_number(message))

    @rule()
    def report_progress(self) -> None:
        self.add(JobProgress(0, metrics(self.steps)))

    @rule()
    def report_stage(self) -> None:
        self.add(JobStage(0, "training", f"step {self.steps}"))

    @rule(kind=st.integers(0, 3))
    def report_landmark(self, kind: int) -> None:
        step = metrics(self.steps)
        self.add(
            [
                SegmentFinished(0, self.steps, FILE, step),
                ResultReady(0, FILE, step),
                JobFailed(0, "code", f"step {self.steps}", True),
                JobClosed(0, f"step {self.steps}"),
            ][kind]
        )

    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        for _ in range(count):
            message = self.log.take()
            if message is None:
                return
            text = without_number(message)
            assert self.numbers.setdefault(message.sequence, text) == text, "a number stands for one message"
            self.on_the_way.append(message)

    @rule(count=st.integers(1, 5))
    def receive(self, count: int) -> None:
        arrived, self.on_the_way = self.on_the_way[:count], self.on_the_way[count:]
        for message in arrived:
            self.received[message.sequence] = message

    @rule(back=st.integers(0, 3))
    def acknowledge(self, back: int) -> None:
        self.acknowledged = max(0, max(self.received, default=0) - back)
        self.log.acknowledge(self.acknowledged)

    @rule()
    def lose_the_stream(self) -> None:
        self.on_the_way = []
        self.log.replay(max(self.received, default=0))

    @rule(back=st.integers(0, 50))
    def lose_the_notes(self, back: int) -> None:
        """The follower restarts from an older copy of its store."""
        known = max(0, max(self.received, default=0) - back)
        self.received = {number: message for number, message in self.received.items() if number <= known}
        self.on_the_way = []
        self.log.replay(known)

    @invariant()
    def only_so_much_is_on_the_way(self) -> None:
        assert len(self.on_the_way) <= CREDIT

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.log._kept) <= CREDIT + len(self.landmarks)
        assert len(self.log._waiting) <= 2 + len(self.landmarks)

    def teardown(self) -> None:
        """Whatever happened, a follower that reads on gets every landmark, in order."""
        while self.on_the_way or self.log.latest > max(self.received, default=0) or not self.log.is_drained:
            before = (len(self.received), self.log.latest)
            self.receive(CREDIT)
            self.acknowledge(0)
            self.send(CREDIT)
            assert self.on_the_way or self.log.is_drained or before != (len(self.received), self.log.latest)
        arrived = [self.received[number] for number in sorted(self.received)]
        texts = [without_number(one) for one in arrived if not isinstance(one, JobProgress | JobStage)]
        assert texts == self.landmarks


TestFollowedLog = FollowedLog.TestCase
TestFollowedLog.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
