"""The Engine's deployments, as a gateway needs them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from engine_app.gateway.deployments import Deployment
from p2p.session.deployments import DeploymentView


def deployments_of(views: Iterable[DeploymentView]) -> list[Deployment]:
    """Those that are not over."""
    return [
        Deployment(each.id, each.name, each.peer_id, each.is_running, each.given_to)
        for each in views
        if not each.state.is_final
    ]
