"""Any bytes are refused or read, any packet comes back, and nothing of a stranger gets through unchecked."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from p2p import dns, mdns
from p2p.errors import RemoteProtocolError

LABELS = st.text("abcdefghij-_0123456789", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
TTLS = st.integers(0, 2**32 - 1)
QUESTIONS = st.builds(dns.Question, NAMES, st.integers(0, 255), st.booleans())
POINTERS = st.builds(dns.Record, NAMES, st.just(dns.PTR), TTLS, target=NAMES)
OTHERS = st.builds(
    dns.Record, NAMES, st.sampled_from([dns.A, dns.TXT, dns.SRV]), TTLS, st.binary(max_size=50)
)
RECORDS = st.lists(POINTERS | OTHERS, max_size=4).map(tuple)
PACKETS = st.builds(
    dns.Packet,
    st.booleans(),
    st.lists(QUESTIONS, max_size=4).map(tuple),
    RECORDS,
    RECORDS,
    st.integers(0, 65535),
)
NETWORKS = mdns.LocalNetworks((ipaddress.ip_interface("192.168.1.7/24"),))


@given(PACKETS)
def test_a_packet_comes_back_as_it_was(packet: dns.Packet) -> None:
    assert dns.decode(dns.encode(packet)) == packet


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        packet = dns.decode(data)
    except RemoteProtocolError:
        return
    mdns.hints(packet, NETWORKS, "192.168.1.9")


@given(PACKETS, st.data())
def test_a_cut_or_changed_packet_raises_nothing_else(packet: dns.Packet, data: st.DataObject) -> None:
    encoded = bytearray(dns.encode(packet))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        dns.decode(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    except RemoteProtocolError as error:
        assert str(error)


@given(st.lists(st.text(max_size=60), max_size=6), st.sampled_from(["192.168.1.9", "192.168.1.7", "8.8.8.8"]))
def test_every_hint_is_an_address_on_this_network(strings: list[str], source: str) -> None:
    fits = [text for text in strings if len((mdns.KEY + text).encode()) < 256]
    record = dns.Record(f"a.{mdns.SERVICE}", dns.TXT, 9, dns.text_bytes([mdns.KEY + text for text in fits]))
    for hint in mdns.hints(dns.Packet(True, (), (record,)), NETWORKS, source):
        assert hint.address.startswith("/ip4/192.168.1.")
