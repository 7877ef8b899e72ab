"""TCP from the very port that a host listens at, so that a NAT shows one address for both.

A host that does not listen gets a port that is held for as long as it runs. Where the port cannot
be used (a connection of old still occupies it), any other does.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from p2p.errors import ConnectionFailedError

_OCCUPIED = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EINVAL)
_ANYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class SourcePorts:
    """The local port to dial from, of each address family."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._held: list[socket.socket] = []

    def use(self, listening: Sequence[Multiaddr]) -> None:
        """Dials from the ports listened at; for IPv4 from one of its own where none will do."""
        for address in listening:
            version = next(iter(address.protocols())).name
            family = socket.AF_INET6 if version == "ip6" else socket.AF_INET
            if not ipaddress.ip_address(address.value_for_protocol(version)).is_loopback:
                self._ports.setdefault(family, int(address.value_for_protocol("tcp")))
        if socket.AF_INET not in self._ports:
            holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            _share(holder)
            holder.bind((_ANYWHERE[socket.AF_INET], 0))
            self._held.append(holder)
            self._ports[socket.AF_INET] = holder.getsockname()[1]

    def close(self) -> None:
        for holder in self._held:
            holder.close()

    def port_for(self, host: str) -> int:
        """0 where any will do: towards this very machine, or without a port of that family."""
        address = ipaddress.ip_address(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return 0 if address.is_loopback else self._ports.get(family, 0)

    async def dial(self, address: Multiaddr, *, strictly: bool = False) -> IRawConnection:
        """``strictly`` from the port of ours, as punching needs. Raises ConnectionFailedError, OSError."""
        version = next(iter(address.protocols())).name
        if version not in ("ip4", "ip6"):
            return await TCP().dial(address)
        host, port = address.value_for_protocol(version), int(address.value_for_protocol("tcp"))
        source = self.port_for(host)
        if strictly and not source:
            raise ConnectionFailedError(f"no port of ours to dial {address} from")
        try:
            stream = await _connect(host, port, source)
        except OSError as error:
            if strictly or not source or error.errno not in _OCCUPIED:
                raise
            stream = await _connect(host, port, 0)
        return RawConnection(TrioTCPStream(stream), True)


async def _connect(host: str, port: int, source: int) -> trio.SocketStream:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    local = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if source:
            _share(local)
            await local.bind((_ANYWHERE[family], source))
        await local.connect((host, port))
        return trio.SocketStream(local)
    except BaseException:
        local.close()
        raise


def _share(local: socket.socket | trio.socket.SocketType) -> None:
    local.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    local.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
