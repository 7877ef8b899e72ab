"""The Noise record layer: what a secured connection looks like after py-libp2p's handshake.

The handshake (who is the other side?) stays py-libp2p's. Its records are then read as many at
a time as have arrived and written as few at a time as possible; the bytes are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.transport import Transport as StockNoise

from p2p.errors import RemoteProtocolError, StreamResetError

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection
    from libp2p.crypto.keys import KeyPair
    from libp2p.peer.id import ID

_TAG_BYTES = 16
_MAX_PLAIN_BYTES = 65535 - _TAG_BYTES
_RECEIVE_BYTES = 256 * 1024


class NoiseTransport(StockNoise):
    """py-libp2p's Noise with this module's records."""

    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__(key_pair, noise_privkey=create_new_key_pair().private_key)

    async def secure_inbound(self, conn: IRawConnection) -> NoiseSession:
        return NoiseSession(await super().secure_inbound(_whole_reads(conn)), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> NoiseSession:
        return NoiseSession(await super().secure_outbound(_whole_reads(conn), peer_id), conn)


class NoiseSession(BaseSession):
    """A secured connection. ``read`` and ``write`` serve the negotiation of the muxer, the rest Yamux."""

    def __init__(self, handshaken: Any, raw: IRawConnection) -> None:
        super().__init__(
            local_peer=handshaken.get_local_peer(),
            local_private_key=handshaken.get_local_private_key(),
            remote_peer=handshaken.get_remote_peer(),
            remote_permanent_pubkey=handshaken.get_remote_public_key(),
            is_initiator=handshaken.is_initiator,
        )
        protocol = handshaken.conn.noise_state.noise_protocol
        self._raw = raw
        self._encrypt = _Cipher(protocol.cipher_state_encrypt)
        self._decrypt = _Cipher(protocol.cipher_state_decrypt)
        self._received = bytearray()
        self._plain: deque[bytes] = deque()

    async def receive(self) -> Sequence[bytes]:
        """Every record that has arrived; none at the end. Raises StreamResetError, RemoteProtocolError."""
        if not self._plain:
            await self._fill()
        records = tuple(self._plain)
        self._plain.clear()
        return records

    async def send(self, data: bytes) -> None:
        """Raises StreamResetError. Must not be cancelled halfway on a connection that lives on."""
        view, records = memoryview(data), list[bytes]()
        for at in range(0, len(view), _MAX_PLAIN_BYTES):
            record = self._encrypt.seal(view[at : at + _MAX_PLAIN_BYTES])
            records += (len(record).to_bytes(2, "big"), record)
        try:
            await self._raw.write(b"".join(records))
        except (IOException, RawConnError, trio.BrokenResourceError) as error:
            raise StreamResetError(f"connection cut while writing: {error}") from error

    async def _fill(self) -> None:
        """Decrypts the records of one read or more, until there is one with content, or the end."""
        while not self._plain:
            try:
                data = await self._raw.read(_RECEIVE_BYTES)
            except (IOException, RawConnError, trio.BrokenResourceError) as error:
                raise StreamResetError(f"connection cut while reading: {error}") from error
            if not data:
                if self._received:
                    raise StreamResetError("connection cut inside a record")
                return
            self._received += data
            self._open_records()

    def _open_records(self) -> None:
        at, size = 0, len(self._received)
        with memoryview(self._received) as view:
            while size - at >= 2:
                end = at + 2 + int.from_bytes(view[at : at + 2], "big")
                if end > size:
                    break
                plain = self._decrypt.open(view[at + 2 : end])
                if plain:
                    self._plain.append(plain)
                at = end
        del self._received[:at]

    # -- what py-libp2p asks of a secured connection -----------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._plain:
            await self._fill()
        if not self._plain:
            raise ConnectionClosedError("connection closed")
        first = self._plain.popleft()
        if n is not None and len(first) > n:
            self._plain.appendleft(first[n:])
            first = first[:n]
        return first

    async def write(self, data: bytes) -> None:
        await self.send(data)

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> Any:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> Any:
        return self._raw.get_connection_type()


class _WholeReads:
    """A raw connection for the handshake, which gives up after a hundred short reads."""

    def __init__(self, raw: IRawConnection) -> None:
        self.write, self.close = raw.write, raw.close
        self.get_remote_address = raw.get_remote_address
        self._read = raw.read

    async def read(self, n: int) -> bytes:
        data = b""
        while len(data) < n and (more := await self._read(n - len(data))):
            data += more
        return data


def _whole_reads(raw: IRawConnection) -> IRawConnection:
    return cast("IRawConnection", _WholeReads(raw))


class _Cipher:
    """One direction of the connection after the handshake: ChaCha20-Poly1305 with a counter."""

    def __init__(self, state: Any) -> None:
        self._cipher = ChaCha20Poly1305(state.k)
        self._count: int = state.n

    def seal(self, plain: memoryview) -> bytes:
        return self._cipher.encrypt(self._nonce(), plain, None)

    def open(self, sealed: memoryview) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(), sealed, None)
        except InvalidTag:
            raise RemoteProtocolError(f"noise record of {len(sealed)} bytes that does not open") from None

    def _nonce(self) -> bytes:
        nonce = b"\0\0\0\0" + self._count.to_bytes(8, "little")
        self._count += 1
        return nonce
