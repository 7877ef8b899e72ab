"""Agreeing on a stream's protocol: the rules step by step, and answers of every kind."""

from __future__ import annotations

import pytest

from p2p.errors import ConnectionFailedError, RemoteProtocolError, StreamResetError
from p2p.multistream import Negotiation, answering, asking, negotiate, select_protocol

HEADER = b"\x13/multistream/1.0.0\n"


class Answering:
    """A stream that answers with fixed bytes, as many at a time as asked for."""

    def __init__(self, answer: bytes) -> None:
        self.sent = b""
        self.left = answer

    @property
    def unread_bytes(self) -> int:
        return len(self.left)

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


def steps(negotiation: Negotiation, incoming: bytes) -> tuple[list[bytes | int], str]:
    """What a negotiation yields, and what it agrees on, while it reads ``incoming``."""
    yielded: list[bytes | int] = []
    step: bytes | int = next(negotiation)
    try:
        while True:
            yielded.append(step)
            if isinstance(step, int):
                taken, incoming = incoming[:step], incoming[step:]
                assert len(taken) == step
                step = negotiation.send(taken)
            else:
                step = next(negotiation)
    except StopIteration as agreed:
        assert not incoming
        return yielded, agreed.value


def test_the_answering_side_hears_first_and_refuses_until_it_may_agree() -> None:
    offers = HEADER + b"\x03ls\n" + b"\x08/other/\n" + b"\x08/test/1\n"
    yielded, agreed = steps(answering({"/test/1", "/test/2"}), offers)
    assert agreed == "/test/1"
    assert yielded == [1, 19, HEADER, 1, 3, b"\x03na\n", 1, 8, b"\x03na\n", 1, 8, b"\x08/test/1\n"]


def test_the_asking_side_needs_one_round_trip() -> None:
    yielded, agreed = steps(asking("/test/1"), HEADER + b"\x08/test/1\n")
    assert (yielded, agreed) == ([HEADER + b"\x08/test/1\n", 1, 19, 1, 8], "/test/1")


async def test_an_answer_to_header_and_proposal_goes_out_in_one_piece() -> None:
    pieces: list[bytes] = []

    class Noting(Answering):
        async def send_all(self, data: bytes) -> None:
            pieces.append(data)

    assert await negotiate(Noting(HEADER + b"\x08/test/1\n"), answering({"/test/1"})) == "/test/1"
    assert pieces == [HEADER + b"\x08/test/1\n"]


def test_a_side_that_proposes_for_ever_is_given_up() -> None:
    with pytest.raises(RemoteProtocolError, match="16 protocols proposed"):
        steps(answering({"/test/1"}), HEADER + 16 * b"\x08/other/\n")


@pytest.mark.parametrize("offer", [b"\x05http\n", b"\x00", b"\xff\xff\xff"])
def test_nonsense_is_refused_by_the_answering_side(offer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        steps(answering({"/test/1"}), offer)
