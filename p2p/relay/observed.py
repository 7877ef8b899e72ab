"""How another peer sees this one's address: its answer to libp2p's identify, asked only when needed."""

from __future__ import annotations

from p2p.errors import RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.relay.messages import decode_endpoint
from p2p.relay.protobuf import Fields
from p2p.relay.wire import read_message

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
_MAX_IDENTIFY_BYTES = 64 * 1024
_OBSERVED_FIELD = 4
_TIMEOUT_S = 5.0


async def observed_by(network: Network, peer_id: PeerId) -> tuple[str, int]:
    """Host and port. Needs a connection. Raises P2PError."""
    stream = await network.open_stream(peer_id, IDENTIFY_PROTOCOL, _TIMEOUT_S)
    try:
        fields = await read_message(stream, Fields, _TIMEOUT_S, _MAX_IDENTIFY_BYTES)
        address = decode_endpoint(fields.bytes_at(_OBSERVED_FIELD) or b"")
    finally:
        await stream.reset()
    if address is None:
        raise RemoteProtocolError(f"{peer_id} does not say where it sees us")
    return address
