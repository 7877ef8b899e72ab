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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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
_IP_MULTICAST_ALL = 49
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
        with _open_sockets(networks) as sockets, trio.move_on_after(timeout_s):
            if not sockets:
                raise ConnectionFailedError("no network interface of this machine takes multicast DNS")
            async with trio.open_nursery() as nursery:
                for item in sockets:
                    nursery.start_soon(item.receive, listener.hear)
                nursery.start_soon(_ask_repeatedly, sockets)
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


async def _ask_repeatedly(sockets: Sequence[_Socket]) -> None:
    began = trio.current_time()
    for at_s in QUESTIONS_AT_S:
        await trio.sleep_until(began + at_s)
        for item in sockets:
            await item.send(mdns.question())


async def announce(network: Network, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answers whoever looks for peers, until cancelled; then says that this one leaves.

    Follows the machine's interfaces as they come and go. Started once it answers.
    """
    label = "".join(secrets.choice(_LABEL_LETTERS) for _ in range(32))
    while True:
        networks = local_networks()
        with _open_sockets(networks) as sockets:
            answerers = _answerers(network, label, networks, sockets)
            if not answerers:
                log.warning("not announced: no interface takes multicast DNS", addresses=network.addresses())
            async with _serving(answerers):
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                while local_networks() == networks:  # noqa: ASYNC110 - the system tells no change
                    await trio.sleep(LOOK_AGAIN_AT_INTERFACES_S)


def _answerers(
    network: Network, label: str, networks: mdns.LocalNetworks, sockets: Sequence[_Socket]
) -> list[_Answerer]:
    answerers = []
    for item in sockets:
        addresses = mdns.on_interface(network.addresses(), item.interface)
        if addresses:
            instance = mdns.Instance(label, network.peer_id, addresses)
            answerers.append(_Answerer(item, instance, networks))
    return answerers


@asynccontextmanager
async def _serving(answerers: Sequence[_Answerer]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for answerer in answerers:
            nursery.start_soon(answerer.run)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                for answerer in answerers:
                    await answerer.leave()


class _Answerer:
    """Announces one host on one interface."""

    def __init__(self, sock: _Socket, instance: mdns.Instance, networks: mdns.LocalNetworks) -> None:
        self._socket = sock
        self._instance = instance
        self._networks = networks
        self._answered_at = -1.0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._socket.receive, self._answer)
            for pause_s in ANNOUNCED_AT_S:
                await trio.sleep(pause_s)
                await self._socket.send(mdns.announcement(self._instance))

    async def leave(self) -> None:
        await self._socket.send(mdns.announcement(self._instance, ttl_s=0))

    async def _answer(self, packet: dns.Packet, source: tuple[str, int]) -> None:
        now = trio.current_time()
        local = self._networks.has(ipaddress.ip_address(source[0]))
        if (
            not (local and mdns.asks_for(packet, self._instance))
            or now - self._answered_at < MIN_ANSWER_GAP_S
        ):
            return
        self._answered_at = now
        await self._socket.send(mdns.announcement(self._instance))
        if source[1] != mdns.PORT:  # asked by a simple resolver, which hears no multicast
            await self._socket.send(mdns.announcement(self._instance, id_=packet.id), source)


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


@dataclass(frozen=True, slots=True)
class _Socket:
    """Port 5353 on one interface, shared with every other program that speaks mDNS there."""

    interface: ipaddress.IPv4Interface
    socket: Any

    async def send(self, packet: bytes, target: tuple[str, int] = (mdns.GROUP, mdns.PORT)) -> None:
        """A network that takes nothing now is as one that loses it."""
        try:
            await self.socket.sendto(packet, target)
        except OSError as error:
            log.debug("mDNS not sent", interface=str(self.interface), reason=str(error))

    async def receive(self, hear: Callable[[dns.Packet, tuple[str, int]], Any]) -> None:
        while True:
            try:
                data, source = await self.socket.recvfrom(dns.MAX_PACKET_BYTES + 1)
                await hear(dns.decode(data), source[:2])
            except RemoteProtocolError as error:
                log.debug("mDNS packet refused", interface=str(self.interface), reason=str(error))
            except OSError as error:  # the interface went away
                log.debug("mDNS lost", interface=str(self.interface), reason=str(error))
                await trio.sleep(1.0)


@contextmanager
def _open_sockets(networks: mdns.LocalNetworks) -> Iterator[list[_Socket]]:
    with contextlib.ExitStack() as stack:
        sockets = []
        for interface in networks.interfaces[:MAX_INTERFACES]:
            if isinstance(interface, ipaddress.IPv4Interface):
                try:
                    opened = stack.enter_context(_open_socket(str(interface.ip)))
                except OSError as error:
                    log.info("no mDNS on an interface", interface=str(interface), reason=str(error))
                else:
                    sockets.append(_Socket(interface, opened))
        yield sockets


@contextmanager
def _open_socket(interface: str) -> Iterator[Any]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(("0.0.0.0", mdns.PORT))
        with _unless_unsupported():
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # nothing of other interfaces
        member = socket.inet_aton(mdns.GROUP) + socket.inet_aton(interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        yield trio.socket.from_stdlib_socket(sock)
    finally:
        sock.close()


@contextmanager
def _unless_unsupported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
