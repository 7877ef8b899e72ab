"""Noise: py-libp2p's handshake (who is the other side?), then records of our own (``p2p.noise_records``).

A stranger may make this side hold one small message at a time until it has proven who it is,
and only identities that are Ed25519 keys are accepted: everything signed here is signed by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.transport import Transport as StockNoise

from p2p.errors import RemoteProtocolError, StreamResetError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of
from p2p.multistream import Negotiation, negotiate
from p2p.noise_records import RecordReader, RecordWriter
from p2p.pipes import Scratch, pipe_of

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection
    from libp2p.crypto.keys import KeyPair
    from libp2p.peer.id import ID

_MAX_HANDSHAKE_BYTES = 4096
"""Of one message. Ours are under 300; a huge RSA key would only take long to refuse."""


class NoiseTransport(StockNoise):
    """py-libp2p's Noise with this project's records. One for all connections of a thread."""

    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__(key_pair, noise_privkey=create_new_key_pair().private_key)
        self.key_pair = key_pair
        self._scratch = Scratch()

    async def secure_inbound(self, conn: IRawConnection) -> NoiseSession:
        return self._session(await super().secure_inbound(_as_raw(HandshakeBytes(conn))), conn)

    async def secure_outbound(
        self, conn: IRawConnection, peer_id: ID, negotiation: Negotiation | None = None
    ) -> NoiseSession:
        """``negotiation`` asks for Noise itself; its proposal goes out with the first message."""
        handshake = HandshakeBytes(conn, negotiation)
        return self._session(await super().secure_outbound(_as_raw(handshake), peer_id), conn)

    def _session(self, handshaken: Any, raw: IRawConnection) -> NoiseSession:
        public_key_of(PeerId(str(handshaken.get_remote_peer())))
        return NoiseSession(handshaken, raw, self._scratch)


class NoiseSession(BaseSession):
    """A secured connection: ``receive``, ``send`` and ``flush`` for Yamux, the rest for what comes before."""

    def __init__(self, handshaken: Any, raw: IRawConnection, scratch: Scratch) -> None:
        super().__init__(
            local_peer=handshaken.get_local_peer(),
            local_private_key=handshaken.get_local_private_key(),
            remote_peer=handshaken.get_remote_peer(),
            remote_permanent_pubkey=handshaken.get_remote_public_key(),
            is_initiator=handshaken.is_initiator,
        )
        protocol = handshaken.conn.noise_state.noise_protocol
        sealing, opening = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
        self._raw = raw
        self._scratch = scratch
        self._pipe = pipe_of(raw, scratch)
        self._writer = RecordWriter(sealing.k, sealing.n)
        self._reader = RecordReader(opening.k, opening.n)
        self._plain: deque[bytes] = deque()

    async def receive(self) -> Sequence[bytes] | None:
        """The records that have come, none where the first is not whole yet; None at the end.

        Raises StreamResetError, RemoteProtocolError.
        """
        if self._plain:
            records = list(self._plain)
            self._plain.clear()
            return records
        return await self._next_records()

    def send(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """False when not all of it is written: flush before anything else is sent.

        Raises StreamResetError, LocalProtocolError.
        """
        return self._pipe.write(self._writer.seal(pieces, self._scratch.outgoing))

    async def flush(self) -> None:
        """Raises StreamResetError."""
        await self._pipe.flush()

    def delivered_bytes(self) -> int:
        return self._pipe.delivered_bytes()

    async def _next_records(self) -> list[bytes] | None:
        records = await self._pipe.receive_into(self._reader)
        if records is None:
            self._reader.end()
        return records

    # -- what negotiations read and write, before there are streams ---------------------------

    @property
    def unread_bytes(self) -> int:
        return sum(map(len, self._plain))

    async def send_all(self, data: bytes) -> None:
        """Raises StreamResetError. A connection on which this is cancelled is of no more use."""
        if not self.send((data,)):
            await self.flush()

    async def receive_some(self, max_bytes: int) -> bytes:
        while not self._plain:
            records = await self._next_records()
            if records is None:
                return b""
            self._plain += records
        first = self._plain.popleft()
        if len(first) > max_bytes:
            self._plain.appendleft(first[max_bytes:])
        return first[:max_bytes]

    # -- what py-libp2p asks of a secured connection -----------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        data = await self.receive_some(65536 if n is None else n)
        if not data and n != 0:
            raise ConnectionClosedError("connection closed")
        return data

    async def write(self, data: bytes) -> None:
        await self.send_all(data)

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> Any:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> Any:
        return self._raw.get_connection_type()


class HandshakeBytes:
    """A raw connection for the handshake, which itself gives up after a hundred short reads.

    Where a negotiation is given, its proposal goes out with the first write, and its answer is
    read before anything else.
    """

    def __init__(self, raw: IRawConnection, negotiation: Negotiation | None = None) -> None:
        self.close = raw.close
        self.get_remote_address = raw.get_remote_address
        self._raw = raw
        self._negotiation = negotiation
        self._proposal = next(negotiation) if negotiation is not None else b""

    async def write(self, data: bytes) -> None:
        assert isinstance(self._proposal, bytes)
        proposal, self._proposal = self._proposal, b""
        await self._raw.write(proposal + data)

    async def read(self, n: int) -> bytes:
        if self._negotiation is not None:
            negotiation, self._negotiation = self._negotiation, None
            await negotiate(RawBytes(self._raw), negotiation)
        if n > _MAX_HANDSHAKE_BYTES:
            raise RemoteProtocolError(f"handshake message of {n} bytes, allowed {_MAX_HANDSHAKE_BYTES}")
        data = b""
        while len(data) < n and (more := await self._raw.read(n - len(data))):
            data += more
        return data


class RawBytes:
    """A raw connection as negotiations see it."""

    unread_bytes = 0

    def __init__(self, raw: IRawConnection) -> None:
        self.send_all = raw.write
        self._read = raw.read

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            data: bytes = await self._read(max_bytes)
        except ConnectionClosedError as error:
            raise StreamResetError(f"connection cut: {error}") from error
        return data


def _as_raw(handshake: HandshakeBytes) -> IRawConnection:
    return cast("IRawConnection", handshake)
