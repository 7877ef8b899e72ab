from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p2p.auth import MAX_LIFETIME_S, TokenClaims, issue_token, verify_token
from p2p.errors import LocalProtocolError, TokenRefusedError
from p2p.identifiers import PeerId
from p2p.identity import Identity, public_key_of

NOW = 1_800_000_000.5
JOB = "ab" * 32
COORDINATOR = Identity.from_seed(b"\x01" * 32)
ENGINE = Identity.from_seed(b"\x02" * 32).peer_id
PEER = Identity.from_seed(b"\x03" * 32).peer_id
THIEF = Identity.from_seed(b"\x04" * 32)


def issue(signer: Identity = COORDINATOR, **changes: Any) -> str:
    arguments = {
        "subject": ENGINE,
        "audience": PEER,
        "job_id": JOB,
        "scope": "job",
        "now": NOW,
        "jti": "0123456789abcdef",
    }
    return issue_token(signer, **(arguments | changes))


def verify(token: str, **changes: Any) -> TokenClaims:
    arguments = {
        "coordinator_id": COORDINATOR.peer_id,
        "subject": ENGINE,
        "audience": PEER,
        "scope": "job",
        "now": NOW,
        "revoked": frozenset(),
    }
    return verify_token(token, **(arguments | changes))


def encode(part: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


def signed(header: dict[str, Any], claims: dict[str, Any], signer: Identity = COORDINATOR) -> str:
    text = f"{encode(header)}.{encode(claims)}"
    return text + "." + urlsafe_b64encode(signer.sign(text.encode())).rstrip(b"=").decode()


def test_a_token_holds_for_its_subject_at_its_audience() -> None:
    claims = verify(issue(), job_id=JOB)
    assert claims == TokenClaims(
        iss=COORDINATOR.peer_id,
        sub=ENGINE,
        aud=PEER,
        job=JOB,
        scope="job",
        iat=1_800_000_000,
        exp=1_800_000_900,
        jti="0123456789abcdef",
    )


def test_a_token_is_a_standard_jwt() -> None:
    key = Ed25519PublicKey.from_public_bytes(public_key_of(COORDINATOR.peer_id))
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(issue(), key, algorithms=["EdDSA"], audience=PEER, options=options)
    assert claims["sub"] == ENGINE


def test_algorithm_none_is_refused() -> None:
    unsigned = encode({"alg": "none", "typ": "JWT"}) + "." + issue().split(".")[1] + "."
    with pytest.raises(TokenRefusedError, match="algorithm 'none', only EdDSA is allowed"):
        verify(unsigned)


def test_hs256_with_the_public_key_as_secret_is_refused() -> None:
    raw = public_key_of(COORDINATOR.peer_id)
    pem = Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (raw, pem, COORDINATOR.peer_id.encode()):
        text = encode({"alg": "HS256", "typ": "JWT"}) + "." + issue().split(".")[1]
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        token = text + "." + urlsafe_b64encode(mac).rstrip(b"=").decode()
        with pytest.raises(TokenRefusedError, match="algorithm 'HS256', only EdDSA is allowed"):
            verify(token)


@pytest.mark.parametrize("algorithm", ["eddsa", "ES256", "RS256", "", None, 7, ["EdDSA"], {}])
def test_every_other_algorithm_is_refused(algorithm: object) -> None:
    with pytest.raises(TokenRefusedError, match=r"algorithm|malformed"):
        verify(signed({"alg": algorithm, "typ": "JWT"}, claims_of(issue())))


def test_a_key_inside_the_token_is_not_believed() -> None:
    own = Ed25519PrivateKey.generate()
    x = urlsafe_b64encode(own.public_key().public_bytes_raw()).rstrip(b"=").decode()
    header = {"alg": "EdDSA", "typ": "JWT", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}}
    text = f"{encode(header)}.{issue().split('.')[1]}"
    token = text + "." + urlsafe_b64encode(own.sign(text.encode())).rstrip(b"=").decode()
    with pytest.raises(TokenRefusedError, match=f"not signed by coordinator {COORDINATOR.peer_id}"):
        verify(token)


def test_an_expired_token_is_refused() -> None:
    token = issue()
    verify(token, now=NOW + MAX_LIFETIME_S - 1)
    with pytest.raises(TokenRefusedError, match="expired at 1800000900, now 1800000900"):
        verify(token, now=1_800_000_900.0)


def test_a_stolen_token_is_useless_on_another_connection() -> None:
    with pytest.raises(TokenRefusedError, match=f"subject is {ENGINE}, allowed is {THIEF.peer_id}"):
        verify(issue(), subject=THIEF.peer_id)


def test_a_forged_token_is_refused() -> None:
    header, _, signature = issue().split(".")
    changed = claims_of(issue()) | {"sub": THIEF.peer_id}
    with pytest.raises(TokenRefusedError, match="not signed by coordinator"):
        verify(f"{header}.{encode(changed)}.{signature}", subject=THIEF.peer_id)
    with pytest.raises(TokenRefusedError, match="not signed by coordinator"):
        verify(issue(THIEF))
    with pytest.raises(TokenRefusedError, match="not signed by coordinator"):
        verify(signed({"alg": "EdDSA"}, claims_of(issue()), THIEF))


def test_a_token_of_another_issuer_is_refused_even_if_the_key_is_right() -> None:
    token = signed({"alg": "EdDSA"}, claims_of(issue()) | {"iss": THIEF.peer_id})
    with pytest.raises(TokenRefusedError, match=f"issuer is {THIEF.peer_id}"):
        verify(token)


def test_a_token_for_another_peer_is_refused() -> None:
    with pytest.raises(TokenRefusedError, match=f"audience is {THIEF.peer_id}, allowed is {PEER}"):
        verify(issue(audience=THIEF.peer_id))


def test_a_token_of_another_scope_is_refused() -> None:
    with pytest.raises(TokenRefusedError, match="scope is infer, allowed is job"):
        verify(issue(scope="infer"))


def test_a_token_of_another_job_is_refused() -> None:
    with pytest.raises(TokenRefusedError, match=f"job is {JOB}, allowed is {'cd' * 32}"):
        verify(issue(), job_id="cd" * 32)


def test_a_token_that_lives_too_long_is_neither_issued_nor_accepted() -> None:
    with pytest.raises(LocalProtocolError, match="lifetime of 901 s"):
        issue(lifetime_s=901)
    claims = claims_of(issue())
    token = signed({"alg": "EdDSA"}, claims | {"exp": claims["exp"] + 1})
    with pytest.raises(TokenRefusedError, match="lifetime of 901 s, limit 900"):
        verify(token)


def test_a_token_from_the_future_is_refused() -> None:
    with pytest.raises(TokenRefusedError, match="issued at 1800000100, now 1800000000"):
        verify(issue(now=NOW + 100))


def test_a_revoked_token_is_refused_by_its_name() -> None:
    with pytest.raises(TokenRefusedError, match="0123456789abcdef is revoked"):
        verify(issue(), revoked={"0123456789abcdef"})


@pytest.mark.parametrize(
    "change",
    [
        {"exp": None},
        {"exp": "1800000900"},
        {"exp": 1e30},
        {"admin": True},
        {"job": "x"},
        {"jti": ""},
        {"aud": [PEER]},
    ],
)
def test_claims_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TokenRefusedError, match="malformed"):
        verify(signed({"alg": "EdDSA"}, claims_of(issue()) | change))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "job", "scope", "iat", "exp", "jti"])
def test_a_token_without_one_of_its_claims_is_refused(name: str) -> None:
    claims = claims_of(issue())
    del claims[name]
    with pytest.raises(TokenRefusedError, match=f"malformed.*{name}"):
        verify(signed({"alg": "EdDSA"}, claims))


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "é.é.é", "x" * 5000, "[" * 2000, "W10.W10.W10", "bnVsbA.e30.AA"]
)
def test_text_that_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenRefusedError, match=r"malformed|limit 2048"):
        verify(token)


def test_a_token_fits_its_message_field_at_its_longest() -> None:
    assert len(issue(scope="x" * 128, jti="j" * 128)) < 2048
    assert PeerId(verify(issue()).sub) == ENGINE
