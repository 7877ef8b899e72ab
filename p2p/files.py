"""Moves content-addressed files between stores: serves them, and fetches them from one source.

A fetch goes on from wherever an earlier one was cut, re-sending at most one chunk. No source is
trusted: its manifest is checked before any chunk, each chunk before the next, and the whole
before it gets a name. Decides nothing about who may have what; ``authorize`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import trio

from p2p.client import CallClient, open_client
from p2p.errors import (
    ConnectionFailedError,
    DeadlineError,
    P2PError,
    RemoteFailureError,
    SourceRefusedError,
    StreamResetError,
    TransferError,
)
from p2p.identifiers import PeerId
from p2p.incoming import Incoming
from p2p.jobs import FileRef
from p2p.network import Network
from p2p.protocols.transfer import (
    LIMITS,
    MAX_PART_BYTES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    Chunk,
    GetChunk,
    GetManifest,
    ManifestPart,
    TransferAnswer,
    TransferCall,
)
from p2p.router import serve_calls
from p2p.store import FileStore
from p2p.tasks import background_tasks
from p2p.transfer import ManifestAssembler, Piece, PieceWindow

__all__ = ["FileStore", "fetch", "serve_transfers"]

log = structlog.get_logger(__name__)

Authorize = Callable[[PeerId, str], bool]
"""Whether a peer may have the file of a manifest hash."""
Progress = Callable[[int, int], None]
"""Called with the bytes that are here and those of the whole file."""
TransferClient = CallClient[TransferCall, TransferAnswer]

_CALLS_IN_FLIGHT = 16
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


def serve_transfers(network: Network, store: FileStore, authorize: Authorize) -> None:
    """Gives the files of ``store`` to whom ``authorize`` allows them."""

    async def answer(
        caller: PeerId, call: TransferCall, body: bytes
    ) -> TransferAnswer | tuple[TransferAnswer, bytes]:
        # Before anything else: whoever may not have a file learns not even whether it is here.
        if not authorize(caller, call.manifest):
            raise RemoteFailureError("unauthorized", f"{caller} may not fetch {call.manifest}")
        if isinstance(call, GetManifest):
            return await _manifest_part(store, call)
        return await _chunk(store, call)

    serve_calls(network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, answer, max_in_flight=_CALLS_IN_FLIGHT)


async def _manifest_part(store: FileStore, call: GetManifest) -> tuple[ManifestPart, bytes]:
    manifest = await store.read_manifest(call.manifest)
    if manifest is None:
        raise _unknown(call)
    if call.offset >= len(manifest):
        raise RemoteFailureError("invalid", f"offset {call.offset} in a manifest of {len(manifest)} bytes")
    part = manifest[call.offset : call.offset + MAX_PART_BYTES]
    store.bytes_sent += len(part)
    return ManifestPart(len(manifest)), part


async def _chunk(store: FileStore, call: GetChunk) -> tuple[Chunk, bytes]:
    try:
        data = await store.read_chunk(call.manifest, call.index, call.offset, call.length)
    except IndexError as error:
        raise RemoteFailureError("invalid", f"asked for {error}") from error
    if data is None:
        raise _unknown(call)
    store.bytes_sent += len(data)
    return Chunk(call.index, call.offset), data


def _unknown(call: TransferCall) -> RemoteFailureError:
    return RemoteFailureError("not_found", f"no file with manifest {call.manifest}")


async def fetch(
    network: Network,
    source: PeerId,
    ref: FileRef,
    store: FileStore,
    *,
    max_bytes: int,
    addresses: Sequence[str] = (),
    progress: Progress | None = None,
    timeout_s: float = 30.0,
    attempts: int = 3,
) -> Path:
    """The path of the whole, checked file; at once if the store has it already.

    ``timeout_s`` is for each request; after ``attempts`` failures of the connection in a row
    without a byte in between it gives up. What has arrived stays for the next time.

    Raises TransferError naming the source that lied, SourceRefusedError, DeadlineError,
    ConnectionFailedError or StreamResetError; OSError when the disk refuses.
    """
    if ref.size > max_bytes:
        raise TransferError(f"{source} offers a file of {ref.size} bytes, limit {max_bytes}")
    async with store.receiving(ref) as incoming:
        if incoming.whole is not None:
            return incoming.whole
        download = _Download(source, ref, store, incoming, timeout_s, progress)
        failures = 0
        while True:
            before = incoming.length
            try:
                async with open_client(
                    network, source, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, addresses=addresses
                ) as client:
                    return await download.run(client)
            except (StreamResetError, ConnectionFailedError, DeadlineError) as error:
                failures = 1 if incoming.length > before else failures + 1
                if failures >= attempts:
                    raise
                log.info("transfer interrupted", source=source, blake3=ref.blake3, reason=str(error))
                await trio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (failures - 1)))
            except RemoteFailureError as error:
                raise SourceRefusedError(f"{source} does not give file {ref.blake3}: {error}") from error
            except TransferError as error:
                raise TransferError(f"{source} lied about file {ref.blake3}: {error}") from error


class _Download:
    """One file from one source, over as many connections as it takes."""

    def __init__(
        self,
        source: PeerId,
        ref: FileRef,
        store: FileStore,
        incoming: Incoming,
        timeout_s: float,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._ref = ref
        self._store = store
        self._incoming = incoming
        self._timeout_s = timeout_s
        self._progress = progress
        self._changed = trio.Event()
        self._failure: P2PError | None = None

    async def run(self, client: TransferClient) -> Path:
        if self._incoming.manifest is None:
            await self._incoming.begin(await self._get_manifest(client))
        while self._incoming.length < self._ref.size:
            await self._get_pieces(client)
        await self._incoming.finish()
        path = self._store.path(self._ref.blake3)
        if path is None:
            raise TransferError("it was removed from the store as it arrived")
        return path

    async def _get_manifest(self, client: TransferClient) -> bytes:
        assembler = ManifestAssembler(self._ref.manifest, self._ref.blake3, self._ref.size)
        while not assembler.is_complete:
            call = GetManifest(self._ref.manifest, assembler.offset)
            answer, part = await client.call(call, timeout_s=self._timeout_s)
            if not isinstance(answer, ManifestPart):
                raise TransferError(f"answered {type(answer).__name__} to GetManifest")
            self._store.bytes_received += len(part)
            assembler.add(answer.total_bytes, part)
        return assembler.encoded

    async def _get_pieces(self, client: TransferClient) -> None:
        """Until the file is whole, or a chunk has to be asked for again."""
        assert self._incoming.manifest is not None
        window = PieceWindow(self._ref.size, self._incoming.manifest.chunk_bytes, self._incoming.length)
        self._failure = None
        async with background_tasks() as nursery:
            while not window.is_complete:
                while (piece := window.next_piece()) is not None:
                    nursery.start_soon(self._get_piece, client, window, piece)
                await self._changed.wait()
                self._changed = trio.Event()
                unharmed = await self._store_arrived(window)
                if self._failure is not None:
                    raise self._failure
                if not unharmed:
                    return

    async def _get_piece(self, client: TransferClient, window: PieceWindow, piece: Piece) -> None:
        call = GetChunk(self._ref.manifest, piece.index, piece.offset, piece.length)
        try:
            answer, data = await client.call(call, timeout_s=self._timeout_s)
            self._store.bytes_received += len(data)
            if answer != Chunk(piece.index, piece.offset):
                raise TransferError(f"answered {answer} to {call}")
            window.receive(piece, data)
        except P2PError as error:
            self._failure = self._failure or error
        self._changed.set()

    async def _store_arrived(self, window: PieceWindow) -> bool:
        """False when the disk turned out to hold a bad beginning of a chunk."""
        pieces = window.take()
        if not pieces:
            return True
        length = sum(len(piece) for piece in pieces)
        stored = await self._incoming.append(pieces)
        window.mark_stored(length)
        if self._progress is not None:
            self._progress(stored, self._ref.size)
        return stored == window.stored
