"""The real host on loopback: each trap of the library underneath, with the way around it."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.rsa import create_new_key_pair as generate_rsa
from libp2p.crypto.secp256k1 import create_new_key_pair as generate_secp256k1
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as StockNoise
from multiaddr import Multiaddr

from p2p.client import open_client
from p2p.codec import Codec, Message
from p2p.errors import (
    ConnectionFailedError,
    DeadlineError,
    LocalProtocolError,
    PortInUseError,
    StreamResetError,
)
from p2p.framing import FrameLimits
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.limits import HostLimits
from p2p.network import Network, Stream
from p2p.protocols import Request, Response
from p2p.router import serve_calls

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive_some(1 << 18):
        parts.append(data)
    return b"".join(parts)


async def read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more
        data += more
    return data


async def ping(network: Network, peer_id: PeerId) -> None:
    """A round trip on a new stream of /test/echo."""
    stream = await network.open_stream(peer_id, "/test/echo", timeout_s=60)
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"
    await stream.aclose()


@asynccontextmanager
async def two_hosts(limits: HostLimits | None = None) -> AsyncIterator[tuple[Network, Network]]:
    """A server that echoes on /test/echo, and a caller connected to it."""
    async with (
        open_host(Identity.generate(), LOOPBACK, limits or HostLimits()) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        server.set_handler("/test/echo", echo)
        await caller.connect(server.peer_id, server.addresses())
        yield server, caller


async def test_each_side_knows_the_other_and_may_open_streams() -> None:
    callers: list[PeerId] = []

    async def note(stream: Stream) -> None:
        callers.append(stream.remote_peer_id)

    async with two_hosts() as (server, caller):
        caller.set_handler("/test/back", note)
        await ping(caller, server.peer_id)
        back = await server.open_stream(caller.peer_id, "/test/back")
        assert await read_all(back) == b""
        assert callers == [server.peer_id]
        assert back.remote_peer_id == caller.peer_id


async def test_a_handler_that_raises_loses_its_stream_and_nothing_else() -> None:
    async def broken(stream: Stream) -> None:
        await stream.receive_some()
        raise ValueError("broken")

    async with two_hosts() as (server, caller):
        server.set_handler("/test/broken", broken)
        for _ in range(3):
            stream = await caller.open_stream(server.peer_id, "/test/broken")
            await stream.send_all(b"x")
            with pytest.raises(StreamResetError, match="reset by the other side"):
                await stream.receive_some()
        await ping(caller, server.peer_id)


async def test_a_reset_and_an_end_are_told_apart() -> None:
    async def obey(stream: Stream) -> None:
        if await stream.receive_some() == b"reset":
            await stream.reset()

    async with two_hosts() as (server, caller):
        server.set_handler("/test/obey", obey)
        ended = await caller.open_stream(server.peer_id, "/test/obey")
        await ended.send_all(b"end")
        assert await ended.receive_some() == b""
        cut = await caller.open_stream(server.peer_id, "/test/obey")
        await cut.send_all(b"reset")
        with pytest.raises(StreamResetError):
            await cut.receive_some()


async def test_reads_cancelled_at_any_moment_lose_nothing() -> None:
    async with two_hosts() as (server, caller):
        stream = await caller.open_stream(server.peer_id, "/test/echo")
        for number in range(300):
            await stream.send_all(struct.pack(">I", number))
            data = b""
            while len(data) < 4:
                with trio.move_on_after(0.0002):
                    data += await stream.receive_some(4 - len(data))
            assert struct.unpack(">I", data) == (number,)


async def test_cancelled_writes_leave_the_connection_whole() -> None:
    never = trio.Event()

    async def stall(_stream: Stream) -> None:
        await never.wait()

    async with two_hosts() as (server, caller):
        server.set_handler("/test/stall", stall)
        for delay_s in (0.0, 0.001, 0.003, 0.01, 0.03):
            stream = await caller.open_stream(server.peer_id, "/test/stall")
            with trio.move_on_after(delay_s):
                while True:
                    await stream.send_all(bytes(1 << 20))
            await ping(caller, server.peer_id)
            await stream.reset()
        assert caller.is_connected(server.peer_id)


@pytest.mark.slow
async def test_a_reader_that_stalls_for_seconds_is_waited_for() -> None:
    async def read_late(stream: Stream) -> None:
        await trio.sleep(6)  # the library underneath would reset the writer after 5
        await stream.send_all(hashlib.sha256(await read_all(stream)).digest())

    async with two_hosts() as (server, caller):
        server.set_handler("/test/late", read_late)
        stream = await caller.open_stream(server.peer_id, "/test/late")
        data = bytes(range(256)) * 10_000
        await stream.send_all(data)
        await stream.send_eof()
        assert await read_all(stream) == hashlib.sha256(data).digest()


async def test_a_peer_that_moved_is_reached_at_its_new_address_at_once() -> None:
    identity = Identity.generate()
    async with open_host(Identity.generate(), []) as caller:
        async with open_host(identity, LOOPBACK) as server:
            stale = server.addresses()
            await caller.connect(server.peer_id, stale)
            server.set_handler("/test/echo", echo)
            stream = await caller.open_stream(server.peer_id, "/test/echo")
        with trio.fail_after(20), pytest.raises(StreamResetError):
            await stream.receive_some()
        assert not caller.is_connected(identity.peer_id)
        with pytest.raises(ConnectionFailedError, match="no connection to"):
            await caller.connect(identity.peer_id, stale)
        async with open_host(identity, LOOPBACK) as server:
            server.set_handler("/test/echo", echo)
            with trio.fail_after(20):
                # After a failed dial, and with the stale address tried first.
                await caller.connect(server.peer_id, [*stale, *server.addresses()])
                await ping(caller, server.peer_id)


@pytest.mark.slow_clock
async def test_connecting_waits_for_no_timer() -> None:
    """The library's own way to connect costs 250 ms each time, whatever the machine."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        with trio.fail_after(0.2):
            await caller.connect(server.peer_id, server.addresses())


async def test_a_wrong_peer_at_the_address_is_refused() -> None:
    expected = Identity.generate().peer_id
    async with (
        open_host(Identity.generate(), LOOPBACK) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        address = server.addresses()[0].rpartition("/p2p/")[0]
        with pytest.raises(ConnectionFailedError) as refused:
            await caller.connect(expected, [address])
        assert f"found peer {server.peer_id} there, allowed is {expected}" in str(refused.value)
        assert not caller.is_connected(expected)
        with pytest.raises(ConnectionFailedError, match="no TCP address"):
            await caller.connect(expected, server.addresses())
        await caller.connect(server.peer_id, [address])


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/udp/1/quic-v1", "/memory/1"])
async def test_what_is_no_tcp_address_is_not_dialed(address: str) -> None:
    async with open_host(Identity.generate(), []) as caller:
        with pytest.raises(ConnectionFailedError, match="no TCP address"):
            await caller.connect(Identity.generate().peer_id, [address])


async def test_a_peer_that_accepts_and_says_nothing_costs_the_deadline_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_host(Identity.generate(), []) as caller:
            address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
                await caller.connect(Identity.generate().peer_id, [address], timeout_s=0.3)


async def test_a_stranger_that_talks_nonsense_harms_nobody() -> None:
    async with two_hosts() as (server, caller):
        port = int(server.addresses()[0].split("/")[4])
        for nonsense in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x13/multistream/1.0.0\n\xff\xff\xff\xff",
            bytes(100_000),
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            try:
                await stream.send_all(nonsense)
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass
            await stream.aclose()
        await ping(caller, server.peer_id)


async def test_a_second_host_on_the_same_port_is_refused() -> None:
    async with open_host(Identity.generate(), LOOPBACK) as first:
        address = first.addresses()[0].rpartition("/p2p/")[0]
        with pytest.raises(PortInUseError, match="another process listens at"):
            async with open_host(Identity.generate(), [address]):
                pass
    async with open_host(Identity.generate(), [address]) as again:
        assert again.addresses()[0].startswith(address)


async def test_an_error_beside_the_host_leaves_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with two_hosts():
            raise ZeroDivisionError


async def test_cancelling_the_block_stops_the_host() -> None:
    with trio.CancelScope() as scope:
        async with two_hosts() as (server, _):
            address = server.addresses()[0]
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with open_host(Identity.generate(), [address.rpartition("/p2p/")[0]]):
        pass


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1", "127.0.0.1:80"])
async def test_it_listens_on_tcp_only(address: str) -> None:
    with pytest.raises(LocalProtocolError):
        async with open_host(Identity.generate(), [address]):
            pass


async def test_all_interfaces_are_announced_by_addresses_that_can_be_dialed() -> None:
    async with open_host(Identity.generate(), ["/ip4/0.0.0.0/tcp/0"]) as server:
        assert all("/0.0.0.0/" not in address for address in server.addresses())
        async with open_host(Identity.generate(), []) as caller:
            await caller.connect(server.peer_id, server.addresses())


async def test_three_hundred_streams_can_be_open_at_once() -> None:
    async with two_hosts() as (server, caller):
        streams = [await caller.open_stream(server.peer_id, "/test/echo") for _ in range(300)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"%d" % number)
        for number, stream in enumerate(streams):
            assert await stream.receive_some() == b"%d" % number


async def test_a_stream_over_the_limit_is_refused_with_an_error() -> None:
    async with two_hosts(HostLimits(streams_per_peer=3)) as (server, caller):
        streams = [await caller.open_stream(server.peer_id, "/test/echo") for _ in range(3)]
        with pytest.raises(ConnectionFailedError):
            await caller.open_stream(server.peer_id, "/test/echo")
        await streams[0].reset()
        await ping(caller, server.peer_id)


async def test_a_second_connection_of_the_same_peer_works_beside_the_first() -> None:
    """Both dial at once, as happens when both learn of each other in the same moment."""
    async with (
        open_host(Identity.generate(), LOOPBACK) as one,
        open_host(Identity.generate(), LOOPBACK) as other,
    ):
        for network in (one, other):
            network.set_handler("/test/echo", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, other.peer_id, other.addresses())
            nursery.start_soon(other.connect, one.peer_id, one.addresses())
        for _ in range(10):
            await ping(one, other.peer_id)
            await ping(other, one.peer_id)


async def test_ended_connections_make_room_for_new_ones() -> None:
    async with open_host(Identity.generate(), LOOPBACK, HostLimits(connections=2)) as server:
        server.set_handler("/test/echo", echo)
        for _ in range(6):
            async with open_host(Identity.generate(), []) as caller:
                await caller.connect(server.peer_id, server.addresses())
                await ping(caller, server.peer_id)


async def test_connections_over_the_limit_are_refused_and_harm_nobody() -> None:
    async with open_host(Identity.generate(), LOOPBACK, HostLimits(connections=2)) as server:
        server.set_handler("/test/echo", echo)
        async with AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(open_host(Identity.generate(), [])) for _ in range(3)
            ]
            await first.connect(server.peer_id, server.addresses())
            await second.connect(server.peer_id, server.addresses())
            with pytest.raises(ConnectionFailedError):
                await third.connect(server.peer_id, server.addresses())
            await ping(first, server.peer_id)
            await first.disconnect(server.peer_id)
            await third.connect(server.peer_id, server.addresses())
            await ping(third, server.peer_id)


async def test_connections_beyond_the_limit_of_one_peer_replace_the_oldest() -> None:
    identity = Identity.generate()
    lost, losses = trio.open_memory_channel[int](5)
    async with (
        open_host(Identity.generate(), LOOPBACK, HostLimits(connections_per_peer=2)) as server,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        server.set_handler("/test/echo", echo)

        async def watch(number: int, stream: Stream) -> None:
            with pytest.raises(StreamResetError):
                await stream.receive_some()
            await lost.send(number)

        for number in range(4):
            caller = await stack.enter_async_context(open_host(identity, []))
            await caller.connect(server.peer_id, server.addresses())
            nursery.start_soon(watch, number, await caller.open_stream(server.peer_id, "/test/echo"))
        with trio.fail_after(60):
            assert {await losses.receive(), await losses.receive()} == {0, 1}
        nursery.cancel_scope.cancel()


async def test_a_protocol_nobody_speaks_is_refused_and_named() -> None:
    async with two_hosts() as (server, caller):
        with pytest.raises(ConnectionFailedError, match="/test/other"):
            await caller.open_stream(server.peer_id, "/test/other")
        with pytest.raises(ConnectionFailedError, match="not connected"):
            await caller.open_stream(Identity.generate().peer_id, "/test/echo")


async def test_disconnecting_is_seen_on_both_sides() -> None:
    seen: list[bool] = []
    done = trio.Event()

    async with two_hosts() as (server, caller):

        async def watch(stream: Stream) -> None:
            with pytest.raises(StreamResetError):
                await stream.receive_some()
            seen.append(server.is_connected(caller.peer_id))
            done.set()

        server.set_handler("/test/watch", watch)
        stream = await caller.open_stream(server.peer_id, "/test/watch")
        await caller.disconnect(server.peer_id)
        assert not caller.is_connected(server.peer_id)
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        with trio.fail_after(20):
            await done.wait()
        assert seen == [False]
        await caller.connect(server.peer_id, server.addresses())
        await ping(caller, server.peer_id)


async def test_what_was_sent_last_arrives_though_the_sender_leaves() -> None:
    received: list[bytes] = []
    done = trio.Event()

    async def keep(stream: Stream) -> None:
        received.append(await read_all(stream))
        done.set()

    async with open_host(Identity.generate(), LOOPBACK) as server:
        server.set_handler("/test/keep", keep)
        async with open_host(Identity.generate(), []) as caller:
            await caller.connect(server.peer_id, server.addresses())
            stream = await caller.open_stream(server.peer_id, "/test/keep")
            await stream.send_all(bytes(1_000_000))
            await stream.aclose()
        with trio.fail_after(60):
            await done.wait()
    assert received == [bytes(1_000_000)]


class Add(Message, frozen=True):
    one: int
    other: int


class Sum(Message, frozen=True):
    value: int


async def test_fifty_calls_and_a_large_stream_share_one_connection() -> None:
    requests: Codec[Request[Add]] = Codec(Request[Add])
    responses: Codec[Response[Sum]] = Codec(Response[Sum])
    limits = FrameLimits()
    digests: list[str] = []

    async def add(_caller: PeerId, call: Add, body: bytes) -> Any:
        return Sum(call.one + call.other), body[::-1]

    async def hash_all(stream: Stream) -> None:
        digest = hashlib.sha256()
        while data := await stream.receive_some(1 << 18):
            digest.update(data)
        digests.append(digest.hexdigest())

    async with two_hosts() as (server, caller):
        serve_calls(server, "/test/add", requests, responses, limits, add)
        server.set_handler("/test/hash", hash_all)
        expected = hashlib.sha256()

        async def send_bulk() -> None:
            stream = await caller.open_stream(server.peer_id, "/test/hash")
            for number in range(1024):
                block = number.to_bytes(4, "big") * (1 << 14)
                expected.update(block)
                await stream.send_all(block)
            await stream.send_eof()
            assert await read_all(stream) == b""

        async with open_client(caller, server.peer_id, "/test/add", requests, responses, limits) as client:

            async def call(number: int) -> None:
                for other in range(10):
                    answer, body = await client.call(Add(number, other), b"%d" % number)
                    assert (answer, body) == (Sum(number + other), (b"%d" % number)[::-1])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_bulk)
                for number in range(50):
                    nursery.start_soon(call, number)
        assert digests == [expected.hexdigest()]


# -- against the library as it comes ---------------------------------------------------------


def stock_host(security: dict[TProtocol, Any] | None = None) -> Any:
    pair = generate_new_ed25519_identity()
    noise = {NOISE_PROTOCOL: StockNoise(pair, noise_privkey=new_x25519().private_key)}
    return new_host(key_pair=pair, sec_opt=security or noise)


async def test_a_stock_host_calls_ours() -> None:
    data = bytes(range(256)) * 2000
    async with open_host(Identity.generate(), LOOPBACK) as server:
        server.set_handler("/test/echo", echo)
        stock = stock_host()
        async with stock.run(listen_addrs=[]):
            info = info_from_p2p_addr(Multiaddr(server.addresses()[0]))
            await stock.connect(info)
            stream = await stock.new_stream(info.peer_id, [TProtocol("/test/echo")])
            received = bytearray()

            async def send() -> None:
                for at in range(0, len(data), 65_000):
                    await stream.write(data[at : at + 65_000])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(received) < len(data):
                    received += await stream.read(65_536)
            assert bytes(received) == data
            await stream.close_write()
            with pytest.raises(StreamEOF):
                await stream.read(1)
            assert await PingService(stock).ping(info.peer_id, 2)


async def test_ours_calls_a_stock_host() -> None:
    data = bytes(range(256)) * 2000

    async def stock_echo(stream: Any) -> None:
        try:
            while True:
                await stream.write(await stream.read(60_000))
        except (StreamEOF, StreamReset):
            await stream.close()

    stock = stock_host()
    listen = [Multiaddr(LOOPBACK[0])]
    stock.set_stream_handler(TProtocol("/test/echo"), stock_echo)
    async with stock.run(listen_addrs=listen), open_host(Identity.generate(), []) as caller:
        peer_id = PeerId(str(stock.get_id()))
        await caller.connect(peer_id, [str(address) for address in stock.get_addrs()])
        stream = await caller.open_stream(peer_id, "/test/echo")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            assert await read_exactly(stream, len(data)) == data
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_plaintext_is_refused() -> None:
    async with open_host(Identity.generate(), LOOPBACK) as server:
        server.set_handler("/test/echo", echo)
        pair = generate_new_ed25519_identity()
        stock = stock_host({TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(pair)})
        async with stock.run(listen_addrs=[]):
            with pytest.raises(Exception, match=r"(?i)fail|unable|no address"):
                await stock.connect(info_from_p2p_addr(Multiaddr(server.addresses()[0])))
        assert not server._connections  # type: ignore[attr-defined]


async def test_a_name_is_resolved_and_dialed_whatever_else_is_given() -> None:
    async with (
        open_host(Identity.generate(), LOOPBACK) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        server.set_handler("/test/echo", echo)
        port = server.addresses()[0].split("/tcp/")[1].split("/")[0]
        with socket.socket() as silent:  # accepts nothing and answers nothing
            silent.bind(("127.0.0.1", 0))
            dead = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            await caller.connect(server.peer_id, [dead, f"/dns/localhost/tcp/{port}"])
        await ping(caller, server.peer_id)


async def test_one_of_two_ways_to_a_peer_is_kept() -> None:
    async with (
        open_host(Identity.generate(), [*LOOPBACK, "/ip4/127.0.0.2/tcp/0"]) as server,
        open_host(Identity.generate(), []) as caller,
    ):
        server.set_handler("/test/echo", echo)
        await caller.connect(server.peer_id, server.addresses())
        await ping(caller, server.peer_id)
        assert len(caller._connections[server.peer_id]) == 1  # type: ignore[attr-defined]


async def test_a_name_that_nobody_has_is_named() -> None:
    async with open_host(Identity.generate(), []) as caller:
        with pytest.raises(ConnectionFailedError, match=r"nowhere\.invalid"):
            await caller.connect(Identity.generate().peer_id, ["/dns4/nowhere.invalid/tcp/1"], timeout_s=8)


# -- what strangers may do before they have said who they are --------------------------------------


async def stranger(server: Network) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(server.addresses()[0].split("/")[4]))


OFFER = b"\x13/multistream/1.0.0\n\x07/noise\n"


async def ends(stream: trio.SocketStream) -> bool:
    """Whether the host hangs up."""
    with trio.move_on_after(8):
        try:
            while await stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


@pytest.mark.parametrize(
    "nonsense",
    [
        OFFER + b"\xff\xff" + bytes(65535),
        OFFER + b"\x10\x01" + bytes(4097),
        OFFER + b"\x00\x05short",
        OFFER + b"\x00\x00",
        b"\x13/multistream/1.0.0\n" + 40 * b"\x07/other\n",
        b"\xff\xff\xff\xff\xff\xff",
        OFFER[:-1],
    ],
    ids=["65535 bytes", "4097 bytes", "no key", "nothing", "proposals for ever", "a huge line", "half"],
)
async def test_a_stranger_is_hung_up_on(nonsense: bytes) -> None:
    limits = HostLimits(handshake_s=0.5)
    async with open_host(Identity.generate(), LOOPBACK, limits) as server:
        stream = await stranger(server)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(nonsense)
        assert await ends(stream)
        await stream.aclose()


async def test_a_stranger_that_says_a_byte_at_a_time_is_hung_up_on_all_the_same() -> None:
    limits = HostLimits(handshake_s=0.5)
    async with open_host(Identity.generate(), LOOPBACK, limits) as server:
        stream = await stranger(server)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            while True:
                await stream.send_all(b"\x80")
                await trio.lowlevel.checkpoint()
        await stream.aclose()


async def test_strangers_beyond_the_limit_are_turned_away_and_harm_nobody() -> None:
    limits = HostLimits(handshakes=3, handshake_s=60)
    async with open_host(Identity.generate(), LOOPBACK, limits) as server:
        server.set_handler("/test/echo", echo)
        silent = [await stranger(server) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await ends(await stranger(server))
        for stream in silent:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with open_host(Identity.generate(), []) as caller:
            await caller.connect(server.peer_id, server.addresses())
            await ping(caller, server.peer_id)


async def test_a_stream_that_names_no_protocol_is_reset_after_a_while() -> None:
    async with two_hosts(HostLimits(naming_s=0.2)) as (server, caller):
        connection = caller._connection(server.peer_id)  # type: ignore[attr-defined]
        for said in (b"", b"\x13/multistream/1.0.0\n"):
            stream = connection.session.open_stream()
            if said:
                await stream.send_all(said)
            with trio.fail_after(60), pytest.raises(StreamResetError, match="reset by the other side"):
                while await stream.receive_some():
                    pass
        await ping(caller, server.peer_id)


@pytest.mark.slow
@pytest.mark.parametrize("make_pair", [generate_rsa, generate_secp256k1], ids=["rsa", "secp256k1"])
async def test_only_ed25519_identities_are_let_in(make_pair: Callable[[], Any]) -> None:
    async with open_host(Identity.generate(), LOOPBACK) as server:
        pair = make_pair()
        noise = {NOISE_PROTOCOL: StockNoise(pair, noise_privkey=new_x25519().private_key)}
        stock = new_host(key_pair=pair, sec_opt=noise)
        async with stock.run(listen_addrs=[]):
            with pytest.raises(Exception, match=r"(?i)fail|unable|no address"):
                await stock.connect(info_from_p2p_addr(Multiaddr(server.addresses()[0])))
        assert not server._connections  # type: ignore[attr-defined]


async def test_whose_key_signs_another_noise_key_is_refused() -> None:
    """The identity is bound to the connection: a signature seen elsewhere proves nothing here."""
    stolen = generate_new_ed25519_identity()

    class Impostor(StockNoise):
        def get_pattern(self) -> Any:
            pattern = super().get_pattern()
            honest = pattern.make_handshake_payload()
            other = StockNoise(stolen, noise_privkey=new_x25519().private_key)
            foreign = other.get_pattern().make_handshake_payload()
            honest.id_pubkey, honest.id_sig = foreign.id_pubkey, foreign.id_sig
            pattern.make_handshake_payload = lambda extensions=None: honest
            return pattern

    async with open_host(Identity.generate(), LOOPBACK) as server:
        own = generate_new_ed25519_identity()
        stock = stock_host({NOISE_PROTOCOL: Impostor(own, noise_privkey=new_x25519().private_key)})
        async with stock.run(listen_addrs=[]):
            with pytest.raises(Exception, match=r"(?i)fail|unable|no address"):
                await stock.connect(info_from_p2p_addr(Multiaddr(server.addresses()[0])))
        assert not server._connections  # type: ignore[attr-defined]
