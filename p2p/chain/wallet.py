"""The key that owns tokens, and the file that keeps it. Never logs or prints the secret.

Without a passphrase the file is Solana's own JSON array of 64 numbers, which its command line reads.
With one it is an envelope: scrypt makes the key, AES-256-GCM seals the same 64 bytes.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from solders.keypair import Keypair

from p2p.chain.errors import WalletError
from p2p.datadir import write_new

FORMAT = "cyxwiz-wallet-1"
MAX_FILE_BYTES = 4096
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**15, 8, 1
"""32 MB and about 0.1 s a guess."""


class Wallet:
    """A Solana keypair in memory."""

    def __init__(self, keypair: Keypair) -> None:
        self.keypair = keypair
        self.address = str(keypair.pubkey())
        """Base58."""

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    def sign(self, data: bytes) -> bytes:
        """64 bytes of Ed25519."""
        return bytes(self.keypair.sign_message(data))

    @classmethod
    def generate(cls) -> Wallet:
        """A new random key, in memory only."""
        return cls(Keypair())

    @classmethod
    def from_seed(cls, seed: bytes) -> Wallet:
        """The key of a 32-byte secret seed."""
        if len(seed) != 32:
            raise WalletError(f"seed of {len(seed)} bytes, must be 32")
        return cls(Keypair.from_seed(seed))

    @classmethod
    def create(cls, path: Path, passphrase: str | None = None) -> Wallet:
        """A new random wallet in a new file of mode 0600. Never overwrites one."""
        wallet = cls.generate()
        wallet.backup(path, passphrase)
        return wallet

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> Wallet:
        """Raises WalletError for a file that is missing, readable by others, damaged or locked."""
        return cls(_keypair(_read(path, strict=True), path, passphrase))

    def backup(self, path: Path, passphrase: str | None = None) -> None:
        """Writes a copy. Raises WalletError, also where a file is: it might be a wallet's only copy."""
        if passphrase == "":
            raise WalletError("an empty passphrase protects nothing")
        secret = bytes(self.keypair)
        document = list(secret) if passphrase is None else _seal(secret, self.address, passphrase)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_new(path, json.dumps(document).encode())
        except FileExistsError as error:
            raise WalletError(f"{path} exists already; it is never overwritten") from error
        except OSError as error:
            raise WalletError(f"{path}: {error.strerror}") from error

    @classmethod
    def restore(
        cls, source: Path, path: Path, passphrase: str | None = None, *, source_passphrase: str | None = None
    ) -> Wallet:
        """Installs a copy at ``path``, sealed with ``passphrase``.

        ``source_passphrase`` opens the copy where it differs; a plain copy needs none.
        """
        raw = _read(source, strict=False)
        wallet = cls(_keypair(raw, source, source_passphrase or passphrase))
        wallet.backup(path, passphrase)
        return wallet


def _seal(secret: bytes, address: str, passphrase: str) -> dict[str, object]:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    cipher = AESGCM(_derive(passphrase, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P))
    sealed = cipher.encrypt(nonce, secret, address.encode())
    return {
        "format": FORMAT,
        "address": address,
        "kdf": {"name": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": _text(salt)},
        "cipher": {"name": "aes-256-gcm", "nonce": _text(nonce)},
        "sealed": _text(sealed),
    }


def _keypair(raw: bytes, path: Path, passphrase: str | None) -> Keypair:
    try:
        document = json.loads(raw)
        if isinstance(document, dict):
            document = list(_unseal(document, path, passphrase))
        if not isinstance(document, list):  # of a number, bytes() would make that many
            raise TypeError
        return Keypair.from_bytes(bytes(document))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WalletError(f"{path} is not a wallet: {type(error).__name__}") from error


def _unseal(document: dict[str, object], path: Path, passphrase: str | None) -> bytes:
    if document.get("format") != FORMAT:
        raise WalletError(f"{path} has format {document.get('format')!r}, this program reads {FORMAT!r}")
    if passphrase is None:
        raise WalletError(f"{path} is locked: CYXWIZ_PASSPHRASE (in Python: passphrase=) opens it")
    kdf, cipher = document["kdf"], document["cipher"]
    if not isinstance(kdf, dict) or not isinstance(cipher, dict):
        raise WalletError(f"{path} is not a wallet: no key derivation or cipher")
    n, r, p = kdf["n"], kdf["r"], kdf["p"]
    if (n, r, p) != (SCRYPT_N, SCRYPT_R, SCRYPT_P):
        raise WalletError(f"{path} asks for scrypt {n}/{r}/{p}, allowed is {SCRYPT_N}/{SCRYPT_R}/{SCRYPT_P}")
    key = _derive(passphrase, base64.b64decode(kdf["salt"], validate=True), n, r, p)
    try:
        return AESGCM(key).decrypt(
            base64.b64decode(cipher["nonce"], validate=True),
            base64.b64decode(str(document["sealed"]), validate=True),
            str(document["address"]).encode(),
        )
    except InvalidTag as error:
        raise WalletError(f"{path}: wrong passphrase, or the file was changed") from error


def _derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.encode())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _read(path: Path, *, strict: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if strict and mode & 0o077:
                raise WalletError(f"{path} has mode {mode:o}, allowed is 600: others could read the key")
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise WalletError(f"{path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise WalletError(f"{path} has more than {MAX_FILE_BYTES} bytes, a wallet has fewer")
    return raw
