"""The record layer over a memory stream, against itself and against py-libp2p's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as StockNoise

from p2p.errors import RemoteProtocolError, StreamResetError
from p2p.noise import NoiseTransport


class Raw:
    """A raw connection over a memory stream; ``tamper`` sees what is written once it is set."""

    def __init__(self, stream: trio.abc.Stream, *, read_at_most: int | None = None) -> None:
        self.stream = stream
        self.tamper: Callable[[bytes], bytes] = bytes
        self._read_at_most = read_at_most

    async def read(self, n: int | None = None) -> bytes:
        at_most = min(n or 65536, self._read_at_most or 1 << 30)
        return bytes(await self.stream.receive_some(at_most))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(self.tamper(data))

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> None:
        return None


def stock(pair: Any) -> Any:
    return StockNoise(pair, noise_privkey=new_x25519().private_key)


@asynccontextmanager
async def secured(
    make_there: Callable[[Any], Any] = NoiseTransport, read_at_most: int | None = None
) -> AsyncIterator[tuple[Any, Any, Raw]]:
    """Both ends after the handshake, and the raw connection of the first."""
    here_pair, there_pair = create_new_key_pair(b"\1" * 32), create_new_key_pair(b"\2" * 32)
    near, far = trio.testing.memory_stream_pair()
    raw = Raw(near)
    ends: dict[str, Any] = {}

    async def accept() -> None:
        ends["there"] = await make_there(there_pair).secure_inbound(Raw(far, read_at_most=read_at_most))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        peer_id = ID.from_pubkey(there_pair.public_key)
        ends["here"] = await NoiseTransport(here_pair).secure_outbound(raw, peer_id)
    yield ends["here"], ends["there"], raw


async def receive_exactly(session: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        pieces = await session.receive()
        assert pieces is not None
        data += b"".join(pieces)
    return data


@pytest.mark.parametrize("size", [1, 65518, 65519, 65520, 300_000])
@pytest.mark.parametrize("read_at_most", [None, 1000])
async def test_any_amount_comes_out_as_it_went_in(size: int, read_at_most: int | None) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    async with secured(read_at_most=read_at_most) as (here, there, _), trio.open_nursery() as nursery:
        nursery.start_soon(here.send_all, data)
        assert await receive_exactly(there, size) == data


@pytest.mark.parametrize("cut", [1, 2, 3, 17, 18])
async def test_records_may_be_cut_anywhere(cut: int) -> None:
    async with secured(read_at_most=cut) as (here, there, _), trio.open_nursery() as nursery:
        nursery.start_soon(here.send_all, b"one")
        assert await receive_exactly(there, 3) == b"one"
        nursery.start_soon(here.send_all, b"another")
        assert await receive_exactly(there, 7) == b"another"


async def test_it_speaks_with_the_stock_record_layer() -> None:
    data = bytes(range(256)) * 1000
    async with secured(stock) as (here, there, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send_all, data)
            assert await there.read(len(data)) == data
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.write, data)
            assert await receive_exactly(here, len(data)) == data


@pytest.mark.parametrize("at", [2, 10, -1])
async def test_a_changed_byte_is_refused(at: int) -> None:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    async with secured() as (here, there, raw):
        raw.tamper = flip
        await here.send_all(b"something secret")
        with pytest.raises(RemoteProtocolError, match="does not open"):
            await there.receive()


async def test_a_repeated_record_is_refused() -> None:
    async with secured() as (here, there, raw):
        raw.tamper = lambda data: data + data
        await here.send_all(b"pay once")
        with pytest.raises(RemoteProtocolError, match="does not open"):
            await receive_exactly(there, 16)


async def test_an_end_between_records_is_an_end_and_inside_one_a_cut() -> None:
    async with secured() as (here, there, _):
        await here.close()
        assert await there.receive() is None
    async with secured() as (here, there, raw):
        raw.tamper = lambda data: data[:-1]
        await here.send_all(b"something")
        await here.close()
        with pytest.raises(StreamResetError, match="inside a record"):
            while await there.receive() is not None:
                pass
