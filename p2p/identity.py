"""Who a program is: one Ed25519 key, whose peer id *is* the public key.

The key file is private to its user and optionally encrypted. No key leaves this module
except to the host, which needs it for the handshake of a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import base58
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from p2p.datadir import write_new
from p2p.errors import KeystoreError, RemoteProtocolError
from p2p.identifiers import PeerId

# identity multihash (code 0, 36 bytes) of the protobuf {Type: Ed25519, Data: 32 bytes}
_ID_PREFIX = bytes.fromhex("0024" "08011220")  # fmt: skip
_KEY_BYTES = 32
_MAX_FILE_BYTES = 4096
_SCRYPT_COST = 1 << 15
_SCRYPT_MAX_COST = 1 << 20


class Identity:
    """A private key and the peer id that it stands behind."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()
        self.peer_id: PeerId = peer_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @staticmethod
    def generate() -> Identity:
        return Identity(Ed25519PrivateKey.generate())

    @staticmethod
    def from_seed(seed: bytes) -> Identity:
        """The key of these 32 secret bytes. Raises KeystoreError for a seed that anybody could guess."""
        if len(seed) != _KEY_BYTES:
            raise KeystoreError(f"key of {len(seed)} bytes, allowed {_KEY_BYTES}")
        if not any(seed):
            raise KeystoreError("a key of zeros is known to everybody")
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(data)

    def secret_bytes(self) -> bytes:
        """The private key. For the key file and the host only."""
        return self._key.private_bytes_raw()


def peer_id_of(public_key: bytes) -> PeerId:
    return PeerId(base58.b58encode(_ID_PREFIX + public_key).decode("ascii"))


def public_key_of(peer_id: PeerId) -> bytes:
    """The 32-byte Ed25519 key inside a peer id. Raises RemoteProtocolError where there is none."""
    try:
        raw = base58.b58decode(peer_id)
    except ValueError:
        raw = b""
    if not raw.startswith(_ID_PREFIX) or len(raw) != len(_ID_PREFIX) + _KEY_BYTES:
        raise RemoteProtocolError(f"{peer_id[:64]!r} is no peer id of an Ed25519 key")
    return raw[len(_ID_PREFIX) :]


def verify(peer_id: PeerId, data: bytes, signature: bytes) -> bool:
    """Whether the key of ``peer_id`` signed ``data``. Raises RemoteProtocolError for a bad peer id."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(peer_id)).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def load_or_create_identity(path: Path, passphrase: str | None = None) -> Identity:
    """The identity kept in ``path``; a new one is made, and kept, where there is no file.

    Raises KeystoreError for a file that others can read, that is damaged, or whose passphrase
    is missing or wrong.
    """
    if passphrase == "":
        raise KeystoreError("an empty passphrase protects nothing")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _create(path, Identity.generate(), passphrase)
    return _load(path, passphrase)


def _create(path: Path, identity: Identity, passphrase: str | None) -> None:
    document = _sealed(identity, passphrase) if passphrase else {"secret": identity.secret_bytes().hex()}
    text = json.dumps({"format": 1, "peer_id": identity.peer_id, **document}, indent=2) + "\n"
    with contextlib.suppress(FileExistsError):  # another process was first: its key is the one that counts
        write_new(path, text.encode())


def _load(path: Path, passphrase: str | None) -> Identity:
    document = _read_private_json(path)
    try:
        if "secret" in document:
            seed = bytes.fromhex(document["secret"])
        elif passphrase is None:
            raise KeystoreError(f"{path} is encrypted: a passphrase is needed")
        else:
            seed = _opened(document, passphrase, path)
        identity = Identity.from_seed(seed)
        claimed = document["peer_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise KeystoreError(f"{path} is damaged: {error}") from error
    if identity.peer_id != claimed:
        raise KeystoreError(f"{path} is damaged: it names {claimed} and holds the key of {identity.peer_id}")
    return identity


def _read_private_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KeystoreError(f"{path} has mode {mode:04o}, allowed 0600: others can read the key")
        data = file.read(_MAX_FILE_BYTES)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeystoreError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != 1:
        raise KeystoreError(f"{path} is no key file of format 1")
    return document


def _derive(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(passphrase.encode())


def _sealed(identity: Identity, passphrase: str) -> dict[str, Any]:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    cipher = ChaCha20Poly1305(_derive(passphrase, salt, _SCRYPT_COST))
    sealed = cipher.encrypt(nonce, identity.secret_bytes(), identity.peer_id.encode())
    return {"scrypt_cost": _SCRYPT_COST, "salt": salt.hex(), "nonce": nonce.hex(), "sealed": sealed.hex()}


def _opened(document: dict[str, Any], passphrase: str, path: Path) -> bytes:
    cost = document["scrypt_cost"]
    if not isinstance(cost, int) or not 2 <= cost <= _SCRYPT_MAX_COST:
        raise KeystoreError(f"{path}: scrypt cost {cost}, allowed 2 to {_SCRYPT_MAX_COST}")
    cipher = ChaCha20Poly1305(_derive(passphrase, bytes.fromhex(document["salt"]), cost))
    try:
        sealed = bytes.fromhex(document["sealed"])
        return cipher.decrypt(bytes.fromhex(document["nonce"]), sealed, document["peer_id"].encode())
    except InvalidTag:
        raise KeystoreError(f"{path}: wrong passphrase") from None
