"""From any raw connection to one with streams: Noise, then Yamux, agreed on in few round trips.

Counted from a connection that stands, the asking side has its answer after two round trips:
one for Noise with its proposal, one for Yamux with the last message of Noise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL

from p2p.errors import ConnectionFailedError
from p2p.identifiers import PeerId
from p2p.multistream import answering, asking, negotiate
from p2p.muxer import OwnYamux
from p2p.noise import NoiseSession, NoiseTransport, RawBytes

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection

_CLOSE_TIMEOUT_S = 1.0


class Upgrader:
    """Of one host. ``swarm`` is py-libp2p's, which is to know of every connection."""

    def __init__(self, noise: NoiseTransport, muxer: OwnYamux, swarm: Any) -> None:
        self._noise = noise
        self._muxer = muxer
        self._swarm = swarm

    async def outgoing(self, raw: IRawConnection, peer_id: PeerId) -> Any:
        """A connection to ``peer_id`` over a raw one, which is closed when that fails.

        Takes the part of the initiator. Raises P2PError, and whatever the handshake raises.
        """
        async with _closing_on_failure(raw):
            return await self._muxed(await self.secure(raw, peer_id), "outbound")

    async def incoming(self, raw: IRawConnection, expected: PeerId | None = None) -> Any:
        """The same on the other side, where anybody may come unless somebody is ``expected``."""
        async with _closing_on_failure(raw):
            await negotiate(RawBytes(raw), answering((NOISE_PROTOCOL,)))
            session = await self._noise.secure_inbound(raw)
            found = str(session.get_remote_peer())
            if expected not in (None, found):
                raise ConnectionFailedError(f"found peer {found} there, allowed is {expected}")
            return await self._muxed(session, "inbound")

    async def secure(self, raw: IRawConnection, peer_id: PeerId) -> NoiseSession:
        """Only the handshake: proves that ``peer_id`` is there. Does not close ``raw``.

        Raises ConnectionFailedError where another peer is, and whatever else the handshake raises.
        """
        try:
            return await self._noise.secure_outbound(raw, ID.from_base58(peer_id), asking(NOISE_PROTOCOL))
        except PeerIDMismatchesPubkey as error:
            found = str(error).rpartition("=")[2]  # nowhere else is it said
            raise ConnectionFailedError(f"found peer {found} there, allowed is {peer_id}") from error

    async def _muxed(self, session: NoiseSession, direction: str) -> Any:
        muxed = await self._muxer.new_conn(session, session.get_remote_peer())
        return await self._swarm.add_conn(muxed, direction=direction)


@asynccontextmanager
async def _closing_on_failure(raw: IRawConnection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with trio.CancelScope(deadline=trio.current_time() + _CLOSE_TIMEOUT_S, shield=True):
            await raw.close()
        raise
