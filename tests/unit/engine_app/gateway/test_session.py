"""Which deployments an Engine has for its gateway."""

from __future__ import annotations

from msgspec.structs import replace

from engine_app.gateway.deployments import Deployment
from engine_app.gateway.session import deployments_of
from p2p.identifiers import PeerId
from p2p.jobs import JobState, Requirements, ServingSpec
from p2p.session.deployments import view
from p2p.session.job import Job
from tests.unit.p2p.test_direct_session import OTHER, PEER, after, granted, new_job

SERVING = ServingSpec("chat", "gguf", 1 << 30)


def deployed(wanted: str = "", allow: tuple[str, ...] = ()) -> Job:
    job = new_job(wanted)
    needs = Requirements(allow=tuple(PeerId(each) for each in allow))
    return replace(job, spec=replace(job.spec, served=SERVING, requirements=needs))


def seen(*jobs: Job) -> list[Deployment]:
    return deployments_of(view(job, 0.0) for job in jobs)


def test_a_deployment_is_where_its_lease_is_until_it_is_over() -> None:
    running = replace(after(granted(), job=deployed()), state=JobState.RUNNING)
    waiting = replace(running, state=JobState.AWAITING_FUNDS)
    over = replace(running, state=JobState.COMPLETED)
    found = seen(running, waiting, over, deployed())
    assert [(each.peer_id, each.is_running) for each in found] == [(PEER, True), (PEER, False), (None, False)]
    assert found[0] == Deployment(running.job_id, "chat", PEER, True, frozenset({PEER}))


def test_who_was_named_was_given_it_and_of_those_that_nobody_named_the_first() -> None:
    moved = after(granted(1, PEER), granted(2, OTHER), job=deployed())
    jobs = deployed(wanted=PEER), deployed(allow=(PEER, OTHER)), moved, deployed()
    given = [each.given_to for each in seen(*jobs)]
    assert given == [{PEER}, {PEER, OTHER}, {PEER}, frozenset()]
    assert moved.peer_id == OTHER
