from __future__ import annotations

import msgspec
import pytest

from p2p.errors import TokenRefusedError
from p2p.grants import GRANT_TAG, MAX_KEPT, GrantBook, open_grant, sign_grant
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.protocols.transfer import FileGrant, SignedGrant

ENGINE, TAKER, OTHER = (Identity.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3))
MANIFEST = "ab" * 32
NOW = 1_000_000.0
GRANT = FileGrant(ENGINE.peer_id, TAKER.peer_id, (MANIFEST,), NOW + 600)
SIGNED = sign_grant(GRANT, ENGINE.sign)


def test_a_grant_holds_for_its_taker_until_it_expires() -> None:
    assert open_grant(SIGNED, TAKER.peer_id, NOW) == GRANT
    book = GrantBook()
    assert book.issuer_for(TAKER.peer_id, MANIFEST, NOW) is None
    book.keep(GRANT, MANIFEST)
    assert book.issuer_for(TAKER.peer_id, MANIFEST, NOW) == ENGINE.peer_id
    assert book.issuer_for(TAKER.peer_id, "cd" * 32, NOW) is None
    assert book.issuer_for(OTHER.peer_id, MANIFEST, NOW) is None
    assert book.issuer_for(TAKER.peer_id, (MANIFEST,), NOW + 600) is None


def test_the_bytes_that_are_signed_never_change() -> None:
    assert SIGNED.payload.hex() == GOLDEN
    assert SIGNED.signature == ENGINE.sign(GRANT_TAG + SIGNED.payload)


def refused(signed: SignedGrant, subject: PeerId = TAKER.peer_id, now: float = NOW) -> str:
    with pytest.raises(TokenRefusedError) as caught:
        open_grant(signed, subject, now)
    return str(caught.value)


def test_a_grant_that_does_not_hold_here_and_now_is_refused() -> None:
    assert f"grant for {TAKER.peer_id}, shown by {OTHER.peer_id}" in refused(SIGNED, OTHER.peer_id)
    assert "grant until 1000600, allowed 1000600 to" in refused(SIGNED, now=NOW + 600)
    assert "grant until 1000600, allowed 990000 to 993600" in refused(SIGNED, now=NOW - 10_000)
    for expires_at in (float("nan"), 1e10):
        eternal = FileGrant(ENGINE.peer_id, TAKER.peer_id, (MANIFEST,), expires_at)
        assert refused(sign_grant(eternal, ENGINE.sign)) != ""


def test_a_forged_grant_is_refused() -> None:
    assert f"not signed by its issuer {ENGINE.peer_id}" in refused(sign_grant(GRANT, OTHER.sign))
    untagged = SignedGrant(SIGNED.payload, ENGINE.sign(SIGNED.payload))
    assert "not signed by its issuer" in refused(untagged)
    changed = sign_grant(FileGrant(ENGINE.peer_id, TAKER.peer_id, ("cd" * 32,), NOW + 600), ENGINE.sign)
    assert "not signed by its issuer" in refused(SignedGrant(changed.payload, SIGNED.signature))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"x" * 1024,
        msgspec.msgpack.encode(
            {"issuer": "x" * 20, "subject": "y" * 20, "manifests": [MANIFEST], "expires_at": 1.0}
        ),
        msgspec.msgpack.encode({"issuer": ENGINE.peer_id}),
        msgspec.msgpack.encode(FileGrant(ENGINE.peer_id, TAKER.peer_id, (), NOW + 1)),
        msgspec.msgpack.encode(FileGrant(ENGINE.peer_id, TAKER.peer_id, (MANIFEST,) * 5, NOW + 1)),
    ],
)
def test_a_malformed_grant_is_refused(payload: bytes) -> None:
    assert f"grant of {len(payload)} bytes" in refused(SignedGrant(payload, bytes(64)))


def test_a_book_forgets_the_oldest_beyond_its_limit() -> None:
    book = GrantBook()
    for number in range(MAX_KEPT + 1):
        book.keep(FileGrant(ENGINE.peer_id, TAKER.peer_id, (MANIFEST,), NOW + 1), f"{number:064x}")
    assert book.issuer_for(TAKER.peer_id, f"{0:064x}", NOW) is None
    assert book.issuer_for(TAKER.peer_id, f"{MAX_KEPT:064x}", NOW) is not None


GOLDEN = (
    "84a6697373756572d934313244334b6f6f574b3939566f56784e4537587a79427758457a573778684b37477076"
    "383572394633563366794b53554b504835a77375626a656374d934313244334b6f6f574a576f61715a6844616f"
    "454673684637526831627059396f68696846687a6357366436394c72324e41537571a96d616e69666573747391"
    "d94061626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
    "626162616261626162616261626162616261626162aa657870697265735f6174cb412e893000000000"
)
