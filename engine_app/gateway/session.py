"""The Engine's deployments, as a gateway needs them: which there are, and who was given them. Pure.

Whom a user deploys to may see what the model is asked. That is the peer which was named, and where none
was named the first that it ran at: not one that it moved to later, of which the user knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine_app.gateway.deployments import Deployment
from p2p.jobs import JobState
from p2p.session.job import Job


def deployments_of(jobs: Iterable[Job]) -> list[Deployment]:
    """Those that are at a peer now."""
    found = []
    for job in jobs:
        serving, peer_id = job.spec.serving, job.peer_id
        if serving is not None and peer_id is not None and not job.is_over:
            runs = job.state is JobState.RUNNING
            found.append(Deployment(job.job_id, serving.name, peer_id, runs, given_to(job)))
    return found


def given_to(job: Job) -> frozenset[str]:
    if job.direct is not None and job.direct.wanted:
        return frozenset({job.direct.wanted})
    if job.spec.requirements.allow:
        return frozenset(job.spec.requirements.allow)
    return frozenset(hold.peer_id for hold in job.holds[-1:])
