"""Which deployments at peers a gateway answers for, and what changes when they come, move and end. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from engine_app.gateway.endpoint import Place

MIN_ID_CHARACTERS = 6
"""Of the beginning of an id, so that a name is not taken for one."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model that a peer serves for this user. Deployments of one ``name``, which can stand in a path, are
    replicas."""

    id: str
    name: str
    peer_id: str | None
    """None before there is one."""
    is_running: bool
    given_to: frozenset[str] = frozenset()
    """The peers that the user chose for it, or saw it begin at. Where it moves later on is not among them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asked for: deployments by id, its beginning, or name; or all that there are."""

    named: frozenset[str] = frozenset()
    every: bool = False

    def takes(self, deployment: Deployment) -> bool:
        return self.every or any(
            wanted == deployment.name
            or (len(wanted) >= MIN_ID_CHARACTERS and deployment.id.startswith(wanted))
            for wanted in self.named
        )

    def missing(self, deployments: Collection[Deployment]) -> list[str]:
        """What was named and is not there."""
        return sorted(
            wanted
            for wanted in self.named
            if not any(Choice(frozenset({wanted})).takes(each) for each in deployments)
        )


def places(deployments: Iterable[Deployment], choice: Choice) -> set[Place]:
    """Where requests may go. A deployment that moved to another peer is another place."""
    return {
        Place(each.name, each.name, each.peer_id, each.id, each.peer_id in each.given_to)
        for each in deployments
        if each.is_running and each.peer_id is not None and choice.takes(each)
    }


def changes(known: Mapping[Place, T], wanted: set[Place]) -> tuple[list[Place], list[T]]:
    """Places to add, and what has to go."""
    added = sorted(wanted - known.keys(), key=lambda place: (place.model, str(place.deployment)))
    return added, [member for place, member in known.items() if place not in wanted]
