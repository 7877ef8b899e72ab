"""py-libp2p as it comes, with its own Noise and Yamux, in a process of its own.

``serve`` prints its address and answers until it is killed; ``call ADDRESS WISH JSON`` does one
thing and prints one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr

ECHO, HASH, RESET = (TProtocol(f"/test/{name}") for name in ("echo", "hash", "reset"))
BLOCK_BYTES = 65_000


@asynccontextmanager
async def running(listen: list[str]) -> AsyncIterator[Any]:
    pair = generate_new_ed25519_identity()
    noise = Transport(pair, noise_privkey=create_new_key_pair().private_key)
    host = new_host(key_pair=pair, sec_opt={PROTOCOL_ID: noise})
    async with host.run(listen_addrs=[Multiaddr(address) for address in listen]):
        yield host


async def parts(stream: Any) -> AsyncIterator[bytes]:
    try:
        while True:
            yield await stream.read(BLOCK_BYTES)
    except StreamEOF:
        return


async def read_all(stream: Any) -> bytes:
    return b"".join([part async for part in parts(stream)])


async def echo(stream: Any) -> None:
    try:
        async for part in parts(stream):
            await stream.write(part)
        await stream.close()
    except StreamError:
        await stream.reset()


async def hash_all(stream: Any) -> None:
    digest = hashlib.sha256()
    async for part in parts(stream):
        digest.update(part)
    await stream.write(digest.digest())
    await stream.close()


async def reset_when_told(stream: Any) -> None:
    await stream.write(b"before")
    await stream.read(1)
    await stream.reset()


async def serve() -> None:
    async with running(["/ip4/127.0.0.1/tcp/0"]) as host:
        for protocol, handler in ((ECHO, echo), (HASH, hash_all), (RESET, reset_when_told)):
            host.set_stream_handler(protocol, handler)
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


async def call_echo(host: Any, peer: ID, text: str) -> str:
    stream = await host.new_stream(peer, [ECHO])
    await stream.write(text.encode())
    await stream.close_write()
    return (await read_all(stream)).decode()


async def call_hash(host: Any, peer: ID, size: int) -> dict[str, str]:
    stream = await host.new_stream(peer, [HASH])
    digest = hashlib.sha256()
    for at in range(0, size, BLOCK_BYTES):
        block = at.to_bytes(4, "big") * (min(BLOCK_BYTES, size - at) // 4)
        digest.update(block)
        await stream.write(block)
    await stream.close_write()
    return {"sent": digest.hexdigest(), "received": (await read_all(stream)).hex()}


async def call_many(host: Any, peer: ID, count: int) -> list[str]:
    answers = [""] * count

    async def one(number: int) -> None:
        answers[number] = await call_echo(host, peer, f"stream {number}")

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return answers


async def call_reset(host: Any, peer: ID) -> dict[str, str]:
    stream = await host.new_stream(peer, [RESET])
    before = (await stream.read(6)).decode()
    await stream.write(b"!")
    try:
        return {"before": before, "seen": (await stream.read(1)).decode()}
    except StreamError as error:
        return {"before": before, "seen": type(error).__name__}


async def call_abort(host: Any, peer: ID) -> str:
    stream = await host.new_stream(peer, [ECHO])
    await stream.write(b"x")
    await stream.read(1)
    await stream.reset()
    return await call_echo(host, peer, "alive")


async def call_ping(host: Any, peer: ID) -> list[int]:
    return list(await PingService(host).ping(peer, 2))


async def call_identify(host: Any, peer: ID) -> dict[str, Any]:
    stream = await host.new_stream(peer, [IDENTIFY])
    found = parse_identify_response(await read_all(stream))
    return {"peer": str(peer), "protocols": list(found.protocols)}


WISHES: dict[str, Callable[..., Awaitable[Any]]] = {
    name.removeprefix("call_"): call for name, call in list(globals().items()) if name.startswith("call_")
}


async def fulfil(address: str, wish: str, options: dict[str, Any]) -> None:
    async with running([]) as host:
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        print(json.dumps(await WISHES[wish](host, info.peer_id, **options)), flush=True)
        os._exit(0)  # it takes seconds to leave


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve)
    else:
        trio.run(fulfil, sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
