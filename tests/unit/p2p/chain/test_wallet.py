"""The wallet file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from p2p.chain.errors import WalletError
from p2p.chain.wallet import Wallet


def test_a_wallet_signs_with_the_key_of_its_address() -> None:
    wallet = Wallet.generate()
    key = Ed25519PublicKey.from_public_bytes(bytes(Pubkey.from_string(wallet.address)))
    key.verify(wallet.sign(b"data"), b"data")
    with pytest.raises(InvalidSignature):
        key.verify(wallet.sign(b"data"), b"other")


def test_a_plain_file_is_solanas_own_format_and_nobody_elses_to_read(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    wallet = Wallet.create(path)
    assert str(Keypair.from_json(path.read_text()).pubkey()) == wallet.address
    assert path.stat().st_mode & 0o777 == 0o600
    assert Wallet.load(path).address == wallet.address


def test_two_wallets_differ(tmp_path: Path) -> None:
    assert Wallet.create(tmp_path / "a").address != Wallet.create(tmp_path / "b").address


def test_a_passphrase_locks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    wallet = Wallet.create(path, "correct horse")
    assert bytes(wallet.keypair).hex() not in path.read_bytes().hex()
    assert Wallet.load(path, "correct horse").address == wallet.address
    with pytest.raises(WalletError, match="wrong passphrase"):
        Wallet.load(path, "battery")
    with pytest.raises(WalletError, match="CYXWIZ_PASSPHRASE"):
        Wallet.load(path)


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="empty passphrase"):
        Wallet.create(tmp_path / "wallet.json", "")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_envelope_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    Wallet.create(path, "secret")
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"address": Wallet.generate().address}))
    with pytest.raises(WalletError, match="was changed"):
        Wallet.load(path, "secret")
    path.write_text(json.dumps(document | {"kdf": document["kdf"] | {"n": 2**30}}))
    with pytest.raises(WalletError, match="allowed is 32768/8/1"):
        Wallet.load(path, "secret")


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    Wallet.create(path)
    path.chmod(0o640)
    with pytest.raises(WalletError, match="mode 640, allowed is 600"):
        Wallet.load(path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[1, 2]", "7", "9" * 12, "{}", '["a"]', "[" * 4000, "[" + "300," * 63 + "300]"],
)
def test_what_is_not_a_wallet_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wallet.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(WalletError):
        Wallet.load(path, "secret")


def test_a_wallet_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    wallet = Wallet.create(path)
    with pytest.raises(WalletError, match="never overwritten"):
        Wallet.create(path)
    assert Wallet.load(path).address == wallet.address
    assert [item.name for item in tmp_path.iterdir()] == ["wallet.json"]


def test_a_backup_restores_the_same_wallet(tmp_path: Path) -> None:
    wallet = Wallet.create(tmp_path / "wallet.json", "secret")
    wallet.backup(tmp_path / "copy.json")
    restored = Wallet.restore(tmp_path / "copy.json", tmp_path / "new.json", "other")
    assert restored.address == wallet.address
    assert Wallet.load(tmp_path / "new.json", "other").address == wallet.address


def test_a_sealed_backup_may_have_another_passphrase(tmp_path: Path) -> None:
    wallet = Wallet.generate()
    wallet.backup(tmp_path / "copy.json", "old")
    Wallet.restore(tmp_path / "copy.json", tmp_path / "new.json", "new", source_passphrase="old")
    assert Wallet.load(tmp_path / "new.json", "new").address == wallet.address


def test_the_secret_is_in_no_representation() -> None:
    wallet = Wallet.generate()
    assert repr(wallet) == f"Wallet({wallet.address})"
