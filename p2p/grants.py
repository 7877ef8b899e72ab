"""One program's signed word that another may have its files, to be shown to whoever holds them. Pure.

An Engine grants the peer of a retried job its dataset; the peer that had the job before checks the
word against the Engine's peer id, which *is* its key, and gives the file only if the Engine itself
might have it there. A grant holds for its few files and one taker, on a connection whose authenticated
identity is that taker, for an hour at most.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2p.errors import P2PError, TokenRefusedError
from p2p.identifiers import PeerId
from p2p.identity import verify
from p2p.protocols.transfer import FileGrant, SignedGrant

GRANT_TAG = b"cyxwiz-file-grant-1"
"""Keeps a grant's signature from being taken for anything else that the same key signs."""
MAX_LIFETIME_S = 3600.0
CLOCK_SKEW_S = 60.0
MAX_KEPT = 4096

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(FileGrant)


def sign_grant(grant: FileGrant, sign: Callable[[bytes], bytes]) -> SignedGrant:
    """``sign`` is that of the network whose peer id is the grant's issuer."""
    payload = _ENCODER.encode(grant)
    return SignedGrant(payload, sign(GRANT_TAG + payload))


def open_grant(signed: SignedGrant, subject: PeerId, now: float) -> FileGrant:
    """The grant, once its signature, its subject and its time hold; its issuer is for the caller to judge.

    ``subject`` is the authenticated peer id of the connection. Raises TokenRefusedError.
    """
    try:
        grant = _DECODER.decode(signed.payload)
        is_genuine = verify(PeerId(grant.issuer), GRANT_TAG + signed.payload, signed.signature)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, P2PError, ValueError) as error:
        raise TokenRefusedError(f"grant of {len(signed.payload)} bytes: {error}") from error
    if not is_genuine:
        raise TokenRefusedError(f"grant is not signed by its issuer {grant.issuer}")
    if grant.subject != subject:
        raise TokenRefusedError(f"grant for {grant.subject}, shown by {subject}")
    if not now < grant.expires_at <= now + MAX_LIFETIME_S + CLOCK_SKEW_S:
        raise TokenRefusedError(
            f"grant until {grant.expires_at:.0f}, allowed {now:.0f} to {now + MAX_LIFETIME_S:.0f}"
        )
    return grant


class GrantBook:
    """The grants that were shown, each until it expires; beyond a limit the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], FileGrant] = {}

    def keep(self, grant: FileGrant, manifest: str) -> None:
        """For one of its files."""
        self._kept.pop((grant.subject, manifest), None)
        self._kept[grant.subject, manifest] = grant
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def issuer_for(self, subject: PeerId, manifest: str, now: float) -> PeerId | None:
        """Whose word lets ``subject`` have the file, if anybody's does now."""
        grant = self._kept.get((subject, manifest))
        return PeerId(grant.issuer) if grant is not None and now < grant.expires_at else None
