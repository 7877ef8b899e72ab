"""The two ends of each transport that ``transport.py`` compares, each in a process of its own.

``serve STACK`` prints its address and answers until it is killed; ``measure STACK ADDRESS JOB``
prints one line of JSON. All of them send the same: a count, then so many bytes, answered with the
count that has arrived; and 32 bytes to and fro.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

BULK = "/cyxwiz/bench/bulk/1"
ECHO = "/cyxwiz/bench/echo/1"
PING = bytes(32)
READ_BYTES = 1 << 20
WARM_UP = 30

clock = time.perf_counter


# -- what every stack does, over a stream with send_all and receive_some ------------------------


async def read_exactly(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def take_bulk(stream: Any) -> None:
    size = left = int.from_bytes(await read_exactly(stream, 8), "big")
    while left:
        left -= len(await stream.receive_some(min(READ_BYTES, left)))
    await stream.send_all(size.to_bytes(8, "big"))


async def take_pings(stream: Any) -> None:
    while True:
        await stream.send_all(await read_exactly(stream, len(PING)))


async def send_bulk(stream: Any, size: int, chunk_bytes: int) -> float:
    """Seconds until the other side says that all of it is there."""
    chunk = bytes(chunk_bytes)
    started = clock()
    await stream.send_all(size.to_bytes(8, "big"))
    for _ in range(size // chunk_bytes):
        await stream.send_all(chunk)
    assert await read_exactly(stream, 8) == size.to_bytes(8, "big")
    return clock() - started


async def send_pings(stream: Any, count: int) -> float:
    """The median round trip, in milliseconds."""
    times = []
    for _ in range(count + WARM_UP):
        started = clock()
        await stream.send_all(PING)
        await read_exactly(stream, len(PING))
        times.append(clock() - started)
    return statistics.median(times[WARM_UP:]) * 1000


async def measure(job: dict[str, Any], open_stream: Callable[[str], Awaitable[Any]]) -> dict[str, float]:
    """MB/s by chunk size; ``ping`` on an open stream and ``new_stream`` with a ping, in milliseconds."""
    result = {}
    for chunk_bytes in job["chunks"]:
        stream = await open_stream(BULK)
        result[str(chunk_bytes)] = job["size"] / await send_bulk(stream, job["size"], chunk_bytes) / 1e6
        await stream.aclose()
    stream = await open_stream(ECHO)
    result["ping"] = await send_pings(stream, job["pings"])
    await stream.aclose()
    if not job["streams"]:
        return result
    times = []
    for _ in range(job["streams"] + WARM_UP):
        started = clock()
        stream = await open_stream(ECHO)
        await stream.send_all(PING)
        await read_exactly(stream, len(PING))
        times.append(clock() - started)
        await stream.aclose()
    result["new_stream"] = statistics.median(times[WARM_UP:]) * 1000
    return result


# -- raw TCP ------------------------------------------------------------------------------------


async def serve_raw() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        try:
            is_bulk = await read_exactly(stream, 1) == b"b"
            await (take_bulk if is_bulk else take_pings)(stream)
        except (EOFError, trio.BrokenResourceError):
            await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(answer, listeners)


async def measure_raw(address: str, job: dict[str, Any]) -> dict[str, float]:
    async def open_stream(protocol: str) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", int(address))
        await stream.send_all(b"b" if protocol == BULK else b"p")
        return stream

    return await measure(job, open_stream)


# -- ours ---------------------------------------------------------------------------------------


async def serve_ours() -> None:
    from p2p.errors import P2PError
    from p2p.host import open_host
    from p2p.identity import Identity

    async def pings(stream: Any) -> None:
        with contextlib.suppress(EOFError, P2PError):
            await take_pings(stream)

    async with open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network:
        network.set_handler(BULK, take_bulk)
        network.set_handler(ECHO, pings)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


async def measure_ours(address: str, job: dict[str, Any]) -> dict[str, float]:
    from p2p.host import open_host
    from p2p.identifiers import PeerId
    from p2p.identity import Identity

    peer_id = PeerId(address.rpartition("/")[2])
    async with open_host(Identity.generate(), []) as network:
        await network.connect(peer_id, [address])
        return await measure(job, lambda protocol: network.open_stream(peer_id, protocol))


# -- py-libp2p as it comes ----------------------------------------------------------------------


class StockStream:
    """A stream of py-libp2p's with the names that the others have."""

    def __init__(self, stream: Any) -> None:
        self.receive_some = stream.read
        self.send_all = stream.write
        self.aclose = stream.close


@asynccontextmanager
async def stock_host(listen: list[str]) -> AsyncIterator[Any]:
    from libp2p import generate_new_ed25519_identity, new_host
    from libp2p.crypto.x25519 import create_new_key_pair
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport
    from multiaddr import Multiaddr

    pair = generate_new_ed25519_identity()
    noise = Transport(pair, noise_privkey=create_new_key_pair().private_key)
    host = new_host(key_pair=pair, sec_opt={PROTOCOL_ID: noise})
    async with host.run(listen_addrs=[Multiaddr(address) for address in listen]):
        yield host


async def serve_stock() -> None:
    async def bulk(stream: Any) -> None:
        await take_bulk(StockStream(stream))
        await stream.close()

    async def pings(stream: Any) -> None:
        from libp2p.network.stream.exceptions import StreamError

        try:
            await take_pings(StockStream(stream))
        except (EOFError, StreamError):
            await stream.close()

    async with stock_host(["/ip4/127.0.0.1/tcp/0"]) as host:
        host.set_stream_handler(BULK, bulk)
        host.set_stream_handler(ECHO, pings)
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


async def measure_stock(address: str, job: dict[str, Any]) -> dict[str, float]:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    async def open_stream(protocol: str) -> StockStream:
        return StockStream(await host.new_stream(info.peer_id, [protocol]))

    async with stock_host([]) as host:
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        await trio.sleep(1.0)  # its identify and its first ping would be measured else
        result = await measure(job, open_stream)
        print(json.dumps(result), flush=True)
        os._exit(0)  # it takes seconds to leave


# -- grpcio with TLS ----------------------------------------------------------------------------

_GRPC_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _same(data: bytes) -> bytes:
    return data


def serve_grpc() -> None:
    import grpc
    import trustme

    def bulk(parts: Iterator[bytes], _context: Any) -> bytes:
        return sum(map(len, parts)).to_bytes(8, "big")

    def echo(pings: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        return pings

    handlers = {
        "Bulk": grpc.stream_unary_rpc_method_handler(bulk, _same, _same),
        "Echo": grpc.stream_stream_rpc_method_handler(echo, _same, _same),
    }
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    server = grpc.server(futures.ThreadPoolExecutor(4), options=_GRPC_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bench", handlers),))
    port = server.add_secure_port(
        "localhost:0", grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    )
    root = Path(tempfile.mkdtemp(prefix="cyxwiz-bench-")) / "root.pem"
    root.write_bytes(authority.cert_pem.bytes())
    server.start()
    print(f"{port} {root}", flush=True)
    server.wait_for_termination()


def measure_grpc(address: str, job: dict[str, Any]) -> dict[str, float]:
    import grpc

    port, root = address.split()
    credentials = grpc.ssl_channel_credentials(Path(root).read_bytes())
    channel = grpc.secure_channel(f"localhost:{port}", credentials, _GRPC_OPTIONS)
    bulk = channel.stream_unary("/Bench/Bulk", _same, _same)
    echo = channel.stream_stream("/Bench/Echo", _same, _same)
    result = {}
    for chunk_bytes in job["chunks"]:
        chunk, count = bytes(chunk_bytes), job["size"] // chunk_bytes
        started = clock()
        assert int.from_bytes(bulk(chunk for _ in range(count)), "big") == job["size"]
        result[str(chunk_bytes)] = job["size"] / (clock() - started) / 1e6
    times, turn, ended = [], threading.Semaphore(0), threading.Event()

    def pings() -> Iterator[bytes]:
        while turn.acquire() and not ended.is_set():
            yield PING

    answers = echo(pings())
    for _ in range(job["pings"] + WARM_UP):
        started = clock()
        turn.release()
        next(answers)
        times.append(clock() - started)
    ended.set()
    turn.release()
    result["ping"] = statistics.median(times[WARM_UP:]) * 1000
    return result


STACKS: dict[str, tuple[Any, Any]] = {
    "raw": (serve_raw, measure_raw),
    "ours": (serve_ours, measure_ours),
    "stock": (serve_stock, measure_stock),
    "grpc": (serve_grpc, measure_grpc),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "measure"])
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("address", nargs="?")
    parser.add_argument("job", nargs="?")
    options = parser.parse_args()
    serve, measured = STACKS[options.stack]
    if options.role == "serve":
        if options.stack == "grpc":
            serve()
        else:
            trio.run(serve)
        return
    job = json.loads(options.job)
    result = (
        measured(options.address, job)
        if options.stack == "grpc"
        else trio.run(measured, options.address, job)
    )
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
