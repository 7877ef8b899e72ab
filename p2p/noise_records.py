"""Noise transport messages ("records"): plain pieces to sealed bytes and back; no IO.

One direction of a connection after its handshake: two bytes of length, then ChaCha20-Poly1305
under a counter (Noise specification, section 5.1). A record that was changed, repeated, left
out or moved does not open, and ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.errors import LocalProtocolError, RemoteProtocolError, StreamResetError

TAG_BYTES = 16
MAX_PLAIN_BYTES = 65535 - TAG_BYTES
OVERHEAD_BYTES = 2 + TAG_BYTES

_MAX_NONCE = 2**64 - 1  # reserved by the specification: never used
_JOINED_BELOW_BYTES = 8192

Piece = bytes | memoryview


class RecordWriter:
    """Seals what is sent. ``count`` is the number of records that ``key`` has sealed before."""

    def __init__(self, key: bytes, count: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._count = count

    def seal(self, pieces: Sequence[Piece], scratch: memoryview) -> memoryview:
        """All pieces in as few records as need no copy of a large piece.

        The result lies in ``scratch`` where it fits, and is valid until that is written again.
        Raises LocalProtocolError when the key has sealed as many records as it may.
        """
        plains = list(_records(pieces))
        size = sum(map(len, plains)) + OVERHEAD_BYTES * len(plains)
        if self._count + len(plains) > _MAX_NONCE:
            raise LocalProtocolError(f"{self._count} noise records under one key, allowed {_MAX_NONCE}")
        sealed = scratch if size <= len(scratch) else memoryview(bytearray(size))
        at = 0
        for plain in plains:
            record_bytes = len(plain) + TAG_BYTES
            sealed[at] = record_bytes >> 8
            sealed[at + 1] = record_bytes & 255
            at += 2
            self._cipher.encrypt_into(_nonce(self._count), plain, None, sealed[at : at + record_bytes])
            self._count += 1
            at += record_bytes
        return sealed[:size]


class RecordReader:
    """Opens what arrives, cut anywhere; keeps one unfinished record at most."""

    def __init__(self, key: bytes, count: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._count = count
        self._unfinished = b""

    def receive(self, data: bytes) -> list[bytes]:
        """The content of each record that is whole by now; empty ones are left out.

        Raises RemoteProtocolError for one that does not open; nothing may be read after that.
        """
        return self._open(memoryview(self._unfinished + data if self._unfinished else data))

    def room_in(self, buffer: memoryview) -> memoryview:
        """``buffer`` without its start, which is for the unfinished record: read into the rest."""
        size = len(self._unfinished)
        buffer[:size] = self._unfinished
        return buffer[size:]

    def received_in(self, buffer: memoryview, size: int) -> list[bytes]:
        """As ``receive``, of the ``size`` bytes that were read into ``room_in(buffer)``."""
        return self._open(buffer[: len(self._unfinished) + size])

    def end(self) -> None:
        """Raises StreamResetError when the connection ends inside a record."""
        if self._unfinished:
            raise StreamResetError("connection cut inside a record")

    def _open(self, data: memoryview) -> list[bytes]:
        plains: list[bytes] = []
        at, size = 0, len(data)
        while size - at >= 2:
            record_bytes = data[at] << 8 | data[at + 1]
            if record_bytes < TAG_BYTES:
                raise RemoteProtocolError(f"noise record of {record_bytes} bytes, at least {TAG_BYTES}")
            end = at + 2 + record_bytes
            if end > size:
                break
            if plain := self._open_one(data[at + 2 : end]):
                plains.append(plain)
            at = end
        self._unfinished = bytes(data[at:])
        return plains

    def _open_one(self, sealed: memoryview) -> bytes:
        if self._count >= _MAX_NONCE:
            raise RemoteProtocolError(f"more than {_MAX_NONCE} noise records under one key")
        try:
            plain = self._cipher.decrypt(_nonce(self._count), sealed, None)
        except InvalidTag:
            raise RemoteProtocolError(f"noise record of {len(sealed)} bytes that does not open") from None
        self._count += 1
        return plain


def _nonce(count: int) -> bytes:
    return b"\0\0\0\0" + count.to_bytes(8, "little")


def _records(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces cut into records: small neighbours joined, large pieces sealed where they lie."""
    if sum(map(len, pieces)) < _JOINED_BELOW_BYTES:  # most messages
        if any(pieces):
            yield _joined(pieces)
        return
    small: list[Piece] = []
    room = MAX_PLAIN_BYTES
    for piece in pieces:
        if len(piece) >= _JOINED_BELOW_BYTES or len(piece) > room:
            if small:
                yield _joined(small)
            small, room = [], MAX_PLAIN_BYTES
        view = piece
        if len(piece) >= _JOINED_BELOW_BYTES:
            view = memoryview(piece)
            while len(view) >= _JOINED_BELOW_BYTES:
                yield view[:MAX_PLAIN_BYTES]
                view = view[MAX_PLAIN_BYTES:]
        if view:
            small.append(view)
            room -= len(view)
    if small:
        yield _joined(small)


def _joined(pieces: Sequence[Piece]) -> Piece:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
