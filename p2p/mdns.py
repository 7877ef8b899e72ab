"""libp2p peers in multicast DNS: what to announce, and what an answer may be believed. Pure.

A peer is an instance of ``_p2p._udp.local`` whose TXT record holds its multiaddresses as
``dnsaddr=/ip4/.../tcp/.../p2p/ID``, as the libp2p specification has it. What is found is a hint:
anybody on the network may announce anything, and only Noise proves a peer id.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from p2p import dns
from p2p.errors import RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of

GROUP = "224.0.0.251"
PORT = 5353
SERVICE = "_p2p._udp.local"
KEY = "dnsaddr="
TTL_S = 120
MAX_TTL_S = 3600
"""What another announces for longer is forgotten after an hour all the same."""
MAX_PEERS = 256
MAX_ADDRESSES = 8
"""Of one peer."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class LocalNetworks:
    """The addresses of this machine's interfaces, each with its prefix, such as 192.168.1.7/24."""

    interfaces: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]

    def has(self, address: IpAddress) -> bool:
        """Whether it is on a network that this machine is on."""
        return any(address in interface.network for interface in self.interfaces)

    def is_own(self, address: IpAddress) -> bool:
        return any(address == interface.ip for interface in self.interfaces)


@dataclass(frozen=True, slots=True)
class Instance:
    """What this program announces. ``label`` is random: it names nobody."""

    label: str
    peer_id: PeerId
    addresses: tuple[str, ...]
    """With /p2p/ at the end."""

    @property
    def name(self) -> str:
        return f"{self.label}.{SERVICE}"

    @property
    def host(self) -> str:
        return f"{self.label}.local"


def question() -> bytes:
    """Asks for all peers."""
    return dns.encode(dns.Packet(False, (dns.Question(SERVICE, dns.PTR),)))


def announcement(instance: Instance, ttl_s: int = TTL_S, id_: int = 0) -> bytes:
    """Says where this peer is; with ``ttl_s`` 0, that it leaves. Raises LocalProtocolError.

    SRV and address records are there for other implementations: they resolve no instance without.
    """
    pairs = [pair for pair in map(_ip_and_port, instance.addresses) if pair is not None]
    strings = [KEY + address for address in instance.addresses[:MAX_ADDRESSES]]
    pointer = dns.Record(SERVICE, dns.PTR, ttl_s, target=instance.name)
    port = pairs[0][1] if pairs else 0
    more = [
        dns.Record(instance.name, dns.TXT, ttl_s, dns.text_bytes(strings), unique=True),
        dns.Record(instance.name, dns.SRV, ttl_s, dns.service_bytes(port, instance.host), unique=True),
        *(dns.address_record(instance.host, str(ip), ttl_s) for ip, _ in pairs[:MAX_ADDRESSES]),
    ]
    return dns.encode(dns.Packet(True, (), (pointer,), tuple(more), id_))


def asks_for(packet: dns.Packet, instance: Instance) -> bool:
    """Whether the question is one that the announcement of ``instance`` answers, and news to its asker."""
    if packet.is_response:
        return False
    known = any(
        record.type == dns.PTR and record.target == instance.name and 2 * record.ttl_s >= TTL_S
        for record in packet.answers
    )
    names = {SERVICE: not known, instance.name: True, instance.host: True}
    return any(names.get(asked.name, False) for asked in packet.questions)


@dataclass(frozen=True, slots=True)
class Hint:
    """Somebody says that the peer is there. ``ttl_s`` 0: that it is there no more."""

    peer_id: PeerId
    address: str
    ttl_s: int


def hints(packet: dns.Packet, networks: LocalNetworks, source: str) -> list[Hint]:
    """What a packet that came from the address ``source`` says of peers, as far as it can be true.

    Only addresses on a network that this machine is on too count, and those of this machine itself
    only when it said so itself: nobody may have us dial the world, or our own services.
    """
    sender = ipaddress.ip_address(source)
    if not packet.is_response or not networks.has(sender):
        return []
    found: dict[tuple[PeerId, str], Hint] = {}
    for record in packet.records:
        if record.type != dns.TXT or not record.name.endswith(f".{SERVICE}"):
            continue
        for address in _addresses_of(record):
            hint = _hint(address, min(record.ttl_s, MAX_TTL_S), networks, networks.is_own(sender))
            if hint is not None and len(found) < MAX_PEERS * MAX_ADDRESSES:
                found[hint.peer_id, hint.address] = hint
    return list(found.values())


def _addresses_of(record: dns.Record) -> list[str]:
    try:
        return [text[len(KEY) :] for text in dns.texts(record) if text.startswith(KEY)]
    except RemoteProtocolError:
        return []


def _hint(address: str, ttl_s: int, networks: LocalNetworks, from_here: bool) -> Hint | None:
    _, _, peer_id = address.rpartition("/p2p/")
    pair = _ip_and_port(address)
    if pair is None or not networks.has(pair[0]):
        return None
    if not from_here and (pair[0].is_loopback or networks.is_own(pair[0])):
        return None
    try:
        public_key_of(PeerId(peer_id))
    except RemoteProtocolError:
        return None
    return Hint(PeerId(peer_id), address, ttl_s)


def _ip_and_port(address: str) -> tuple[IpAddress, int] | None:
    """Of /ip4|ip6/ADDRESS/tcp/PORT/p2p/ID, spelled as everybody spells it; None for anything else."""
    match address.split("/"):
        case ["", "ip4" | "ip6" as version, text, "tcp", port, "p2p", _] if port.isascii() and port.isdigit():
            try:
                ip = ipaddress.ip_address(text)
            except ValueError:
                return None
            fits = ip.version == int(version[-1]) and str(ip) == text.lower() and 0 < int(port[:6]) < 65536
            return (ip, int(port)) if fits else None
    return None


def on_interface(addresses: Sequence[str], interface: ipaddress.IPv4Interface) -> tuple[str, ...]:
    """Those that others on this interface's network can dial."""
    pairs = ((address, _ip_and_port(address)) for address in addresses)
    return tuple(address for address, pair in pairs if pair is not None and pair[0] in interface.network)


@dataclass(frozen=True, slots=True)
class Found:
    """Peers that were heard of, each address until its time is over. Bounded."""

    until: dict[PeerId, dict[str, float]] = field(default_factory=dict)

    def hear(self, new: Iterable[Hint], now: float) -> Found:
        until = {peer_id: dict(addresses) for peer_id, addresses in self.until.items()}
        for hint in new:
            addresses = until.get(hint.peer_id, {})
            if hint.ttl_s == 0:
                addresses.pop(hint.address, None)
            elif hint.address in addresses or len(addresses) < MAX_ADDRESSES:
                addresses[hint.address] = now + hint.ttl_s
            if addresses and (hint.peer_id in until or len(until) < MAX_PEERS):
                until[hint.peer_id] = addresses
            elif not addresses:
                until.pop(hint.peer_id, None)
        return replace(self, until=until)

    def peers(self, now: float) -> dict[PeerId, tuple[str, ...]]:
        """Who is where, as far as it still holds."""
        alive = {
            peer_id: tuple(address for address, end in addresses.items() if end > now)
            for peer_id, addresses in self.until.items()
        }
        return {peer_id: addresses for peer_id, addresses in alive.items() if addresses}
