"""The embedded chain as a process: HTTP on loopback in front of the JSON-RPC methods.

Killed at any moment, it loses nothing that it has answered for. Reading and writing HTTP is h11's; this
module has the sockets, the deadlines and the limits.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import structlog
import trio
from solders.keypair import Keypair

from coordinator.chain.ledger import Ledger
from coordinator.chain.rpc import Rpc
from coordinator.chain.slots import SlotClock
from coordinator.chain.store import ChainStore
from p2p.limits import Rate, RateLimiter, Room, place_of

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

MAX_BODY_BYTES = 256 * 1024
MAX_CONNECTIONS = 256
"""Of this machine, whose coordinator is one of them, and as many of all others."""
MAX_CONNECTIONS_OF_ADDRESS = 64
"""Of any other machine."""
MAX_REQUESTS_PER_S = 5_000
OTHERS_COST = 10.0
"""What a request of another machine counts for."""
IDLE_S = 60.0
REQUEST_S = 15.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """``platform_wallet`` gets a token account at the start; None leaves that to others."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    slot_ms: int = 400
    platform_wallet: str | None = None


def open_rpc(
    store: ChainStore, slot_s: float, now: Callable[[], float], monotonic: Callable[[], float]
) -> Rpc:
    """Loads the chain, or begins a new one."""
    if store.meta("genesis") is None:
        authority = Keypair()
        meta = {
            "genesis": secrets.token_bytes(32),
            "genesis_time": repr(now()).encode(),
            "authority": bytes(authority),
            "reserved_slots": b"0",
            "time": b"0",
        }
        store.begin(meta, dict(Ledger.genesis(authority)))
    genesis, genesis_time, authority_key, reserved, last_time = (
        store.meta(name) or b"" for name in ("genesis", "genesis_time", "authority", "reserved_slots", "time")
    )
    clock = SlotClock(genesis, float(genesis_time), slot_s, int(reserved), now(), monotonic())
    keypair = Keypair.from_bytes(authority_key)
    return Rpc(Ledger(clock, keypair, store.accounts(), int(last_time), now, monotonic), store)


async def run_chain(config: ChainConfig, *, task_status: TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves until cancelled; tells its URL once it listens. Raises sqlite3.Error if the disk fails."""
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = config.data_dir / "chain.sqlite"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    store = ChainStore(path)
    try:
        rpc = open_rpc(store, config.slot_ms / 1000, time.time, trio.current_time)
        if config.platform_wallet is not None:
            rpc.open_platform_account(config.platform_wallet)
        await store.flush()
        async with trio.open_nursery() as nursery:
            server = _Server(rpc, config.host)
            serve = functools.partial(
                trio.serve_tcp, server.handle, config.port, host=config.host, handler_nursery=nursery
            )
            listeners: list[trio.SocketListener] = await nursery.start(serve)
            port = listeners[0].socket.getsockname()[1]
            url = f"http://{_bracketed(config.host)}:{port}"
            log.info("chain ready", url=url, data_dir=str(config.data_dir))
            task_status.started(url)
    finally:
        store.close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server:
    def __init__(self, rpc: Rpc, host: str) -> None:
        self._rpc = rpc
        self._hosts = LOOPBACK | {host}
        self._ours = Room("connections", MAX_CONNECTIONS, MAX_CONNECTIONS)
        self._others = Room("connections", MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS)
        self._rates = RateLimiter(Rate(MAX_REQUESTS_PER_S, MAX_REQUESTS_PER_S))

    async def handle(self, stream: trio.SocketStream) -> None:
        """One client. What it does wrong ends its connection and nothing else."""
        async with stream:
            try:
                address = str(stream.socket.getpeername()[0])
            except OSError:  # gone already
                return
            room = self._ours if _is_ours(address) else self._others
            if room.enter(address) is not None:
                return
            try:
                await self._converse(stream, address)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                return
            except h11.RemoteProtocolError as error:
                log.info("bad HTTP", problem=str(error)[:200])
            finally:
                room.leave(address)

    async def _converse(self, stream: trio.SocketStream, address: str) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            with trio.fail_after(IDLE_S):
                event = await _next_event(connection, stream)
            if not isinstance(event, h11.Request):
                return
            with trio.fail_after(REQUEST_S):
                body = await _read_body(connection, stream)
                refusal = (413, b"request too large") if body is None else self._refusal(event, address)
                if refusal is not None:
                    await _respond(connection, stream, *refusal)
                    return
                await _respond(connection, stream, 200, await self._rpc.answer(body or b""))
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def _refusal(self, request: h11.Request, address: str) -> tuple[int, bytes] | None:
        """A page in the user's browser must not be able to speak to the chain."""
        headers = {bytes(name): bytes(value).decode("latin-1") for name, value in request.headers}
        host = headers.get(b"host", "").rsplit(":", 1)[0].strip("[]")
        if host not in self._hosts:
            return 403, b"host not allowed"
        if request.method != b"POST":
            return 405, b"only POST"
        if not headers.get(b"content-type", "").startswith("application/json"):
            return 415, b"only application/json"
        cost = 1.0 if _is_ours(address) else OTHERS_COST
        if not self._rates.allow(place_of(address), trio.current_time(), cost):
            return 429, b"too many requests"
        return None


def _is_ours(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
            continue
        return event


async def _read_body(connection: h11.Connection, stream: trio.SocketStream) -> bytes | None:
    """None: more than MAX_BODY_BYTES."""
    body = bytearray()
    while True:
        event = await _next_event(connection, stream)
        if isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                return None
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        else:
            raise trio.BrokenResourceError("the client went away in the middle of a request")


async def _respond(connection: h11.Connection, stream: trio.SocketStream, status: int, body: bytes) -> None:
    kind = b"application/json" if status == 200 else b"text/plain"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
