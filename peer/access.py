"""Who may do what on this peer: tokens of the coordinator, and the list of allowed Engines.

A paid job needs a token of its coordinator, a direct one an Engine on the list; neither stands in
for the other. Both hold only for the identity of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from p2p.auth import TokenClaims, verify_token
from p2p.datadir import write_atomic
from p2p.errors import RemoteFailureError, TokenRefusedError
from p2p.identifiers import PeerId
from peer.allowed import AllowList, checked_id, from_bytes, to_bytes

NOBODY = AllowList()


class Access:
    """``coordinator_id`` is None where there is no coordinator: then no token is worth anything."""

    def __init__(
        self,
        own_id: PeerId,
        coordinator_id: PeerId | None,
        now: Callable[[], float],
        allowed: AllowList = NOBODY,
        path: Path | None = None,
    ) -> None:
        self.allowed = allowed
        self._revoked: frozenset[str] = frozenset()
        self._own_id = own_id
        self._coordinator_id = coordinator_id
        self._now = now
        self._path = path

    def check_token(self, caller: PeerId, token: str, scope: str, job_id: str | None = None) -> TokenClaims:
        """Raises RemoteFailureError."""
        if self._coordinator_id is None:
            raise RemoteFailureError("unauthorized", "this peer has no coordinator, whose token could hold")
        try:
            return verify_token(
                token,
                coordinator_id=self._coordinator_id,
                subject=caller,
                audience=self._own_id,
                scope=scope,
                now=self._now(),
                revoked=self._revoked,
                job_id=job_id,
            )
        except TokenRefusedError as error:
            raise RemoteFailureError("unauthorized", str(error)) from error

    def learn_revoked(self, token_ids: Iterable[str]) -> None:
        """All tokens that the coordinator took back and that have not expired."""
        self._revoked = frozenset(token_ids)

    def is_revoked(self, token_id: str) -> bool:
        return token_id in self._revoked

    def check_allowed(self, caller: PeerId) -> None:
        """Raises RemoteFailureError, saying how to be let in."""
        if not self.allowed.has(caller):
            raise RemoteFailureError(
                "unauthorized",
                f"Engine {caller} is not on the list of this peer; its owner lets it in with: "
                f"cyxpeer allow {caller}",
            )

    def allow(self, engine_id: str) -> None:
        """Kept before it holds. Raises ConfigError, OSError."""
        self._change(self.allowed.allow(engine_id))

    def deny(self, engine_id: str) -> None:
        """Raises ConfigError, OSError."""
        self._change(self.allowed.deny(engine_id))

    def _change(self, after: AllowList) -> None:
        if self._path is not None:
            write_atomic(self._path, to_bytes(after.kept))
        self.allowed = after


def read_allowed(path: Path, flagged: Iterable[str] = ()) -> AllowList:
    """Raises ConfigError for a damaged file, or an id that is none."""
    ids = frozenset(map(checked_id, flagged))
    try:
        return AllowList(from_bytes(path.read_bytes()), ids)
    except FileNotFoundError:
        return AllowList(frozenset(), ids)
