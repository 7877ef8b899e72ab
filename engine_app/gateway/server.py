"""The listening side of a gateway: so many connections, keys that are followed, and an end that waits."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from backend.serving.failures import failure
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ApiKey
from backend.serving.seats import Seats
from engine_app.gateway.application import Application
from engine_app.gateway.bodies import BodyBudget
from engine_app.gateway.connection import Connection

log = structlog.get_logger(__name__)

KEYS_EVERY_S = 1.0
_NO_FILES_PAUSE_S = 0.1
_TURN_AWAY_S = 1.0
_TURNED_AWAY_AT_ONCE = 64
_BODY = b'{"error":{"code":"busy","text":"too many connections"}}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


@dataclass(frozen=True, slots=True)
class ServerBounds:
    connections: int = 512
    bodies_bytes: int = 256 << 20
    """Of all requests that are being answered, together."""


class GatewayServer:
    def __init__(self, listener: socket.socket, app: Application, bounds: ServerBounds) -> None:
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        self._app = app
        self._budget = BodyBudget(bounds.bodies_bytes)
        self._open: dict[Connection, trio.CancelScope] = {}
        self._seats: Seats[Connection] = Seats(bounds.connections, lambda each: each.waits_since)
        self._turned_away = 0
        self._accepting = trio.CancelScope()
        self._grace_s = 0.0
        self.unanswered = 0
        """Requests that were in flight when the time for them was over."""
        app.load = lambda: (len(self._open), self._budget.held_bytes)

    async def run(self) -> None:
        """Until ``stop``, and until what was in flight then is answered, or its time is over."""
        async with trio.open_nursery() as connections:
            with self._accepting:
                await self._accept(connections)
            await self._listener.aclose()
            for connection, scope in self._open.items():
                connection.is_last = True
                if connection.is_idle:
                    scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + self._grace_s

    def stop(self, grace_s: float) -> None:
        """Takes no more connections, and gives what is in flight so long."""
        self._grace_s = grace_s
        self._accepting.cancel()

    async def _accept(self, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await self._listener.accept()
            except OSError as error:
                log.warning("cannot accept a connection", reason=str(error))
                await trio.sleep(_NO_FILES_PAUSE_S)
                continue
            connection = Connection(stream, self._budget, self._app.answer)
            scope = trio.CancelScope()
            if self._seats.take(connection, _address(stream), trio.current_time(), scope.cancel):
                self._open[connection] = scope
                connections.start_soon(self._serve, connection)
            elif self._turned_away < _TURNED_AWAY_AT_ONCE:
                self._turned_away += 1
                connections.start_soon(self._turn_away, stream)
            else:
                await trio.aclose_forcefully(stream)

    async def _serve(self, connection: Connection) -> None:
        is_over = False
        try:
            with self._open[connection]:
                await connection.run()
                is_over = True
        except Exception as error:
            failure(error)  # one client's connection ends, not the gateway
        finally:
            del self._open[connection]
            had_seat = self._seats.give_back(connection)
            self.unanswered += had_seat and not is_over and not connection.is_idle

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(_TURN_AWAY_S):
                await stream.send_all(_FULL)
                await stream.send_eof()
                await stream.receive_some(1 << 16)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._turned_away -= 1
            await trio.aclose_forcefully(stream)


def _address(stream: trio.SocketStream) -> str:
    """Of the client; empty for one that has left already."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""


async def follow_keys(gatekeeper: Gatekeeper, read: Callable[[], tuple[ApiKey, ...]]) -> None:
    """Reads the keys now and then, so that one that was revoked stops working. Never returns."""
    while True:
        gatekeeper.replace(await trio.to_thread.run_sync(read))
        await trio.sleep(KEYS_EVERY_S)
