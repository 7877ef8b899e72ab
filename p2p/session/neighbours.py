"""Peers of the own network: finds them, asks each what it has, and asks one for a lease.

What multicast DNS says is a hint: a peer counts once it has answered as itself, over Noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from p2p.client import open_client
from p2p.errors import LOST, P2PError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.lan import Peers
from p2p.protocols.coordinator import PeerRecord, SignedRecord
from p2p.protocols.peer import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    DescribePeer,
    LeaseGranted,
    LeaseQueued,
    PeerAnswer,
    PeerCall,
    PeerDescription,
    RequestLease,
)
from p2p.records import open_record
from p2p.session.engine_parts import Engine

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""For everybody: most answer in milliseconds."""
LOOK_FOR_ONE_S = 5.0
ANSWER_TIMEOUT_S = 5.0
ASK_ALL_TIMEOUT_S = 20.0
"""However many there are: most of them may be made up."""
MAX_ASKED_AT_ONCE = 32
MAX_ADDRESSES = 32


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A peer that answered."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    signed: SignedRecord
    record: PeerRecord
    allowed: bool
    """Whether it works for this Engine."""
    free: int
    waiting: int


async def find_neighbours(engine: Engine) -> list[Neighbour]:
    """Every peer of this network that answers, in no order."""
    hints = await engine.lan.look(LOOK_S)
    hints.pop(engine.network.peer_id, None)
    return await _ask_all(engine, hints)


async def find_neighbour(engine: Engine, peer_id: PeerId, known: Sequence[str]) -> Neighbour | None:
    """One peer, at the addresses that are known or wherever it is now; None where it is not to be found.

    Raises RecordRefusedError, RemoteProtocolError and RemoteFailureError for what it says of itself.
    """
    addresses = await reach(engine, peer_id, known)
    if addresses is None:
        return None
    try:
        return await _describe(engine, peer_id, addresses)
    except LOST as error:
        log.debug("peer lost", peer_id=peer_id, reason=str(error))
        return None


async def reach(engine: Engine, peer_id: PeerId, known: Sequence[str]) -> tuple[str, ...] | None:
    """Connects; the addresses that worked, or None where the peer is not to be found."""
    if engine.network.is_connected(peer_id) or (known and await _connects(engine, peer_id, known)):
        return tuple(known)
    first = await engine.lan.look(LOOK_FOR_ONE_S, lambda found: peer_id in found, peer_id)
    if await _connects(engine, peer_id, first.get(peer_id, ())):
        return first[peer_id]
    # The first answer may be another's lie: all answers, then.
    every = await engine.lan.look(LOOK_S, wanted=peer_id) if first else {}
    return every[peer_id] if await _connects(engine, peer_id, every.get(peer_id, ())) else None


async def _connects(engine: Engine, peer_id: PeerId, addresses: Sequence[str]) -> bool:
    if not addresses:
        return False
    try:
        await engine.network.connect(peer_id, addresses, ANSWER_TIMEOUT_S)
    except LOST as error:
        log.debug("not where it is said to be", peer_id=peer_id, reason=str(error))
        return False
    return True


async def _ask_all(engine: Engine, hints: Peers) -> list[Neighbour]:
    found: list[Neighbour] = []
    limiter = trio.CapacityLimiter(MAX_ASKED_AT_ONCE)

    async def ask(peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        async with limiter:
            try:
                found.append(await _describe(engine, peer_id, addresses))
            except P2PError as error:  # another kind of program, or one that lies about itself
                log.debug("no peer of ours", peer_id=peer_id, reason=str(error))

    with trio.move_on_after(ASK_ALL_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for peer_id, addresses in hints.items():
                nursery.start_soon(ask, peer_id, addresses)
    return found


async def _describe(engine: Engine, peer_id: PeerId, addresses: tuple[str, ...]) -> Neighbour:
    answer = await _call(engine, peer_id, addresses, DescribePeer())
    if not isinstance(answer, PeerDescription):
        raise RemoteProtocolError(f"peer answered {type(answer).__name__} to DescribePeer")
    record = open_record(answer.record, engine.now(), peer_id)
    all_addresses = tuple(dict.fromkeys((*addresses, *record.addresses)))[:MAX_ADDRESSES]
    return Neighbour(
        peer_id, all_addresses, answer.record, record, answer.allowed, answer.free, answer.waiting
    )


async def request_lease(engine: Engine, peer: Neighbour, call: RequestLease) -> LeaseGranted | LeaseQueued:
    """Raises RemoteFailureError where the peer refuses, one of LOST, RemoteProtocolError."""
    answer = await _call(engine, peer.peer_id, peer.addresses, call)
    if not isinstance(answer, LeaseGranted | LeaseQueued):
        raise RemoteProtocolError(f"peer answered {type(answer).__name__} to RequestLease")
    if isinstance(answer, LeaseGranted) and answer.device >= len(peer.record.devices):
        raise RemoteProtocolError(
            f"lease on device {answer.device}, the peer offers {len(peer.record.devices)}"
        )
    return answer


async def _call(engine: Engine, peer_id: PeerId, addresses: Sequence[str], call: PeerCall) -> PeerAnswer:
    async with open_client(
        engine.network, peer_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, addresses=addresses
    ) as client:
        answer: PeerAnswer
        answer, _ = await client.call(call, timeout_s=ANSWER_TIMEOUT_S)
        return answer
