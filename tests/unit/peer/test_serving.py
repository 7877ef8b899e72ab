"""What a deployment's peer counts, whom it answers, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from blake3 import blake3

from backend.workers.hosted import HostedState
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ServerListener
from p2p.errors import RemoteFailureError
from p2p.jobs import SERVED_DTYPE, DataSummary, FileRef, JobSpec, ServingSpec
from p2p.pricing import price_of
from p2p.protocols.coordinator import OfferJob
from peer.admission import ServingLimits, Verdict, check_checkpoint, check_offer, judge_graph
from peer.errors import JobError, OfferRefusedError
from peer.events import Event
from peer.hosting import HostedStatus
from peer.job import LeaseKind, new_job, recovered
from peer.plan import Patience, gives_up_at
from peer.served import LINGER_S, UNPAID, ServedModels
from peer.serving import COUNTED, DOWN_PATIENCE_S, ReadyClock, Serving, check_model
from tests.e2e.serving.servers import linear_onnx
from tests.unit.peer.make import DATA, METRICS, NOW, make_file, make_offer

OLD, NEW = "0d" * 32, "e1" * 32
LIMITS = ServingLimits(("cyxmodel", "onnx"), 1 << 30)


def deployment_offer(job_id: str = OLD, first_segment: int = 0, **changes: Any) -> OfferJob:
    serving = ServingSpec("digits", "onnx", 1 << 29, **changes)
    spec = make_offer().job
    spec = JobSpec(
        job_id,
        blake3(b"").hexdigest(),
        DataSummary(DATA, 1, (), SERVED_DTYPE),
        spec.budget,
        spec.user_wallet,
        10,
        served=serving,
    )
    return msgspec.structs.replace(make_offer(lease_id=job_id), job=spec, first_segment=first_segment)


class Models:
    """Stands in for the workers: what is loaded, by its job."""

    def __init__(self) -> None:
        self.loaded: dict[str, ServerListener] = {}
        self.model = ModelCalls()

    @property
    def jobs(self) -> tuple[str, ...]:
        return tuple(self.loaded)

    async def stop(self, job_id: str, grace_s: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()
        self.loaded.pop(job_id, None)

    def hand_over(self, old: str, new: str, told: ServerListener) -> bool:
        if self.loaded.pop(old, None) is None:
            return False
        self.loaded[new] = told
        return True

    def calls(self, job_id: str) -> ModelCalls:
        if job_id not in self.loaded:
            raise RemoteFailureError("not_found", "not served here")
        return self.model

    async def status(self, job_id: str, patience_s: float = 0) -> HostedStatus:
        await trio.lowlevel.checkpoint()
        self.calls(job_id)
        return HostedStatus(HostedState.READY, "", 0, None)


# -- what is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "limits", "words"),
    [
        (deployment_offer(), ServingLimits(), "a deployment whose model is onnx, served here: none"),
        (deployment_offer(), ServingLimits(("gguf",), 1 << 40), "served here: gguf"),
        (deployment_offer(), ServingLimits(("onnx",), 5), "536870912 bytes of memory, limit 5"),
        (deployment_offer(tokenizer=FileRef("a" * 64, "b" * 64, 10**6)), LIMITS, "tokenizer of 1000000"),
    ],
)
def test_what_is_not_served_here_is_refused(offer: OfferJob, limits: ServingLimits, words: str) -> None:
    with pytest.raises(OfferRefusedError, match=words):
        check_offer(offer, 1, 10_000, (offer.job.data.delivery,), limits)
    check_offer(deployment_offer(), 1, 10_000, (offer.job.data.delivery,), LIMITS)


def test_the_own_price_is_that_of_the_time_that_is_left() -> None:
    assert judge_graph(b"", deployment_offer(), 10**9, 3600) == Verdict(price_of(600_000, 3600), 600)
    assert judge_graph(b"", deployment_offer(first_segment=7), 10**9, 3600) == Verdict(180, 180)
    with pytest.raises(JobError, match="graph"):
        judge_graph(b"{}", deployment_offer(), 10**9, 3600)


def test_a_deployment_goes_on_from_its_model_and_from_nothing_else() -> None:
    check_checkpoint(deployment_offer(), None)
    check_checkpoint(deployment_offer(first_segment=3), DATA)
    for first, file in ((0, DATA), (3, None), (3, make_file("9"))):
        with pytest.raises(JobError, match="checkpoint"):
            check_checkpoint(deployment_offer(first_segment=first), file)


def test_a_file_of_another_format_is_refused_by_its_header(tmp_path: Path) -> None:
    serving = deployment_offer().job.serving
    assert serving is not None
    file = tmp_path / "model"
    file.write_bytes(b"no model at all" * 10)
    with pytest.raises(JobError, match="the file is unknown, served are cyxmodel"):
        check_model(file, serving)
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(JobError, match="GGUF file: version 0"):
        check_model(file, serving)
    linear_onnx(file)
    check_model(file, serving)
    with pytest.raises(JobError, match="the model is onnx, allowed gguf as submitted"):
        check_model(file, msgspec.structs.replace(serving, format="gguf"))


def test_an_unpaid_deployment_does_not_keep_its_device_for_an_engine_that_left() -> None:
    job = new_job(deployment_offer(), LeaseKind.DIRECT)
    over = msgspec.structs.replace(job, result=DATA, metrics=METRICS, waiting_since=NOW)
    assert over.occupies_device
    assert gives_up_at(over, Patience(engine_s=7.0)) == NOW + 7


def test_after_a_restart_a_last_period_that_nobody_saw_is_served_again() -> None:
    job = new_job(deployment_offer())
    held = recovered(msgspec.structs.replace(job, accepted=True, done=10, result=DATA, metrics=METRICS))
    assert held.ending is not None and held.ending.code == "restarted" and held.ending.retryable


# -- what counts -------------------------------------------------------------------------------


@pytest.mark.virtual_clock
async def test_only_time_in_which_the_model_could_answer_counts() -> None:
    clock = ReadyClock()
    async with trio.open_nursery() as nursery:
        began_at = trio.current_time()
        nursery.start_soon(clock.count, 60.0)
        await trio.sleep(10)  # loading
        clock.release()
        await trio.sleep(20)
        clock.hold()
        await trio.sleep(100)
        clock.release()
    assert trio.current_time() - began_at == pytest.approx(10 + 20 + 100 + 40)


@pytest.mark.virtual_clock
async def test_what_is_read_of_the_clock_is_the_time_that_nothing_held() -> None:
    clock = ReadyClock()
    await trio.sleep(7)
    assert clock.read() == 0
    clock.release()
    await trio.sleep(3)
    assert clock.read() == pytest.approx(3)
    clock.hold()
    await trio.sleep(50)
    clock.release()
    await trio.sleep(2)
    assert clock.read() == pytest.approx(5)


@pytest.mark.virtual_clock
async def test_a_worker_that_stays_away_ends_the_deployment() -> None:
    async with trio.open_nursery() as nursery:
        clock = ReadyClock()
        with pytest.raises(JobError, match=f"within {DOWN_PATIENCE_S:.0f} s") as caught:
            await clock.count(1.0)
        assert caught.value.retryable
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_what_is_answered_while_a_voucher_is_awaited_counts_for_the_next_period() -> None:
    ends: list[float] = []

    async def feed(event: Event) -> None:
        ends.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        served = ServedModels(Models(), nursery)  # type: ignore[arg-type]
        served.hosting.loaded[OLD] = ServerListener()  # type: ignore[attr-defined]
        served.end(served.begin(new_job(deployment_offer()), "cpu"), "paid in full", lingers=True)
        worker = SimpleNamespace(device="cpu")
        services: Any = SimpleNamespace(served=served, workers=[worker] * 9, now=lambda: NOW)
        job = new_job(deployment_offer(NEW, continues=OLD, period_s=20))
        serving = Serving(services, feed)
        await serving.prepare(job)
        for segment, voucher_s in enumerate((8, 500, 500, 0)):
            await serving.serve(job, segment)
            await trio.sleep(voucher_s)
        nursery.cancel_scope.cancel()
    first, second, third, fourth = ends
    assert second - first == pytest.approx(20)  # with the eight seconds before the voucher
    assert third - second == pytest.approx(500 + 20 * (1 - COUNTED))  # what was refused does not count
    assert fourth - third == pytest.approx(500 + 20 * (1 - COUNTED))


# -- who is answered ---------------------------------------------------------------------------


@pytest.mark.virtual_clock
async def test_calls_wait_for_their_payment_but_the_engine_may_always_look() -> None:
    async with trio.open_nursery() as nursery:
        hosting = Models()
        served = ServedModels(hosting, nursery)
        model = served.begin(new_job(deployment_offer()), "cpu")
        with pytest.raises(RemoteFailureError, match="being loaded"):
            served.calls(OLD)
        assert (await served.status(OLD)).state is HostedState.LOADING
        hosting.loaded[OLD] = ServerListener()
        model.refusal, model.due_at = None, trio.current_time() + 5
        assert served.calls(OLD) is hosting.model
        await trio.sleep(6)
        with pytest.raises(RemoteFailureError, match="unpaid") as caught:
            served.calls(OLD)
        assert caught.value.code == UNPAID
        model.late_calls = 2
        for _ in range(2):  # one after each look, and no more than so many
            assert (await served.status(OLD)).state is HostedState.READY
            assert served.calls(OLD) is hosting.model
            with pytest.raises(RemoteFailureError, match="unpaid"):
                served.calls(OLD)
        assert (await served.status(OLD)).state is HostedState.READY
        with pytest.raises(RemoteFailureError, match="unpaid"):
            served.calls(OLD)
        served.end(model, "stopped by the user")
        await trio.testing.wait_all_tasks_blocked()
        assert hosting.jobs == ()
        for call in (served.calls, hosting.calls):
            with pytest.raises(RemoteFailureError):
                call(OLD)
        with pytest.raises(RemoteFailureError, match="is over: stopped by the user"):
            await served.status(OLD)
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_deployment_that_continues_another_takes_its_model_over() -> None:
    async with trio.open_nursery() as nursery:
        hosting = Models()
        served = ServedModels(hosting, nursery)
        old = served.begin(new_job(deployment_offer()), "cpu")
        hosting.loaded[OLD] = ServerListener()
        served.end(old, "paid in full", lingers=True)
        stranger = msgspec.structs.replace(deployment_offer(NEW, continues=OLD), engine_id="somebody else")
        told = ServerListener()
        assert not served.take_over(served.begin(new_job(stranger), "cpu"), told)
        assert not served.take_over(served.begin(new_job(deployment_offer(NEW)), "cpu"), told)
        other = deployment_offer(NEW, continues=OLD, context=512)
        assert not served.take_over(served.begin(new_job(other), "cpu"), told)
        follower = served.begin(new_job(deployment_offer(NEW, continues=OLD, period_s=5)), "cpu")
        assert served.take_over(follower, told)
        follower.refusal = None
        await trio.sleep(2 * LINGER_S)
        assert hosting.loaded == {NEW: told}
        assert served.calls(NEW) is hosting.model
        with pytest.raises(RemoteFailureError, match="is over: paid in full"):
            served.calls(OLD)
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_model_from_another_share_leaves_none_that_is_over_beside_it() -> None:
    async def feed(event: Event) -> None:
        pass

    async with trio.open_nursery() as nursery:
        served = ServedModels(Models(), nursery)  # type: ignore[arg-type]
        for job_id, device in ((OLD, 0), ("c" * 64, 1)):
            offer = msgspec.structs.replace(deployment_offer(job_id), device=device)
            served.hosting.loaded[job_id] = ServerListener()  # type: ignore[attr-defined]
            served.end(served.begin(new_job(offer), "cpu"), "paid in full", lingers=True)
        services: Any = SimpleNamespace(served=served, workers=[SimpleNamespace(device="cpu")] * 2)
        offer = msgspec.structs.replace(deployment_offer(NEW, continues=OLD), device=1)
        await Serving(services, feed).prepare(new_job(offer))
        assert served.hosting.jobs == (NEW,)
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_model_that_nobody_continues_goes_and_at_once_where_its_device_is_needed() -> None:
    async with trio.open_nursery() as nursery:
        hosting = Models()
        served = ServedModels(hosting, nursery)
        for is_needed in (True, False):
            hosting.loaded[OLD] = ServerListener()
            served.end(served.begin(new_job(deployment_offer()), "cpu"), "paid in full", lingers=True)
            await trio.testing.wait_all_tasks_blocked()
            assert hosting.jobs == (OLD,)
            if is_needed:
                await served.clear(0)
                assert hosting.jobs == ()
            await trio.sleep(LINGER_S + 1)
            assert hosting.jobs == ()
