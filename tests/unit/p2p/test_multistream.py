"""Agreeing on a stream's protocol, with answers of every kind."""

from __future__ import annotations

import pytest

from p2p.errors import ConnectionFailedError, RemoteProtocolError, StreamResetError
from p2p.multistream import select_protocol

HEADER = b"\x13/multistream/1.0.0\n"


class Answering:
    """A stream that answers with fixed bytes, as many at a time as asked for."""

    def __init__(self, answer: bytes) -> None:
        self.sent = b""
        self.left = answer

    async def send_all(self, data: bytes) -> None:
        self.sent += data

    async def receive_some(self, max_bytes: int) -> bytes:
        data, self.left = self.left[:max_bytes], self.left[max_bytes:]
        return data


async def test_the_offer_goes_out_at_once_and_nothing_beyond_the_agreement_is_read() -> None:
    stream = Answering(HEADER + b"\x08/test/1\n" + b"first data")
    await select_protocol(stream, "/test/1")
    assert stream.sent == HEADER + b"\x08/test/1\n"
    assert stream.left == b"first data"


async def test_a_long_name_has_a_long_length() -> None:
    name = "/" + "n" * 199
    stream = Answering(HEADER + b"\xc9\x01" + name.encode() + b"\n")
    await select_protocol(stream, name)
    assert stream.sent == HEADER + b"\xc9\x01" + name.encode() + b"\n"


async def test_a_refusal_names_the_protocol() -> None:
    with pytest.raises(ConnectionFailedError, match="does not speak /test/1: 'na'"):
        await select_protocol(Answering(HEADER + b"\x03na\n"), "/test/1")


@pytest.mark.parametrize(
    "answer", [b"\x05http\n", b"\x00", b"\xff\xff\xff\xff\xff", b"\xff\x7f" + bytes(20_000)]
)
async def test_nonsense_is_refused(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        await select_protocol(Answering(answer), "/test/1")


@pytest.mark.parametrize("cut", range(len(HEADER) + 8))
async def test_an_end_in_between_is_a_cut(cut: int) -> None:
    with pytest.raises(StreamResetError, match="negotiated"):
        await select_protocol(Answering((HEADER + b"\x08/test/1\n")[:cut]), "/test/1")
