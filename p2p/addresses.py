"""Multiaddresses: which of them this project listens at, dials and announces. TCP only."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

import ifaddr
import trio
from multiaddr import Multiaddr
from multiaddr.exceptions import MultiaddrError

from p2p.errors import ConnectionFailedError, LocalProtocolError, PortInUseError
from p2p.identifiers import PeerId
from p2p.identity import public_key_of

_MAX_ADDRESSES = 32
_MAX_RELAYED = 4
_MAX_RESOLVED = 8
_MAX_OWN = 8
_NAMES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
_DIALED = ("ip4", "ip6", *_NAMES)


def _parse(text: str) -> tuple[Multiaddr, list[str]]:
    try:
        address = Multiaddr(text)
        return address, [protocol.name for protocol in address.protocols()]
    except (MultiaddrError, ValueError) as error:
        raise LocalProtocolError(f"{text[:256]!r} is no multiaddress: {error}") from error


def listen_address(text: str) -> Multiaddr:
    """Raises LocalProtocolError for what is no address of a TCP port."""
    address, names = _parse(text)
    if len(names) != 2 or names[0] not in ("ip4", "ip6") or names[1] != "tcp":
        raise LocalProtocolError(f"cannot listen at {text}, allowed /ip4|ip6/ADDRESS/tcp/PORT")
    return address


def dialable(peer_id: PeerId, addresses: Sequence[str]) -> list[Multiaddr]:
    """The addresses of TCP among those given, without the peer id, each once, relayed ones last.

    A relayed one ends in /p2p-circuit. Raises ConnectionFailedError where there is none,
    RemoteProtocolError for a bad peer id.
    """
    public_key_of(peer_id)
    direct: dict[str, Multiaddr] = {}
    relayed: dict[str, Multiaddr] = {}
    for text in addresses[:_MAX_ADDRESSES]:
        with contextlib.suppress(LocalProtocolError):
            address, names = _parse(text)
            if names[-1:] == ["p2p"]:
                if not text.rstrip("/").endswith(f"/p2p/{peer_id}"):
                    continue
                address, names = address.decapsulate(Multiaddr(f"/p2p/{peer_id}")), names[:-1]
            if names[2:] == ["p2p", "p2p-circuit"] and _is_tcp(names[:2]):
                relayed[str(address)] = address
            elif _is_tcp(names):
                direct[str(address)] = address
    if not (direct or relayed):
        raise ConnectionFailedError(f"no TCP address of {peer_id} among {list(addresses[:_MAX_ADDRESSES])}")
    return [*direct.values(), *list(relayed.values())[:_MAX_RELAYED]]


def _is_tcp(names: list[str]) -> bool:
    return len(names) == 2 and names[0] in _DIALED and names[1] == "tcp"


def split_circuit(address: Multiaddr) -> tuple[PeerId, str] | None:
    """The relay of a relayed address, and where that is; None for a direct one."""
    where, circuit, _ = str(address).partition("/p2p-circuit")
    return (PeerId(where.rpartition("/p2p/")[2]), where) if circuit else None


def circuit_address(relay_address: str, peer_id: PeerId) -> str:
    """Where ``peer_id`` is reached through the relay; ``relay_address`` ends in the relay's /p2p/ID."""
    return f"{relay_address}/p2p-circuit/p2p/{peer_id}"


def is_relayed(address: str) -> bool:
    return "/p2p-circuit" in address


def family_of(address: Multiaddr) -> str:
    """The first protocol's name: ip4, ip6, or that of a name."""
    return str(next(iter(address.protocols())).name)


def is_name(address: Multiaddr) -> bool:
    """Whether it must be resolved before it can be dialed."""
    return family_of(address) in _NAMES


async def resolve(address: Multiaddr) -> list[Multiaddr]:
    """What a dns, dns4 or dns6 address stands for, best first (RFC 6724). Raises OSError."""
    name, port = family_of(address), int(address.value_for_protocol("tcp"))
    found = await trio.socket.getaddrinfo(
        address.value_for_protocol(name), port, _NAMES[name], socket.SOCK_STREAM
    )
    versions = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}
    texts = [f"/{versions[family]}/{end[0]}/tcp/{port}" for family, *_, end in found if family in versions]
    # A link-local address with its zone is no multiaddress that libp2p could dial.
    return [Multiaddr(text) for text in dict.fromkeys(texts) if "%" not in text][:_MAX_RESOLVED]


def refuse_used_port(address: Multiaddr) -> None:
    """Raises PortInUseError. py-libp2p listens with SO_REUSEPORT: a second host would start and steal."""
    port = int(address.value_for_protocol("tcp"))
    if port == 0:
        return
    version = next(iter(address.protocols())).name
    family = socket.AF_INET6 if version == "ip6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Permits a port whose last owner just died, not one that is listened at.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.value_for_protocol(version), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(f"another process listens at {address}") from error
            raise ConnectionFailedError(f"cannot listen at {address}: {error}") from error


def reachable(listening: Sequence[Multiaddr]) -> list[str]:
    """Addresses that others can dial: for "all interfaces" the address of each."""
    reachable: list[str] = []
    for address in map(str, listening):
        if address.startswith("/ip4/0.0.0.0/"):
            reachable += (address.replace("0.0.0.0", ip, 1) for ip in _own_addresses())
        elif address.startswith("/ip6/::/"):
            reachable.append(address.replace("::", "::1", 1))
        else:
            reachable.append(address)
    return reachable


def _own_addresses() -> list[str]:
    """IPv4: the loopback, the way out, then every other interface, as a network without a way out needs."""
    addresses = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks for the way out
        addresses.append(probe.getsockname()[0])
    for adapter in ifaddr.get_adapters():
        addresses += (str(ip.ip) for ip in adapter.ips if ip.is_IPv4 and not str(ip.ip).startswith("127."))
    return list(dict.fromkeys(addresses))[:_MAX_OWN]
