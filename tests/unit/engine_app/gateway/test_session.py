"""Which deployments an Engine has, and who was given them."""

from __future__ import annotations

from msgspec.structs import replace

from engine_app.gateway.deployments import Deployment
from engine_app.gateway.session import deployments_of, given_to
from p2p.identifiers import PeerId
from p2p.jobs import JobState, Requirements, ServingSpec
from p2p.session.job import Job
from tests.unit.p2p.test_direct_session import OTHER, PEER, after, granted, new_job

SERVING = ServingSpec("chat", "gguf", 1 << 30)


def deployed(wanted: str = "", allow: tuple[str, ...] = ()) -> Job:
    job = new_job(wanted)
    spec = replace(
        job.spec, served=SERVING, requirements=Requirements(allow=tuple(PeerId(each) for each in allow))
    )
    return replace(job, spec=spec)


def test_a_deployment_is_where_its_lease_is() -> None:
    running = replace(after(granted(), job=deployed()), state=JobState.RUNNING)
    waiting = replace(running, state=JobState.AWAITING_FUNDS)
    over = replace(running, state=JobState.COMPLETED)
    found = deployments_of([running, waiting, over, deployed(), new_job()])
    assert [each.is_running for each in found] == [True, False]
    assert found[0] == Deployment(running.job_id, "chat", PEER, True, frozenset({PEER}))


def test_who_was_named_was_given_it_and_nobody_else() -> None:
    assert given_to(deployed(wanted=PEER)) == {PEER}
    assert given_to(deployed(allow=(PEER, OTHER))) == {PEER, OTHER}


def test_of_those_that_nobody_named_the_first_was_given_it() -> None:
    moved = after(granted(1, PEER), granted(2, OTHER), job=deployed())
    assert moved.peer_id == OTHER
    assert given_to(moved) == {PEER}
    assert given_to(deployed()) == frozenset()
