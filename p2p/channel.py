"""Messages over a stream: frames and codecs joined to a network stream.

Knows nothing of any one protocol. One task may send while another receives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from p2p.codec import Codec
from p2p.errors import FrameTooLargeError, P2PError, StreamClosedError, StreamResetError
from p2p.framing import Frame, FrameDecoder, FrameLimits, encode_frame
from p2p.identifiers import PeerId
from p2p.network import Stream
from p2p.tasks import deadline

S = TypeVar("S")
R = TypeVar("R")

_RECEIVE_BYTES = 1 << 18


class Channel(Generic[S, R]):
    """Sends messages of type S and receives messages of type R, each with a raw body.

    A receive may be cancelled and repeated: nothing is lost. A send that is cancelled or times
    out after its first byte resets the stream, so that no half frame poses as a healthy stream.
    """

    def __init__(
        self,
        stream: Stream,
        send_codec: Codec[S],
        receive_codec: Codec[R],
        limits: FrameLimits,
        take_body: Callable[[int], None] | None = None,
    ) -> None:
        """``take_body``: see FrameDecoder."""
        self._stream = stream
        self._send_codec = send_codec
        self._receive_codec = receive_codec
        self._limits = limits
        self._decoder = FrameDecoder(limits.within(stream.largest), take_body)
        self._held = 0
        """Of the bytes that the decoder has: what the stream knows of."""
        self._send_lock = trio.Lock()

    @property
    def remote_peer_id(self) -> PeerId:
        return self._stream.remote_peer_id

    def encode(self, message: S, body: bytes = b"") -> bytes:
        """One frame for ``send_encoded``. Raises LocalProtocolError when the other side would refuse it."""
        return encode_frame(Frame(self._send_codec.encode(message), body), self._limits)

    async def send(self, message: S, body: bytes = b"", timeout_s: float | None = 30.0) -> None:
        """Raises StreamResetError, DeadlineError, and LocalProtocolError for a message over the limits."""
        frame = self.encode(message, body)
        if not self._goes_at_once(frame):
            await self._send_waiting(frame, timeout_s)

    def send_now(self, message: S, body: bytes = b"") -> bool:
        """Sends it if that needs no waiting, else nothing. Raises StreamResetError, LocalProtocolError."""
        return self._goes_at_once(self.encode(message, body))

    async def send_encoded(self, frame: bytes, timeout_s: float | None = 30.0) -> None:
        """Sends what ``encode`` made."""
        if not self._goes_at_once(frame):
            await self._send_waiting(frame, timeout_s)

    def _goes_at_once(self, frame: bytes) -> bool:
        return not self._send_lock.locked() and self._stream.send_now(frame)

    async def _send_waiting(self, frame: bytes, timeout_s: float | None) -> None:
        with deadline(timeout_s, f"sending {len(frame)} bytes to {self.remote_peer_id}"):
            async with self._send_lock:
                try:
                    await self._stream.send_all(frame)
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await self.reset()
                    raise

    async def receive(self, timeout_s: float | None = None) -> tuple[R, bytes]:
        """The next message and its body; waits for ever without ``timeout_s``.

        Raises StreamClosedError after a clean end between frames, StreamResetError when cut off,
        also inside a frame, DeadlineError, and RemoteProtocolError for what the protocol forbids.
        """
        frame = await self.receive_frame(timeout_s)
        return self._receive_codec.decode(frame.message), frame.body

    async def receive_frame(self, timeout_s: float | None = None) -> Frame:
        """The next frame, its message not decoded. Raises as ``receive`` does."""
        if timeout_s is None:
            return await self._next_frame()
        with deadline(timeout_s, f"waiting for a message of {self.remote_peer_id}"):
            return await self._next_frame()

    async def _next_frame(self) -> Frame:
        decoder = self._decoder
        try:
            while not decoder.has_frame:
                self._hold(decoder.size)
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    raise self._end_of_stream()
                decoder.receive_data(data)
            await self._stream.wait_turn()  # before the frame is taken: this may be cancelled
            frame = decoder.next_frame()
            self._hold(0)
        except FrameTooLargeError:
            await self.reset()
            raise
        assert frame is not None
        return frame

    def _hold(self, size: int) -> None:
        if size != self._held:
            more, self._held = size - self._held, size
            self._stream.hold(more)

    def _end_of_stream(self) -> P2PError:
        if self._decoder.is_empty:
            return StreamClosedError(f"{self.remote_peer_id} ended the stream")
        return StreamResetError(f"{self.remote_peer_id} ended the stream inside a frame")

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def reset(self) -> None:
        await self._stream.reset()
