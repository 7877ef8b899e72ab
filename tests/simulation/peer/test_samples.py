"""Rows on their way from an Engine that keeps its data to a training, with everything that can happen."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace

from backend.errors import WorkerError
from backend.reports import WantSamples
from backend.sample_plan import TEST, TRAIN, VALIDATION
from p2p.channel import Channel
from p2p.errors import P2PError, StreamResetError
from p2p.jobs import DataPart, Delivery, JobState
from p2p.network import Stream
from p2p.protocols import Failure, Request, Response
from p2p.protocols.coordinator import LeaseRef
from p2p.protocols.data import (
    LIMITS,
    MAX_ROWS_BYTES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    DataOpened,
    GetRows,
    OpenData,
    Rows,
)
from p2p.session.job import Direct
from peer.samples import ANSWER_TIMEOUT_S, MAX_WANTED, SampleLink
from tests.simulation.p2p.session_world import ENGINE
from tests.simulation.peer.data_world import (
    JOB_ID,
    LEASE,
    PEER,
    SAMPLES,
    STRANGER,
    DataWorld,
    Heard,
    RawLine,
    open_data_world,
    raw_line,
    rows_of,
    training,
    until,
)

pytestmark = pytest.mark.virtual_clock

CURRENT = LeaseRef(LEASE.lease_id, LEASE.fencing)


async def opened(world: DataWorld, line: RawLine) -> None:
    answer, _ = await line.ask(OpenData(world.token(), JOB_ID, CURRENT))
    assert isinstance(answer, DataOpened), answer


async def test_a_training_gets_the_rows_of_its_order_and_no_private_one(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine() as engine:
        async with training(world, world.net.join(PEER)) as trainee:
            with trio.fail_after(600):
                await trainee.train()
        assert engine.service.rows_sent == trainee.taken
        trained, validated = world.samples.size(TRAIN), world.samples.size(VALIDATION)
        assert rows_of(bytes(world.sent), TRAIN) == 3 * trained
        assert rows_of(bytes(world.sent), VALIDATION) == 3 * validated
        assert rows_of(bytes(world.sent), TEST) == 0


async def test_with_both_parts_private_only_training_rows_leave(tmp_path: Path) -> None:
    private = (DataPart.TEST, DataPart.VALIDATION)
    async with open_data_world(tmp_path, private) as world, world.engine():
        async with training(world, world.net.join(PEER)) as trainee:
            with trio.fail_after(600):
                await trainee.train()
        sent = bytes(world.sent)
        assert rows_of(sent, TRAIN) and not rows_of(sent, TEST) and not rows_of(sent, VALIDATION)


@pytest.mark.parametrize("seed", range(8))
async def test_cuts_cost_time_only(tmp_path: Path, seed: int) -> None:
    draws = random.Random(seed)

    async def cut_again_and_again(world: DataWorld) -> None:
        while True:
            await trio.sleep(draws.uniform(0.02, 1.0))
            world.net.partition(ENGINE.peer_id, PEER.peer_id)
            await trio.sleep(draws.uniform(0, 6))
            world.net.heal(ENGINE.peer_id, PEER.peer_id)

    async with open_data_world(tmp_path, seed=seed, latency_s=(0.001, 0.05), loss=0.01) as world:
        heard = Heard()
        async with (
            world.engine(),
            training(world, world.net.join(PEER), heard) as trainee,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(cut_again_and_again, world)
            with trio.fail_after(3600):
                await trainee.train()
            nursery.cancel_scope.cancel()
        assert heard.failed == []
        assert len(trainee.received) == len(list(world.schedule().windows(0)))


async def test_a_training_waits_for_a_restarted_engine_and_says_so(tmp_path: Path) -> None:
    heard = Heard()
    async with open_data_world(tmp_path) as world, training(world, world.net.join(PEER), heard) as trainee:
        async with trio.open_nursery() as nursery:
            async with world.engine():
                nursery.start_soon(trainee.train)
                await until(lambda: trainee.taken >= 60)
            await trio.sleep(60)
            assert heard.missed
            assert heard.back == 0
            taken = trainee.taken
            async with world.engine():
                await until(lambda: not nursery.child_tasks)
                assert trainee.taken > taken
        assert heard.back == 1
        assert ENGINE.peer_id in heard.missed[-1] or "cut" in heard.missed[-1]


async def test_a_new_token_is_used_after_the_old_one_ended(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine():
        world.token_life_s = 5
        tokens = [world.token()]
        async with (
            training(world, world.net.join(PEER), token=lambda: tokens[-1]) as trainee,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(trainee.train, 0.5)
            await trio.sleep(8)  # the stream outlives its token
            taken = trainee.taken
            assert taken > 5 * 8
            world.net.partition(ENGINE.peer_id, PEER.peer_id)
            world.net.heal(ENGINE.peer_id, PEER.peer_id)
            await trio.sleep(20)
            stuck = trainee.taken
            tokens.append(world.token(lifetime_s=900))
            await until(lambda: not nursery.child_tasks)
        assert taken <= stuck < trainee.taken


# -- a hostile peer ------------------------------------------------------------------------------


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a token of another job", {"token": {"job_id": "cd" * 32}}, "unauthorized", "token job is cd"),
    ("a token for another peer", {"token": {"audience": STRANGER.peer_id}}, "unauthorized", "token audience"),
    ("a token of another Engine", {"token": {"subject": STRANGER.peer_id}}, "unauthorized", "token subject"),
    ("a token for calls to models", {"token": {"scope": "infer"}}, "unauthorized", "token scope is infer"),
    ("a token of its own making", {"token": {"signer": PEER}}, "unauthorized", "not signed by coordinator"),
    ("no job of this Engine", {"job_id": "cd" * 32, "token": {"job_id": "cd" * 32}}, "not_found", "no job"),
    ("an old lease", {"lease": LeaseRef("lease-1", 0)}, "conflict", "fencing 0, allowed 1"),
    ("another lease", {"lease": LeaseRef("lease-2", 1)}, "conflict", "lease lease-2"),
]


@pytest.mark.parametrize(("call", "code", "text"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
async def test_who_may_not_have_rows_gets_none(
    tmp_path: Path, call: dict[str, Any], code: str, text: str
) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        async with raw_line(engine, world.net.join(PEER)) as line:
            token = world.token(**call.get("token", {}))
            asked = OpenData(token, call.get("job_id", JOB_ID), call.get("lease", CURRENT))
            answer, body = await line.ask(asked)
        assert isinstance(answer, Failure)
        assert answer.code == code
        assert text in answer.message
        assert body == b""
        assert engine.service.rows_sent == 0


async def test_a_direct_job_needs_no_token_and_still_its_lease(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        asked = OpenData("", JOB_ID, CURRENT)
        peer, stranger = world.net.join(PEER), world.net.join(STRANGER)
        async with raw_line(engine, peer) as line:
            answer, _ = await line.ask(asked)
            assert isinstance(answer, Failure) and answer.code == "unauthorized"
        world.job = replace(world.job, direct=Direct())
        async with raw_line(engine, stranger) as line:
            answer, _ = await line.ask(asked)
            assert isinstance(answer, Failure) and answer.code == "unauthorized"
        async with raw_line(engine, peer) as line:
            answer, _ = await line.ask(asked)
            assert isinstance(answer, DataOpened)


async def test_a_stolen_token_is_useless(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        async with raw_line(engine, world.net.join(STRANGER)) as line:
            answer, _ = await line.ask(OpenData(world.token(), JOB_ID, CURRENT))
            assert isinstance(answer, Failure) and answer.code == "unauthorized"
        async with raw_line(engine, world.net._nodes[STRANGER.peer_id]) as line:
            own = world.token(audience=STRANGER.peer_id)  # even with a token, the lease is not its own
            answer, _ = await line.ask(OpenData(own, JOB_ID, CURRENT))
            assert isinstance(answer, Failure)
            assert f"the lease is of {PEER.peer_id}" in answer.message


@pytest.mark.parametrize(
    ("state", "change"),
    [
        ("delivered as a file", lambda job: _delivery(job, Delivery.FILE)),
        ("cancelled", lambda job: replace(job, state=JobState.CANCELLED)),
        ("waiting for another peer", lambda job: replace(job, state=JobState.RETRYING, lease=None)),
        ("reported", lambda job: replace(job, complained=CURRENT)),
        ("about to be reported", lambda job: replace(job, complaint=("protocol", "lied"))),
    ],
)
async def test_a_job_in_another_state_gives_no_rows(
    tmp_path: Path, state: str, change: Callable[[Any], Any]
) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        peer = world.net.join(PEER)
        before = world.job
        async with raw_line(engine, peer) as line:
            await opened(world, line)
            answer, body = await line.ask(GetRows(DataPart.TRAIN, 0, 0, 4))
            assert answer == Rows(4) and rows_of(body, TRAIN) == 4
            world.job = change(before)
            answer, body = await line.ask(GetRows(DataPart.TRAIN, 0, 4, 4))
            assert isinstance(answer, Failure) and body == b""
        async with raw_line(engine, peer) as line:
            answer, _ = await line.ask(OpenData(world.token(), JOB_ID, CURRENT))
            assert isinstance(answer, Failure)


def _delivery(job: Any, delivery: Delivery) -> Any:
    data = replace(job.spec.data, delivery=delivery, private=())
    return replace(job, spec=replace(job.spec, data=data))


TRAINED = 61  # of 101 samples, 20 each are for validation and test
IMPOSSIBLE = [
    (GetRows(DataPart.TEST, 0, 0, 1), "refused", "part test is private, allowed are train, validation"),
    (GetRows(DataPart.TRAIN, 0, 0, SAMPLES), "invalid", "rows 0 to 101 of part train, allowed are 0 to"),
    (GetRows(DataPart.TRAIN, 0, 2**53, 1), "invalid", "of part train, allowed are 0 to"),
    (GetRows(DataPart.TRAIN, 3, 0, 1), "invalid", "epoch 3, allowed are 0 to 2"),
    (GetRows(DataPart.VALIDATION, 0, 0, MAX_ROWS_BYTES), "invalid", "of part validation, allowed are 0 to"),
]


@pytest.mark.parametrize(("call", "code", "text"), IMPOSSIBLE)
async def test_rows_that_do_not_exist_or_are_private_are_refused_by_name(
    tmp_path: Path, call: GetRows, code: str, text: str
) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        async with raw_line(engine, world.net.join(PEER)) as line:
            await opened(world, line)
            answer, body = await line.ask(call)
            assert isinstance(answer, Failure)
            assert (answer.code, body) == (code, b"")
            assert text in answer.message
            answer, _ = await line.ask(GetRows(DataPart.TRAIN, 0, 0, 1))
            assert answer == Rows(1)
        assert rows_of(bytes(world.sent), TEST) == 0


async def test_rows_before_the_opening_and_a_second_opening_are_refused(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        peer = world.net.join(PEER)
        async with raw_line(engine, peer) as line:
            answer, _ = await line.ask(GetRows(DataPart.TRAIN, 0, 0, 1))
            assert isinstance(answer, Failure)
            assert "GetRows first, allowed is OpenData" in answer.message
        async with raw_line(engine, peer) as line:
            await opened(world, line)
            answer, _ = await line.ask(OpenData(world.token(), JOB_ID, CURRENT))
            assert isinstance(answer, Failure) and answer.code == "invalid"


async def test_everything_a_hostile_peer_can_get_is_the_training_part(tmp_path: Path) -> None:
    draws = random.Random(1)
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        async with raw_line(engine, world.net.join(PEER)) as line:
            await opened(world, line)
            for _ in range(400):
                first, count = draws.choice([0, 5, 60, 61, 100, 10**6]), draws.choice([1, 3, 41, 61, 101])
                part, epoch = draws.choice(list(DataPart)), draws.choice([0, 1, 2, 3, 2**31])
                await line.ask(GetRows(part, epoch, first, count))
        sent = bytes(world.sent)
        assert rows_of(sent, TRAIN) > 100
        assert rows_of(sent, TEST) == 0


async def test_who_does_not_read_is_not_read_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.testing._WINDOW_BYTES", 2000)
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        async with raw_line(engine, world.net.join(PEER)) as line:
            await opened(world, line)
            row = 20
            with pytest.raises(P2PError):  # the Engine takes no more requests either
                for number in range(1000):
                    call = GetRows(DataPart.TRAIN, 0, 0, 50)
                    await line.channel.send(Request(number, call), timeout_s=20)
        # What is on its way, in the queue, being sent and being read.
        assert engine.service.rows_sent * row < 2000 + 6 * 50 * row


async def test_only_the_newest_stream_of_a_lease_is_served(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        peer = world.net.join(PEER)
        async with raw_line(engine, peer) as first, raw_line(engine, peer) as second:
            await opened(world, first)
            await opened(world, second)
            answer, _ = await second.ask(GetRows(DataPart.TRAIN, 0, 0, 1))
            assert answer == Rows(1)
            with pytest.raises(P2PError):
                await first.ask(GetRows(DataPart.TRAIN, 0, 0, 1))


async def test_a_stream_that_never_opens_is_dropped(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world, world.engine(connected=False) as engine:
        with pytest.raises(StreamResetError), trio.fail_after(60):
            async with raw_line(engine, world.net.join(PEER)) as line:
                await line.channel.receive()


# -- a hostile Engine, and a hostile worker ------------------------------------------------------


class LyingEngine:
    """Answers the opening as an honest one does, and requests as ``answer`` says."""

    def __init__(self, world: DataWorld, answer: Callable[[Any], tuple[Any, bytes] | None]) -> None:
        data = world.summary()
        self.facts = DataOpened(data.samples, data.sample_shape, data.dtype, data.classes, ())
        self.scaling = bytes(16)
        self.opened = 0
        self._answer = answer
        self.network = world.net.join(ENGINE)
        self.network.set_handler(PROTOCOL_ID, self._serve)

    async def _serve(self, stream: Stream) -> None:
        channel: Any = Channel(stream, RESPONSES, REQUESTS, LIMITS)
        request, _ = await channel.receive()
        self.opened += 1
        await channel.send(Response(request.id, self.facts), self.scaling)
        while True:
            request, _ = await channel.receive()
            answer = self._answer(request.call)
            if answer is not None:
                await channel.send(Response(request.id, answer[0]), answer[1])

    async def connect(self, peer: Any) -> None:
        await self.network.connect(PEER.peer_id, peer.addresses())


async def failure_of(world: DataWorld, engine: LyingEngine) -> str:
    peer = world.net.join(PEER)
    await engine.connect(peer)
    heard = Heard()
    async with training(world, peer, heard) as trainee:
        with trio.move_on_after(5):
            await trainee.link.opened.wait()
            if trainee.link.failure is None:
                trainee.link.stream(trainee)
                trainee.link.want(WantSamples(1, TRAIN, 0, 0, 2))
                await trio.sleep_forever()
    assert trainee.received == {}
    return " ".join(heard.failed)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((Rows(2), bytes(39)), "gave 39 bytes of samples, allowed are 40"),
        ((Rows(2), bytes(41)), "gave 41 bytes"),
        ((DataOpened(1, (1,), "uint8", 1, ()), b""), "answered DataOpened to request 1"),
        (
            (Failure("refused", "part train is private"), b""),
            "refuses samples: refused: part train",
        ),
    ],
)
async def test_an_engine_that_lies_ends_the_job(tmp_path: Path, answer: Any, text: str) -> None:
    async with open_data_world(tmp_path) as world:
        assert text in await failure_of(world, LyingEngine(world, lambda call: answer))


@pytest.mark.parametrize(
    ("changes", "scaling", "text"),
    [
        ({"samples": 7}, bytes(16), "dataset of (samples, shape, type, classes) (7,"),
        ({"dtype": "float32"}, bytes(16), "dataset of"),
        ({}, bytes(15), "scaling of 15 bytes, allowed are 16"),
        ({"target_shape": (2**20, 8)}, bytes(16), "a sample of 67108876 bytes, limit 4194304"),
    ],
)
async def test_facts_that_were_not_submitted_end_the_job(
    tmp_path: Path, changes: dict[str, Any], scaling: bytes, text: str
) -> None:
    async with open_data_world(tmp_path) as world:
        engine = LyingEngine(world, lambda call: (Rows(2), bytes(40)))
        engine.facts, engine.scaling = replace(engine.facts, **changes), scaling
        peer = world.net.join(PEER)
        await engine.connect(peer)
        heard = Heard()
        async with training(world, peer, heard) as trainee:
            with trio.fail_after(60):
                await trainee.link.opened.wait()
        assert trainee.link.failure is not None and text in trainee.link.failure


async def test_an_engine_that_falls_silent_is_asked_again_on_a_new_stream(tmp_path: Path) -> None:
    async with open_data_world(tmp_path) as world:
        engine = LyingEngine(world, lambda call: None if engine.opened < 3 else (Rows(2), bytes(40)))
        peer = world.net.join(PEER)
        await engine.connect(peer)
        heard = Heard()
        async with training(world, peer, heard) as trainee:
            await trainee.link.opened.wait()
            trainee.link.stream(trainee)
            trainee.link.want(WantSamples(1, TRAIN, 0, 0, 2))
            began = trio.current_time()
            await until(lambda: trainee.received)
        assert engine.opened == 3
        assert 2 * ANSWER_TIMEOUT_S < trio.current_time() - began < 2 * ANSWER_TIMEOUT_S + 10
        assert any("no samples for" in reason for reason in heard.missed)
        assert heard.back == 1


async def test_a_worker_cannot_ask_for_what_is_not_there(tmp_path: Path) -> None:
    async with (
        open_data_world(tmp_path) as world,
        world.engine(),
        training(world, world.net.join(PEER)) as trainee,
    ):
        await trainee.link.opened.wait()
        trainee.link.stream(trainee)
        for want in (
            WantSamples(1, "all", 0, 0, 1),
            WantSamples(1, TRAIN, -1, 0, 1),
            WantSamples(1, TRAIN, 0, -1, 1),
            WantSamples(1, TRAIN, 0, 0, 0),
            WantSamples(1, TRAIN, 0, 0, 2**40),
        ):
            with pytest.raises(WorkerError, match="asked for"):
                trainee.link.want(want)
        with pytest.raises(WorkerError, match=f"limit {MAX_WANTED}"):
            for number in range(MAX_WANTED + 1):
                trainee.link.want(WantSamples(number, TRAIN, 0, 0, 1))


async def test_what_is_wanted_while_a_request_is_sent_is_asked_for_too() -> None:
    asked: list[int] = []

    class Busy:
        """While the first request is on its way out, the worker wants more and gets the first answer."""

        async def send(self, request: Request[Any], body: bytes = b"") -> None:
            asked.append(request.id)
            if request.id == 1:
                link._wanted[2] = WantSamples(2, TRAIN, 0, 1, 1)
                link._wake()
                del link._wanted[1]
                link._sent.discard(1)
                link._wake()
            await trio.lowlevel.checkpoint()

    link = SampleLink(cast(Any, None), cast(Any, None), cast(Any, None), 1)
    link._wanted[1] = WantSamples(1, TRAIN, 0, 0, 1)
    with trio.move_on_after(60):
        await link._ask(cast(Any, Busy()))
    assert asked == [1, 2]
