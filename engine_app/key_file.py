"""The API keys of this machine's model servers: DATA_DIR/api_keys.json, hashes only, for its owner only."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from backend.serving.messages import ApiKey
from engine_app.entry import CommandError

FILE = "api_keys.json"
MAX_KEYS = 1000


def read_keys(data_dir: Path) -> tuple[ApiKey, ...]:
    """Raises CommandError for a file that is damaged."""
    path = data_dir / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        return msgspec.json.decode(data, type=tuple[ApiKey, ...])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise CommandError(f"{path}: {error}") from error


def write_keys(data_dir: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replaces the file. Raises CommandError, OSError."""
    if len(keys) > MAX_KEYS:
        raise CommandError(f"{len(keys)} keys, limit {MAX_KEYS}: revoke some")
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / FILE
    temporary = path.with_name(f".{FILE}.{os.getpid()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(keys)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
