"""The API keys of this machine's model servers: DATA_DIR/api_keys.json, hashes only, for its owner only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from backend.serving.messages import ApiKey
from engine_app.entry import CommandError
from p2p.datadir import write_atomic

FILE = "api_keys.json"
MAX_KEYS = 1000
MAX_BYTES = 1 << 20
_HASH = re.compile("[0-9a-f]{64}")


def read_keys(data_dir: Path) -> tuple[ApiKey, ...]:
    """Raises CommandError for a file that is damaged."""
    path = data_dir / FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    try:
        keys = msgspec.json.decode(data, type=tuple[ApiKey, ...])
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is damaged: {error}") from error
    if len(data) > MAX_BYTES or len(keys) > MAX_KEYS:
        raise CommandError(f"{path} is damaged: {len(keys)} keys, limit {MAX_KEYS}")
    for key in keys:
        if not _HASH.fullmatch(key.sha256):
            raise CommandError(f"{path} is damaged: the hash of key {key.id[:40]!r} is none")
    return keys


class Keys:
    """The keys for a server that runs: as the file has them now, or last had them while it is damaged.

    Raises CommandError if it is damaged from the beginning. ``tell`` is called once for each damage.
    """

    def __init__(self, data_dir: Path, tell: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._tell = tell
        self._told = ""
        self._newest = read_keys(data_dir)

    def __call__(self) -> tuple[ApiKey, ...]:
        try:
            self._newest, self._told = read_keys(self._data_dir), ""
        except CommandError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._tell(self._told)
        return self._newest


def write_keys(data_dir: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replaces the file. Raises CommandError, OSError."""
    if len(keys) > MAX_KEYS:
        raise CommandError(f"{len(keys)} keys, limit {MAX_KEYS}: revoke some")
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(data_dir / FILE, msgspec.json.format(msgspec.json.encode(keys)))
