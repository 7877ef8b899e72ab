"""Which Engines this peer works for without being paid: those that its owner lets in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from p2p.errors import RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of
from peer.errors import ConfigError

MAX_ALLOWED = 1024


@dataclass(frozen=True, slots=True)
class AllowList:
    """``kept`` outlives the program; ``flagged`` was named at its start and holds until its end."""

    kept: frozenset[PeerId] = frozenset()
    flagged: frozenset[PeerId] = frozenset()

    def has(self, engine_id: PeerId) -> bool:
        return engine_id in self.kept or engine_id in self.flagged

    def ids(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self.kept | self.flagged))

    def allow(self, engine_id: str) -> AllowList:
        """Raises ConfigError for what is no Engine's id, or one too many."""
        after = replace(self, kept=self.kept | {checked_id(engine_id)})
        if len(after.kept) > MAX_ALLOWED:
            raise ConfigError(f"{len(after.kept)} allowed Engines, limit {MAX_ALLOWED}")
        return after

    def deny(self, engine_id: str) -> AllowList:
        """Raises ConfigError for what is no Engine's id."""
        gone = {checked_id(engine_id)}
        return AllowList(self.kept - gone, self.flagged - gone)


def checked_id(text: str) -> PeerId:
    """Raises ConfigError for what is no peer id."""
    try:
        public_key_of(PeerId(text))
    except RemoteProtocolError as error:
        raise ConfigError(f"{error}; `cyxwiz id` on the Engine's machine prints its id") from error
    return PeerId(text)


def to_bytes(ids: Iterable[PeerId]) -> bytes:
    return msgspec.json.format(msgspec.json.encode({"allowed": sorted(ids)})) + b"\n"


def from_bytes(data: bytes) -> frozenset[PeerId]:
    """Raises ConfigError."""
    try:
        found = msgspec.json.decode(data, type=dict[str, list[str]])["allowed"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list of allowed Engines is damaged: {error}") from error
    return frozenset(map(checked_id, found))
