"""Which peers may see what is asked of their models. Pure.

Nobody may who is not named here, and who is forbidden may not in any case. To deploy a model at a peer
allows that peer for that deployment, and nothing beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

MAX_PEERS = 1000
MAX_DEPLOYMENTS = 10_000
ANY = "*"
"""In place of a deployment's peers: whoever the coordinator finds for it."""

SEES = "the peer that serves a model sees everything that is asked of it, and what it answers"


@dataclass(frozen=True, slots=True)
class Allowed:
    peers: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    deployments: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    """By deployment: the peers that it was given to."""

    def lets(self, peer_id: str, deployment: str | None) -> bool:
        if peer_id in self.forbidden:
            return False
        if peer_id in self.peers:
            return True
        given = self.deployments.get(deployment, frozenset()) if deployment is not None else frozenset()
        return ANY in given or peer_id in given

    def allowing(self, peer_id: str) -> Allowed:
        return replace(self, peers=self.peers | {peer_id}, forbidden=self.forbidden - {peer_id})

    def forbidding(self, peer_id: str) -> Allowed:
        """Also for deployments that it was given before."""
        return replace(self, peers=self.peers - {peer_id}, forbidden=self.forbidden | {peer_id})

    def deploying(self, deployment: str, peer_id: str) -> Allowed:
        """``peer_id`` may be ``ANY``. Of very many deployments the oldest are forgotten."""
        given = self.deployments.get(deployment, frozenset()) | {peer_id}
        rest = {name: peers for name, peers in self.deployments.items() if name != deployment}
        kept = [*rest.items(), (deployment, given)][-MAX_DEPLOYMENTS:]
        return replace(self, deployments=MappingProxyType(dict(kept)))


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peers: list[str] = []
    forbidden: list[str] = []
    deployments: dict[str, list[str]] = {}


def to_json(allowed: Allowed) -> bytes:
    given = {name: sorted(peers) for name, peers in allowed.deployments.items()}
    stored = _Stored(sorted(allowed.peers), sorted(allowed.forbidden), given)
    return msgspec.json.format(msgspec.json.encode(stored))


def from_json(data: bytes) -> Allowed:
    """Raises msgspec.MsgspecError."""
    stored = msgspec.json.decode(data, type=_Stored)
    given = {name: frozenset(peers) for name, peers in stored.deployments.items()}
    return Allowed(frozenset(stored.peers), frozenset(stored.forbidden), MappingProxyType(given))
