"""The seam between everything above and the host: what a network and a stream are.

``p2p.host`` implements it over libp2p, ``p2p.testing`` in memory with a seed.
Nothing above the host knows which one it runs on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from p2p.framing import FrameLimits
from p2p.identifiers import PeerId


class Stream(Protocol):
    """A byte stream to an authenticated peer. Safe under cancellation of any call."""

    @property
    def remote_peer_id(self) -> PeerId: ...

    @property
    def largest(self) -> FrameLimits:
        """No frame beyond this is read, whatever its protocol allows."""

    async def wait_turn(self) -> None:
        """Before each message is read: holds back whoever sends too many."""

    def hold(self, size: int) -> None:
        """So many more bytes that were read wait for the rest of their message, or fewer.

        What is held ends with the stream. Raises FrameTooLargeError for more than is allowed.
        """

    async def send_all(self, data: bytes) -> None:
        """Raises StreamResetError."""

    def send_now(self, data: bytes) -> bool:
        """Sends all of it if that needs no waiting, and else nothing. Raises StreamResetError."""

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """At least one byte, or b"" after a clean end. Raises StreamResetError when cut off."""

    async def send_eof(self) -> None:
        """No more will be sent; receiving goes on."""

    async def aclose(self) -> None:
        """Closes both ways, cleanly; never raises."""

    async def reset(self) -> None:
        """Cuts the stream so that the other side sees a reset, not an end; never raises."""


StreamHandler = Callable[[Stream], Awaitable[None]]


class Network(Protocol):
    """One identity on a network."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> Sequence[str]:
        """Multiaddresses with /p2p/ at the end, at which this side listens."""

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """A handler that raises loses its own stream (reset) and nothing else."""

    async def connect(self, peer_id: PeerId, addresses: Sequence[str], timeout_s: float = 10.0) -> None:
        """Returns at once when connected already. Raises ConnectionFailedError or DeadlineError."""

    async def open_stream(self, peer_id: PeerId, protocol: str, timeout_s: float = 10.0) -> Stream:
        """Needs a connection. Raises ConnectionFailedError or DeadlineError."""

    def is_connected(self, peer_id: PeerId) -> bool: ...

    def connections(self) -> Mapping[PeerId, str]:
        """Everybody connected, each with its ``remote_address``."""

    def remote_address(self, peer_id: PeerId) -> str | None:
        """Where the peer's best connection comes from, without its id; None without a connection.

        One through a relay contains /p2p-circuit.
        """

    async def disconnect(self, peer_id: PeerId) -> None: ...

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes, by the key behind ``peer_id``."""
