"""DATA_DIR/gateway_peers.json: which peers may see prompts, for all gateways of this data directory.

A file that cannot be read lets nobody see anything.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine_app.entry import CommandError
from engine_app.gateway.allowed import MAX_PEERS, Allowed, from_json, to_json
from p2p.datadir import write_atomic
from p2p.errors import P2PError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of

FILE = "gateway_peers.json"
_LOCK = "gateway_peers.lock"


def read_allowed(data_dir: Path) -> Allowed:
    """Raises CommandError for a file that is damaged."""
    path = data_dir / FILE
    try:
        return from_json(path.read_bytes())
    except FileNotFoundError:
        return Allowed()
    except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: {error}") from error


def change_allowed(data_dir: Path, change: Callable[[Allowed], Allowed]) -> Allowed:
    """Reads, changes and replaces the file; two programs take turns. Raises CommandError, OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _turn(data_dir / _LOCK):
        allowed = change(read_allowed(data_dir))
        if len(allowed.peers) + len(allowed.forbidden) > MAX_PEERS:
            raise CommandError(f"more than {MAX_PEERS} peers in {data_dir / FILE}")
        write_atomic(data_dir / FILE, to_json(allowed))
    return allowed


def checked_peer(text: str) -> str:
    """Raises CommandError for what is no peer's id."""
    try:
        public_key_of(PeerId(text))
    except (P2PError, ValueError) as error:
        raise CommandError(
            f"{text[:80]!r} is no peer id: `cyxwiz peers` and `cyxwiz deployments` show them"
        ) from error
    return text


class AllowedPeers:
    """The file as it is now: a look at its time for each question, a reading when that changed."""

    def __init__(self, data_dir: Path, also: frozenset[str]) -> None:
        """``also``: peers that are allowed while this program runs."""
        self._data_dir = data_dir
        self._also = also
        self._seen: tuple[int, int, int] | None = None
        self._allowed = Allowed()
        self.trouble: str | None = None
        """What is wrong with the file."""

    def lets(self, peer_id: str, is_given: bool) -> bool:
        self._follow()
        return self.trouble is None and self._allowed.lets(peer_id, is_given or peer_id in self._also)

    def _follow(self) -> None:
        try:
            found = os.stat(self._data_dir / FILE)  # noqa: PTH116 - on the path of every request
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._allowed, self.trouble = read_allowed(self._data_dir), None
        except CommandError as error:
            self.trouble = str(error)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
