"""Keys, peer ids and the key file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.errors import KeystoreError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.identity import Identity, load_or_create_identity, public_key_of, verify


def test_a_peer_id_is_what_libp2p_makes_of_the_same_key() -> None:
    pair = create_new_key_pair(bytes(range(32)))
    assert Identity.from_seed(bytes(range(32))).peer_id == ID.from_pubkey(pair.public_key).to_base58()


def test_a_peer_id_holds_its_public_key() -> None:
    identity = Identity.generate()
    assert public_key_of(identity.peer_id) == identity.public_key


@pytest.mark.parametrize("peer_id", ["", "0OIl", "Qm" + "a" * 44, "12D3KooW", "é"])
def test_what_is_no_ed25519_peer_id_is_refused(peer_id: str) -> None:
    with pytest.raises(RemoteProtocolError, match="no peer id"):
        public_key_of(PeerId(peer_id))


def test_only_the_signer_and_the_signed_bytes_verify() -> None:
    alice, bob = Identity.generate(), Identity.generate()
    signature = alice.sign(b"data")
    assert verify(alice.peer_id, b"data", signature)
    assert not verify(bob.peer_id, b"data", signature)
    assert not verify(alice.peer_id, b"other", signature)
    assert not verify(alice.peer_id, b"data", b"short")


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_the_key_file_is_private_and_gives_the_same_identity_again(
    tmp_path: Path, passphrase: str | None
) -> None:
    path = tmp_path / "keys" / "identity.json"
    first = load_or_create_identity(path, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_identity(path, passphrase).peer_id == first.peer_id
    assert [file.name for file in path.parent.iterdir()] == ["identity.json"]
    assert (first.secret_bytes().hex() in path.read_text()) == (passphrase is None)


@pytest.mark.parametrize(
    ("given", "message"), [(None, "passphrase is needed"), ("wrong", "wrong passphrase")]
)
def test_an_encrypted_key_opens_with_its_passphrase_only(
    tmp_path: Path, given: str | None, message: str
) -> None:
    path = tmp_path / "identity.json"
    load_or_create_identity(path, "right")
    with pytest.raises(KeystoreError, match=message):
        load_or_create_identity(path, given)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    load_or_create_identity(path)
    path.chmod(0o640)
    with pytest.raises(KeystoreError, match="mode 0640, allowed 0600"):
        load_or_create_identity(path)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"secret": "zz"}, {"secret": "00" * 32}, {"secret": 5}, {"peer_id": "other"}]
)
def test_a_damaged_or_guessable_key_file_is_refused_and_kept(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "identity.json"
    load_or_create_identity(path)
    damaged = json.dumps({**json.loads(path.read_text()), **change})
    path.write_text(damaged)
    with pytest.raises(KeystoreError):
        load_or_create_identity(path)
    assert path.read_text() == damaged


def test_a_key_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text("[" * 4000)
    path.chmod(0o600)
    with pytest.raises(KeystoreError, match="is damaged"):
        load_or_create_identity(path)


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="empty passphrase"):
        load_or_create_identity(tmp_path / "identity.json", "")
