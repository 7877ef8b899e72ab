"""Which peers may see what is asked of their models. Pure.

Nobody may who is not named here, and who is forbidden may not in any case. To deploy a model at a peer
allows that peer for that deployment, and nothing beyond it: where it moves later on is another matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

MAX_PEERS = 1000

SEES = "the peer that serves a model sees everything that is asked of it, and what it answers"


@dataclass(frozen=True, slots=True)
class Allowed:
    peers: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()

    def lets(self, peer_id: str, is_given: bool) -> bool:
        """``is_given``: this deployment was given to this peer."""
        return peer_id not in self.forbidden and (is_given or peer_id in self.peers)

    def allowing(self, peer_id: str) -> Allowed:
        return replace(self, peers=self.peers | {peer_id}, forbidden=self.forbidden - {peer_id})

    def forbidding(self, peer_id: str) -> Allowed:
        """Also for deployments that it was given before."""
        return replace(self, peers=self.peers - {peer_id}, forbidden=self.forbidden | {peer_id})


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peers: list[str] = []
    forbidden: list[str] = []


def to_json(allowed: Allowed) -> bytes:
    stored = _Stored(sorted(allowed.peers), sorted(allowed.forbidden))
    return msgspec.json.format(msgspec.json.encode(stored))


def from_json(data: bytes) -> Allowed:
    """Raises msgspec.MsgspecError."""
    stored = msgspec.json.decode(data, type=_Stored)
    return Allowed(frozenset(stored.peers), frozenset(stored.forbidden))
