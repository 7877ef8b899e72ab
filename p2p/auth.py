"""Access tokens: JWTs signed by the coordinator, checked offline by a peer. Pure.

The key that verifies a token is the one inside the coordinator's peer id, and the algorithm is
pinned: nothing in the token itself chooses either. A token holds only on a connection whose
authenticated identity is its subject, so a stolen one is worthless. Never logs a token.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Container
from typing import Annotated, Protocol

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from p2p.errors import LocalProtocolError, TokenRefusedError
from p2p.identifiers import JobIdField, Label, PeerId, PeerIdField
from p2p.identity import public_key_of
from p2p.protocols.coordinator import TokenId

ALGORITHM = "EdDSA"
MAX_LIFETIME_S = 900
CLOCK_SKEW_S = 60
"""How far ahead of ours the coordinator's clock may be."""
MAX_TOKEN_CHARACTERS = 2048
SCOPE_JOB = "job"
SCOPE_INFER = "infer"

Timestamp = Annotated[int, Meta(ge=0, le=2**53)]


class TokenClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who (``sub``) may do what (``scope``) at whom (``aud``), for which job, until when."""

    iss: PeerIdField
    sub: PeerIdField
    aud: PeerIdField
    job: JobIdField
    scope: Label
    iat: Timestamp
    exp: Timestamp
    jti: TokenId


class Signer(Protocol):
    """The coordinator's identity: what a token needs of it."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, data: bytes) -> bytes: ...


_HEADER = {"alg": ALGORITHM, "typ": "JWT"}
_VERIFIER = jwt.PyJWS(algorithms=[ALGORITHM])
_CLAIMS = msgspec.json.Decoder(TokenClaims)


def issue_token(
    signer: Signer,
    *,
    subject: PeerId,
    audience: PeerId,
    job_id: str,
    scope: str,
    now: float,
    jti: str,
    lifetime_s: int = MAX_LIFETIME_S,
) -> str:
    """A token for ``subject`` to show to ``audience``; ``jti`` is random and names it for revocation.

    Raises LocalProtocolError for a lifetime of more than 15 minutes.
    """
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise LocalProtocolError(f"token lifetime of {lifetime_s} s, must be between 1 and {MAX_LIFETIME_S}")
    issued = int(now)
    claims = TokenClaims(
        iss=signer.peer_id,
        sub=subject,
        aud=audience,
        job=job_id,
        scope=scope,
        iat=issued,
        exp=issued + lifetime_s,
        jti=jti,
    )
    signed = b".".join(_base64url(msgspec.json.encode(part)) for part in (_HEADER, claims))
    return b".".join((signed, _base64url(signer.sign(signed)))).decode("ascii")


def verify_token(
    token: str,
    *,
    coordinator_id: PeerId,
    subject: PeerId,
    audience: PeerId,
    scope: str,
    now: float,
    revoked: Container[str] = (),
    job_id: str | None = None,
) -> TokenClaims:
    """The claims, once all of them hold here and now.

    ``subject`` is the authenticated peer id of the connection, ``audience`` our own peer id,
    ``job_id`` the job that is asked for, where the caller knows it.
    Raises TokenRefusedError, naming what was found and what is allowed.
    """
    claims = _signed_claims(token, coordinator_id)
    _expect("issuer", claims.iss, coordinator_id)
    _expect("subject", claims.sub, subject)
    _expect("audience", claims.aud, audience)
    _expect("scope", claims.scope, scope)
    if job_id is not None:
        _expect("job", claims.job, job_id)
    _check_times(claims, now)
    if claims.jti in revoked:
        raise TokenRefusedError(f"token {claims.jti} is revoked")
    return claims


def _signed_claims(token: str, coordinator_id: PeerId) -> TokenClaims:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenRefusedError(f"token of {len(token)} characters, limit {MAX_TOKEN_CHARACTERS}")
    key = Ed25519PublicKey.from_public_bytes(public_key_of(coordinator_id))
    try:
        algorithm = jwt.get_unverified_header(token).get("alg")
        if algorithm != ALGORITHM:
            raise TokenRefusedError(f"token algorithm {algorithm!r}, only {ALGORITHM} is allowed")
        return _CLAIMS.decode(_VERIFIER.decode(token, key, algorithms=[ALGORITHM]))
    except jwt.InvalidSignatureError as error:
        raise TokenRefusedError(f"token is not signed by coordinator {coordinator_id}") from error
    except (jwt.PyJWTError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise TokenRefusedError(f"token is malformed: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:  # hostile headers reach past PyJWT's own checks
        raise TokenRefusedError(f"token is malformed: {error}") from error


def _check_times(claims: TokenClaims, now: float) -> None:
    lifetime_s = claims.exp - claims.iat
    if lifetime_s > MAX_LIFETIME_S:
        raise TokenRefusedError(f"token lifetime of {lifetime_s} s, limit {MAX_LIFETIME_S}")
    if claims.iat > now + CLOCK_SKEW_S:
        raise TokenRefusedError(f"token issued at {claims.iat}, now {now:.0f}")
    if claims.exp <= now:
        raise TokenRefusedError(f"token expired at {claims.exp}, now {now:.0f}")


def _expect(what: str, found: str, allowed: str) -> None:
    if found != allowed:
        raise TokenRefusedError(f"token {what} is {found}, allowed is {allowed}")


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
