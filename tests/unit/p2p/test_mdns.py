"""What is announced, what is believed of an answer, and what hostile packets cost."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from p2p import dns, mdns
from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.identity import Identity

PEER = Identity.from_seed(b"\x01" * 32).peer_id
OTHER = Identity.from_seed(b"\x02" * 32).peer_id
NETWORKS = mdns.LocalNetworks(
    tuple(map(ipaddress.ip_interface, ("127.0.0.1/8", "192.168.1.7/24", "fd00::7/64", "fe80::7/64")))
)
NEIGHBOUR = "192.168.1.9"


def address(ip: str, peer_id: str = PEER, port: int = 4001) -> str:
    version = "ip6" if ":" in ip else "ip4"
    return f"/{version}/{ip}/tcp/{port}/p2p/{peer_id}"


def packet_of(*texts: str, ttl_s: int = 120, name: str = f"abc.{mdns.SERVICE}") -> dns.Packet:
    record = dns.Record(name, dns.TXT, ttl_s, dns.text_bytes(texts))
    return dns.decode(dns.encode(dns.Packet(True, (), (), (record,))))


def believed(*addresses: str, source: str = NEIGHBOUR) -> list[str]:
    packet = packet_of(*(mdns.KEY + text for text in addresses))
    return [hint.address for hint in mdns.hints(packet, NETWORKS, source)]


def test_an_announcement_is_read_back() -> None:
    instance = mdns.Instance("x" * 32, PEER, (address(NEIGHBOUR), address("fd00::9")))
    packet = dns.decode(mdns.announcement(instance))
    assert packet.answers[0].target == f"{'x' * 32}.{mdns.SERVICE}"
    assert {record.type for record in packet.additionals} == {dns.TXT, dns.SRV, dns.A, dns.AAAA}
    found = mdns.hints(packet, NETWORKS, NEIGHBOUR)
    assert [(hint.peer_id, hint.address, hint.ttl_s) for hint in found] == [
        (PEER, address(NEIGHBOUR), 120),
        (PEER, address("fd00::9"), 120),
    ]


def test_the_question_is_that_of_the_specification() -> None:
    data = mdns.question()
    assert data == struct.pack(">6H", 0, 0, 1, 0, 0, 0) + b"\x04_p2p\x04_udp\x05local\0" + b"\0\x0c\0\x01"
    instance = mdns.Instance("abc", PEER, (address(NEIGHBOUR),))
    assert mdns.asks_for(dns.decode(data), instance)


def test_who_knows_the_answer_already_gets_none() -> None:
    instance = mdns.Instance("abc", PEER, (address(NEIGHBOUR),))
    asked = (dns.Question(mdns.SERVICE, dns.PTR),)

    def known(ttl_s: int) -> dns.Packet:
        return dns.Packet(False, asked, (dns.Record(mdns.SERVICE, dns.PTR, ttl_s, target=instance.name),))

    assert not mdns.asks_for(known(60), instance)
    assert mdns.asks_for(known(59), instance)
    assert not mdns.asks_for(dns.Packet(True, asked), instance)
    assert mdns.asks_for(dns.Packet(False, (dns.Question(instance.name, dns.TXT),)), instance)
    assert not mdns.asks_for(dns.Packet(False, (dns.Question("_http._tcp.local", dns.PTR),)), instance)


@pytest.mark.parametrize(
    "text",
    [
        address("8.8.8.8"),
        address("10.0.0.1"),
        address("224.0.0.251"),
        address("0.0.0.0"),
        address("127.0.0.1"),
        address("192.168.1.7"),
        address("192.168.1.009"),
        address("192.168.1.9", port=0),
        address("192.168.1.9", port=65536),
        address("192.168.1.9", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"),
        address("192.168.1.9", ""),
        f"/ip4/192.168.1.9/udp/4001/quic-v1/p2p/{PEER}",
        f"/dns4/evil.example/tcp/4001/p2p/{PEER}",
        f"/ip4/192.168.1.9/tcp/4001/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
        f"/ip4/192.168.1.9/tcp/-1/p2p/{PEER}",
        f"/ip4/192.168.1.9/tcp/4001/ws/p2p/{PEER}",
        f"/ip6/192.168.1.9/tcp/4001/p2p/{PEER}",
        "",
        "/" * 200,
    ],
)
def test_an_address_that_is_not_a_neighbours_is_no_hint(text: str) -> None:
    assert believed(text) == []


def test_an_own_address_counts_only_from_this_machine() -> None:
    own = [address("127.0.0.1"), address("192.168.1.7")]
    assert believed(*own) == []
    assert believed(*own, source="192.168.1.7") == own


def test_a_packet_from_another_network_says_nothing() -> None:
    assert believed(address(NEIGHBOUR), source="8.8.8.8") == []


def test_a_record_of_another_service_says_nothing() -> None:
    packet = packet_of(mdns.KEY + address(NEIGHBOUR), name="abc._http._tcp.local")
    assert mdns.hints(packet, NETWORKS, NEIGHBOUR) == []


def test_one_packet_and_many_packets_stay_within_bounds() -> None:
    found = mdns.Found()
    for number in range(mdns.MAX_PEERS + 50):
        peer_id = Identity.from_seed(struct.pack(">I", number + 1) * 8).peer_id
        found = found.hear([mdns.Hint(peer_id, address(NEIGHBOUR, peer_id), 120)], 0.0)
    ports = [mdns.Hint(PEER, address(NEIGHBOUR, port=port), 120) for port in range(1, 50)]
    full = found.peers(1.0)
    assert len(full) == mdns.MAX_PEERS
    assert len(mdns.Found().hear(ports, 0.0).peers(1.0)[PEER]) == mdns.MAX_ADDRESSES


def test_a_hint_lasts_as_long_as_it_says_and_no_longer_than_an_hour() -> None:
    text = mdns.KEY + address(NEIGHBOUR)
    [hint] = mdns.hints(packet_of(text, ttl_s=2**31), NETWORKS, NEIGHBOUR)
    assert hint.ttl_s == mdns.MAX_TTL_S
    found = mdns.Found().hear([hint], 100.0)
    assert found.peers(100.0 + mdns.MAX_TTL_S - 1) == {PEER: (address(NEIGHBOUR),)}
    assert found.peers(100.0 + mdns.MAX_TTL_S) == {}
    [goodbye] = mdns.hints(packet_of(text, ttl_s=0), NETWORKS, NEIGHBOUR)
    assert found.hear([goodbye], 101.0).peers(101.0) == {}


def test_each_interface_announces_what_can_be_dialed_there() -> None:
    addresses = (address("127.0.0.1"), address("192.168.1.7"), address("10.1.1.1"), address("fd00::7"))
    interface = ipaddress.IPv4Interface("192.168.1.7/24")
    assert mdns.on_interface(addresses, interface) == (address("192.168.1.7"),)


def compressed(pointer: bytes) -> bytes:
    head = struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0)
    return head + pointer + struct.pack(">2HIH", dns.TXT, 1, 120, 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (struct.pack(">6H", 0, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF), "262140 records, limit 128"),
        (struct.pack(">6H", 0, 0, 1, 0, 0, 0) + b"\x3f" + b"a" * 10, "ends too early"),
        (struct.pack(">6H", 0, 0x7800, 0, 0, 0, 0), "DNS flags 0x7800"),
        (struct.pack(">6H", 0, 0, 1, 0, 0, 0) + b"\x80a\0\0\x0c\0\x01", "label of kind 0x80"),
        (struct.pack(">6H", 0, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0", "name of over 255"),
        (compressed(b"\xc0\x0c"), "points forward"),
        (compressed(b"\xc0\x20"), "points forward"),
        (bytes(9001), "9001 bytes, limit 9000"),
    ],
)
def test_a_malformed_packet_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        dns.decode(data)


def test_a_record_that_claims_more_than_there_is_is_refused() -> None:
    data = compressed(b"\0")[:-2] + struct.pack(">H", 500)
    with pytest.raises(RemoteProtocolError, match="record of 500 bytes"):
        dns.decode(data)
    assert (
        mdns.hints(
            dns.Packet(True, (), (dns.Record(f"a.{mdns.SERVICE}", dns.TXT, 1, b"\xffabc"),)),
            NETWORKS,
            NEIGHBOUR,
        )
        == []
    )


def test_what_fits_no_packet_is_not_written() -> None:
    with pytest.raises(LocalProtocolError, match="labels of 1 to 63"):
        dns.name_bytes("a" * 64 + ".local")
    with pytest.raises(LocalProtocolError, match="limit 9000"):
        dns.encode(dns.Packet(False, (dns.Question("a" * 60, 1),) * 200))


def test_a_packet_of_pointers_to_pointers_is_refused_before_it_costs_time() -> None:
    def packet(pointers: int) -> bytes:
        head = struct.pack(">6H", 0, 0x8400, 0, 2, 0, 0)
        record = b"\0" + struct.pack(">2HIH", dns.TXT, 1, 120, 1 + 2 * pointers)
        start = len(head) + len(record)
        chain = b"\0" + b"".join(
            struct.pack(">H", 0xC000 | start + max(0, 2 * number - 1)) for number in range(pointers)
        )
        last = struct.pack(">H", 0xC000 | start + len(chain) - 2)
        return head + record + chain + last + struct.pack(">2HIH", dns.TXT, 1, 120, 0)

    assert len(dns.decode(packet(dns.MAX_POINTERS - 1)).answers) == 2
    with pytest.raises(RemoteProtocolError, match="over 32 pointers"):
        dns.decode(packet(dns.MAX_POINTERS))
