"""py-libp2p's own host, without what it would do unasked. Listens nowhere yet."""

from __future__ import annotations

from typing import Any

import trio
from libp2p import new_host
from libp2p.host.basic_host import _IdentifyNotifee
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL

from p2p.limits import HostLimits
from p2p.muxer import OwnYamux
from p2p.noise import NoiseTransport


def stock_host(noise: NoiseTransport, muxer: OwnYamux, limits: HostLimits) -> Any:
    """With our Noise and muxer in it; it counts nothing and dials nobody."""
    host = new_host(
        key_pair=noise.key_pair,
        # Named, since the default accepts plaintext as well.
        sec_opt={NOISE_PROTOCOL: noise},
        connection_config=ConnectionConfig(
            max_connections=limits.connections,
            max_connections_per_peer=limits.connections,  # ours is kept in p2p.host
            min_connections=0,
            low_watermark=0,
            high_watermark=limits.connections,
            inbound_upgrade_timeout=limits.handshake_s,
        ),
        disable_identify_address_discovery=True,
    )
    swarm: Any = host.get_network()
    swarm.upgrader.muxer_multistream = muxer
    swarm.set_resource_manager(None)  # its counts leak and refuse; the limits above and Yamux's hold
    # It would dial whatever addresses strangers told it, whenever a connection ends.
    swarm.auto_connector.maybe_connect = _dial_nobody
    host.remove_stream_handler(ID_PUSH)
    # Asking each new connection who it is runs in trio's system tasks, where one error ends the
    # program. Noise has said it already; the host still answers others that ask.
    for notifee in tuple(swarm.notifees):
        if isinstance(notifee, _IdentifyNotifee):
            swarm.remove_notifee(notifee)
    return host


async def _dial_nobody() -> None:
    await trio.lowlevel.checkpoint()
