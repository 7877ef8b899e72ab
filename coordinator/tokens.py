"""Which access tokens are alive, and which of them were taken back. Pure; time is an argument.

Peers check tokens offline, so a token that is taken back is told to the peer that it is for, with every
heartbeat until it would have expired anyway. Never holds a token itself, only what it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import msgspec

from p2p.identifiers import PeerId

K = TypeVar("K", bound=Hashable)

MAX_ALIVE = 1_000
"""Tokens of one job and scope: an Engine needs one for each of its runs."""
MAX_TOLD = 256


class IssuedToken(msgspec.Struct, frozen=True):
    jti: str
    subject: PeerId
    audience: PeerId
    job_id: str
    scope: str
    expires_at: float
    revoked: bool = False


class TokenBook:
    """All tokens live equally long, so they expire in the order in which they were issued."""

    def __init__(self, tokens: Iterable[IssuedToken] = ()) -> None:
        self._tokens: dict[str, IssuedToken] = {}
        self._of_job: dict[str, set[str]] = {}
        self._revoked_at: dict[PeerId, set[str]] = {}
        for token in sorted(tokens, key=lambda token: token.expires_at):
            self._keep(token)

    def issue(self, token: IssuedToken, now: float) -> bool:
        """False, and nothing noted, where too many for the same are alive."""
        self.forget_expired(now)
        alike = [self._tokens[jti] for jti in self._of_job.get(token.job_id, ())]
        if sum(known.scope == token.scope and not known.revoked for known in alike) >= MAX_ALIVE:
            return False
        self._keep(token)
        return True

    def revoke(
        self, job_id: str, chosen: Callable[[IssuedToken], bool], now: float
    ) -> tuple[IssuedToken, ...]:
        """Those of the job that were alive and are not any more."""
        self.forget_expired(now)
        known = [self._tokens[jti] for jti in sorted(self._of_job.get(job_id, ()))]
        taken = [
            msgspec.structs.replace(token, revoked=True)
            for token in known
            if not token.revoked and chosen(token)
        ]
        for token in taken:
            self._keep(token)
        return tuple(taken)

    def revoked_at(self, audience: PeerId, now: float) -> tuple[str, ...]:
        """What this peer must refuse, though the signature is good; the newest where there are too many."""
        self.forget_expired(now)
        revoked = self._revoked_at.get(audience, set())
        if not revoked:
            return ()
        return tuple(sorted(revoked, key=lambda jti: -self._tokens[jti].expires_at)[:MAX_TOLD])

    def jobs(self) -> frozenset[str]:
        return frozenset(self._of_job)

    def jobs_of(self, subject: PeerId) -> frozenset[str]:
        """Those that an Engine holds tokens for."""
        return frozenset(token.job_id for token in self._tokens.values() if token.subject == subject)

    def forget_expired(self, now: float) -> None:
        while self._tokens:
            token = next(iter(self._tokens.values()))
            if token.expires_at > now:
                return
            del self._tokens[token.jti]
            _drop(self._of_job, token.job_id, token.jti)
            _drop(self._revoked_at, token.audience, token.jti)

    def _keep(self, token: IssuedToken) -> None:
        self._tokens[token.jti] = token
        self._of_job.setdefault(token.job_id, set()).add(token.jti)
        if token.revoked:
            self._revoked_at.setdefault(token.audience, set()).add(token.jti)


def _drop(index: dict[K, set[str]], key: K, jti: str) -> None:
    names = index.get(key)
    if names is not None:
        names.discard(jti)
        if not names:
            del index[key]
