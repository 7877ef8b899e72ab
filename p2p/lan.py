"""Peers on the same network, without any server: multicast DNS on every interface, in trio.

Announces a host and finds others. Decides nothing: what an answer may be believed is
``p2p.mdns``'s business. No threads, no cache beyond one look, nothing that a stranger could fill.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol

import ifaddr
import structlog
import trio

from p2p import dns, mdns
from p2p.errors import ConnectionFailedError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.network import Network

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

MAX_INTERFACES = 16
QUESTIONS_AT_S = (0.0, 0.3, 1.0, 3.0)
"""After the beginning of a look: the network may lose some."""
ANNOUNCED_AT_S = (0.0, 1.0)
LOOK_AGAIN_AT_INTERFACES_S = 15.0
MIN_ANSWER_GAP_S = 0.1
"""However often it is asked, a host answers ten times a second at most on one interface."""
_LABEL_LETTERS = string.ascii_lowercase + string.digits

Peers = dict[PeerId, tuple[str, ...]]
Enough = Callable[[Peers], bool]


class Lan(Protocol):
    """The seam to whoever looks for peers."""

    async def look(
        self,
        timeout_s: float,
        enough: Enough = lambda _: False,
        wanted: PeerId | None = None,
    ) -> Peers:
        """Who announces itself within ``timeout_s``, or until ``enough``. Hints only.

        With ``wanted`` only what concerns that peer is heard, so that others cannot crowd it out.
        """


class MulticastLan:
    """Asks on every interface of this machine."""

    async def look(
        self,
        timeout_s: float,
        enough: Enough = lambda _: False,
        wanted: PeerId | None = None,
    ) -> Peers:
        """Raises ConnectionFailedError where no interface can be asked."""
        networks = local_networks()
        listener = _Listener(networks, enough, wanted)
        with _open_socket(networks) as shared, trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shared.receive, listener.hear)
                nursery.start_soon(_ask_repeatedly, shared)
                await listener.satisfied.wait()
                nursery.cancel_scope.cancel()
        return listener.peers()


class _Listener:
    def __init__(self, networks: mdns.LocalNetworks, enough: Enough, wanted: PeerId | None) -> None:
        self.satisfied = trio.Event()
        self._networks = networks
        self._enough = enough
        self._wanted = wanted
        self._found = mdns.Found()

    def peers(self) -> Peers:
        return self._found.peers(trio.current_time())

    async def hear(self, packet: dns.Packet, source: tuple[str, int]) -> None:
        await trio.lowlevel.checkpoint()
        news = [
            hint
            for hint in mdns.hints(packet, self._networks, source[0])
            if self._wanted in (None, hint.peer_id)
        ]
        if news:
            self._found = self._found.hear(news, trio.current_time())
            if self._enough(self.peers()):
                self.satisfied.set()


async def _ask_repeatedly(shared: _Socket) -> None:
    began = trio.current_time()
    for at_s in QUESTIONS_AT_S:
        await trio.sleep_until(began + at_s)
        for interface in shared.interfaces:
            await shared.send(mdns.question(), interface)


async def announce(network: Network, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answers whoever looks for peers, until cancelled; then says that this one leaves.

    Follows the machine's interfaces as they come and go. Started once it answers, or cannot.
    """
    label = "".join(secrets.choice(_LABEL_LETTERS) for _ in range(32))
    while True:
        networks = local_networks()
        try:
            with _open_socket(networks) as shared:
                async with _serving(shared, _answerers(network, label, networks, shared)):
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    while local_networks() == networks:  # noqa: ASYNC110 - the system tells no change
                        await trio.sleep(LOOK_AGAIN_AT_INTERFACES_S)
        except ConnectionFailedError as error:
            log.warning("not announced on this network", reason=str(error))
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(LOOK_AGAIN_AT_INTERFACES_S)


def _answerers(
    network: Network, label: str, networks: mdns.LocalNetworks, shared: _Socket
) -> list[_Answerer]:
    answerers = []
    for interface in shared.interfaces:
        addresses = mdns.on_interface(network.addresses(), interface)
        if addresses:
            instance = mdns.Instance(label, network.peer_id, addresses)
            answerers.append(_Answerer(shared, interface, instance))
    return answerers


@asynccontextmanager
async def _serving(shared: _Socket, answerers: Sequence[_Answerer]) -> AsyncIterator[None]:
    async def hear(packet: dns.Packet, source: tuple[str, int]) -> None:
        for answerer in answerers:
            await answerer.hear(packet, source)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.receive, hear)
        for answerer in answerers:
            nursery.start_soon(answerer.introduce)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                for answerer in answerers:
                    await answerer.leave()


class _Answerer:
    """Announces one host on one interface, to whoever asks from a network address of that interface."""

    def __init__(self, shared: _Socket, interface: ipaddress.IPv4Interface, instance: mdns.Instance) -> None:
        self._socket = shared
        self._interface = interface
        self._instance = instance
        self._answered_at = -1.0

    async def introduce(self) -> None:
        for pause_s in ANNOUNCED_AT_S:
            await trio.sleep(pause_s)
            await self._socket.send(mdns.announcement(self._instance), self._interface)

    async def leave(self) -> None:
        await self._socket.send(mdns.announcement(self._instance, ttl_s=0), self._interface)

    async def hear(self, packet: dns.Packet, source: tuple[str, int]) -> None:
        """Answers a question that came over this interface, not too often."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        from_here = ipaddress.ip_address(source[0]) in self._interface.network
        if not from_here or now - self._answered_at < MIN_ANSWER_GAP_S:
            return
        if not mdns.asks_for(packet, self._instance):
            return
        self._answered_at = now
        await self._socket.send(mdns.announcement(self._instance), self._interface)
        if source[1] != mdns.PORT:  # asked by a simple resolver, which hears no multicast
            answer = mdns.announcement(self._instance, id_=packet.id)
            await self._socket.send(answer, self._interface, source)


# -- interfaces and sockets --------------------------------------------------------------------


def local_networks() -> mdns.LocalNetworks:
    """This machine's addresses, as they are now."""
    found = []
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError as error:
        log.warning("the network interfaces cannot be listed", reason=str(error))
        adapters = []
    for adapter in adapters:
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            with contextlib.suppress(ValueError):
                found.append(ipaddress.ip_interface(f"{text}/{ip.network_prefix}"))
    return mdns.LocalNetworks(tuple(sorted(found, key=str)))


class _Socket:
    """Port 5353, shared with every other program that speaks mDNS here.

    One for all interfaces: which of several sockets a packet reaches, the system does not promise.
    """

    def __init__(self, sock: socket.socket, interfaces: Sequence[ipaddress.IPv4Interface]) -> None:
        self.interfaces = interfaces
        self._plain = sock
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._sending = trio.Lock()

    async def send(
        self,
        packet: bytes,
        interface: ipaddress.IPv4Interface,
        target: tuple[str, int] = (mdns.GROUP, mdns.PORT),
    ) -> None:
        """A network that takes nothing now is as one that loses it."""
        async with self._sending:
            try:
                way_out = socket.inet_aton(str(interface.ip))
                self._plain.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, way_out)
                await self._socket.sendto(packet, target)
            except OSError as error:
                log.debug("mDNS not sent", interface=str(interface), reason=str(error))

    async def receive(self, hear: Callable[[dns.Packet, tuple[str, int]], Awaitable[None]]) -> None:
        while True:
            try:
                data, source = await self._socket.recvfrom(dns.MAX_PACKET_BYTES + 1)
                await hear(dns.decode(data), source[:2])
            except RemoteProtocolError as error:
                log.debug("mDNS packet refused", reason=str(error))
            except OSError as error:  # an interface went away
                log.debug("mDNS lost", reason=str(error))
                await trio.sleep(1.0)


@contextmanager
def _open_socket(networks: mdns.LocalNetworks) -> Iterator[_Socket]:
    """Raises ConnectionFailedError where no interface takes multicast DNS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # Not SO_REUSEPORT: it may give each packet to one of the programs only.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", mdns.PORT))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        except OSError as error:
            raise ConnectionFailedError(f"cannot use port {mdns.PORT} for multicast DNS: {error}") from error
        candidates = [item for item in networks.interfaces if isinstance(item, ipaddress.IPv4Interface)]
        interfaces = [interface for interface in candidates[:MAX_INTERFACES] if _joined(sock, interface)]
        if not interfaces:
            raise ConnectionFailedError("no network interface of this machine takes multicast DNS")
        yield _Socket(sock, interfaces)


def _joined(sock: socket.socket, interface: ipaddress.IPv4Interface) -> bool:
    member = socket.inet_aton(mdns.GROUP) + socket.inet_aton(str(interface.ip))
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except OSError as error:
        log.info("no mDNS on an interface", interface=str(interface), reason=str(error))
        return error.errno == errno.EADDRINUSE  # another address of the same interface has joined
    return True
