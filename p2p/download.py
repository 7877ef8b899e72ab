"""Takes a content-addressed file from those who have it, from several at once where there are several.

A fetch goes on from wherever an earlier one was cut, with any source. No source is trusted: its
manifest is checked before any chunk, each chunk before it is written, and the whole before it gets
a name. A source that lies is named and dropped, what was right of it is kept, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from p2p.partial import Arrival
from p2p.protocols import Done
from p2p.protocols.transfer import (
    LIMITS,
    MAX_SOURCES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    FileSource,
    GetManifest,
    GetRange,
    ManifestPart,
    Range,
    ShowGrant,
    TransferAnswer,
    TransferCall,
)
from p2p.store import FileStore, Reuse
from p2p.tasks import background_tasks
from p2p.transfer import ManifestAssembler
from p2p.transfer_plan import MAX_WINDOW_BYTES, Schedule, Span

log = structlog.get_logger(__name__)

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and those of the whole file."""
Blame = Callable[[PeerId, P2PError], None]
"""Called with a source that was dropped, and why."""
TransferClient = CallClient[TransferCall, TransferAnswer]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SECOND_SOURCE_AFTER_S = 0.5
"""The further sources are asked for the manifest only when the first has not given it by then."""
_LOOK_AGAIN_S = 0.25
"""How often a source with nothing to do looks for what a slower one keeps waiting."""
_FLUSH_BYTES = 64 << 20
"""So much is written before the disk is told to begin; the end then has less to wait for."""


@dataclass(frozen=True, slots=True)
class _Options:
    timeout_s: float
    attempts: int
    max_window_bytes: int
    progress: Progress | None
    on_dropped: Blame | None


async def fetch(
    network: Network,
    source: PeerId,
    ref: FileRef,
    store: FileStore,
    *,
    max_bytes: int,
    addresses: Sequence[str] = (),
    sources: Sequence[FileSource] = (),
    reuse: Reuse | None = None,
    owner: str = "",
    progress: Progress | None = None,
    on_dropped: Blame | None = None,
    timeout_s: float = 30.0,
    attempts: int = 3,
    max_window_bytes: int = MAX_WINDOW_BYTES,
) -> Path:
    """The path of the whole, checked file; at once if the store has it already.

    ``sources`` are more peers that should have the file. Chunks of other files of the store are
    used for this one, of those that ``reuse`` allows where it is given, and half a file that came for
    the same ``owner`` (see ``FileStore.receiving``).
    ``timeout_s`` is for each request; a source that fails ``attempts`` times in a row without a
    byte in between is dropped, and so is one that refuses or lies; ``on_dropped`` is told. What has
    arrived stays for the next time, also after a cancellation. ``max_window_bytes`` is the most that
    is on the way from one source at a time: the memory it takes here, and what a kill costs.

    Raises, once no source is left, what ``source`` was dropped for: TransferError naming it when it
    lied, SourceRefusedError, DeadlineError, ConnectionFailedError or StreamResetError; OSError when
    the disk refuses.
    """
    if ref.size > max_bytes:
        raise TransferError(f"{source} offers a file of {ref.size} bytes, limit {max_bytes}")
    others = [other for other in sources if other.peer_id not in (source, network.peer_id)]
    unique = {other.peer_id: other for other in others[: MAX_SOURCES - 1]}
    async with store.receiving(ref, reuse, owner) as incoming:
        if incoming.whole is not None:
            return incoming.whole
        options = _Options(timeout_s, attempts, max_window_bytes, progress, on_dropped)
        chosen = (FileSource(source, tuple(addresses)), *unique.values())
        return await _Download(network, chosen, ref, store, incoming, options).run()


class _Download:
    """One file, from its sources, over as many connections as it takes."""

    def __init__(
        self,
        network: Network,
        sources: Sequence[FileSource],
        ref: FileRef,
        store: FileStore,
        incoming: Incoming,
        options: _Options,
    ) -> None:
        self._network = network
        self._sources = sources
        self._ref = ref
        self._store = store
        self._incoming = incoming
        self._options = options
        self._pulls = [_Pull(self, source) for source in sources]
        self._schedule: Schedule | None = None
        self._arrivals: list[tuple[_Pull, Span, bytes]] = []
        """Bounded by the windows of the sources."""
        self._unflushed = 0
        self._changed = trio.Event()
        self._beginning = trio.Lock()
        self._disk_failure: OSError | None = None

    async def run(self) -> Path:
        async with background_tasks() as nursery:
            if self._incoming.manifest is not None:
                self._begin()
            for number, pull in enumerate(self._pulls):
                nursery.start_soon(self._start, pull, number > 0)
            while not self._is_complete:
                await self._wait_until(self._has_work)
                if self._arrivals:
                    await self._store_arrived(nursery)
                elif self._is_lost and not self._is_complete:
                    raise self._primary_failure()
                self._check_disk()
        self._check_disk()
        await self._finish()
        path = self._store.path(self._ref.blake3)
        if path is None:
            raise TransferError(f"file {self._ref.blake3} was removed from the store as it arrived")
        return path

    def _has_work(self) -> bool:
        return bool(self._arrivals or self._disk_failure) or self._is_complete or self._is_lost

    @property
    def is_over(self) -> bool:
        """Nothing is left to ask anybody for."""
        return self._is_complete or self._disk_failure is not None

    @property
    def _is_complete(self) -> bool:
        return self._schedule is not None and self._schedule.is_complete

    @property
    def _is_lost(self) -> bool:
        return all(pull.failure is not None for pull in self._pulls)

    def _primary_failure(self) -> P2PError:
        failure = self._pulls[0].failure
        assert failure is not None
        return failure

    async def _start(self, pull: _Pull, is_further: bool) -> None:
        if is_further and self._schedule is None:
            with trio.move_on_after(_SECOND_SOURCE_AFTER_S):
                await self._wait_until(
                    lambda: self._schedule is not None or self._pulls[0].failure is not None
                )
        await pull.run()
        self.wake()

    # -- what pulls ask of the download ----------------------------------------------------------------

    @property
    def schedule(self) -> Schedule | None:
        return self._schedule

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    async def take_manifest(self, encoded: bytes) -> None:
        """Raises TransferError."""
        async with self._beginning:
            if self._schedule is None:
                await self._incoming.begin(encoded)
                self._begin()

    def give_up(self, failure: OSError) -> None:
        """The disk refuses: no source is to blame, and none can help."""
        self._disk_failure = self._disk_failure or failure
        self.wake()

    def take(self, pull: _Pull, span: Span, data: bytes) -> None:
        self._arrivals.append((pull, span, data))
        self.wake()

    # -- inside ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        assert self._incoming.manifest is not None
        ids = [PeerId(source.peer_id) for source in self._sources]
        self._schedule = Schedule(
            self._incoming.manifest, self._incoming.missing(), ids, self._options.max_window_bytes
        )
        self._report()
        self.wake()

    async def _store_arrived(self, nursery: trio.Nursery) -> None:
        """Writes what has arrived, all of it in one go."""
        assert self._schedule is not None
        batch, self._arrivals = self._arrivals, []
        faults = await self._incoming.write([Arrival(span.first, data) for _, span, data in batch])
        for (pull, span, data), bad in zip(batch, faults, strict=True):
            self._schedule.settled(pull.peer_id, span, trio.current_time(), [chunk.index for chunk in bad])
            self._unflushed += len(data)
            if bad:
                pull.drop(TransferError(pull.lied(bad[0].text)))
        if self._unflushed >= _FLUSH_BYTES:
            self._unflushed = 0
            nursery.start_soon(self._flush)
        self._report()
        self.wake()

    def _check_disk(self) -> None:
        """A failed flush is told once: a later one may pass although bytes are lost."""
        if self._disk_failure is not None:
            raise self._disk_failure

    async def _flush(self) -> None:
        try:
            await self._incoming.flush()
        except OSError as error:
            self.give_up(error)

    def _report(self) -> None:
        if self._options.progress is not None:
            self._options.progress(self._incoming.stored, self._ref.size)

    async def _finish(self) -> None:
        try:
            await self._incoming.finish()
        except TransferError as error:
            # Every chunk is what the manifest says: whoever made the reference lied.
            raise TransferError(self._pulls[0].lied(str(error))) from error

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


class _Pull:
    """One source of a download."""

    def __init__(self, download: _Download, source: FileSource) -> None:
        self.peer_id = PeerId(source.peer_id)
        self.failure: P2PError | None = None
        """Why the source was dropped."""
        self._download = download
        self._source = source
        self._trouble: P2PError | None = None
        """Why the current connection is of no more use."""
        self._moved = False
        """Whether anything came since the last trouble."""

    def lied(self, text: str) -> str:
        return f"{self.peer_id} lied about file {self._download._ref.blake3}: {text}"

    def drop(self, failure: P2PError) -> None:
        if self.failure is None:
            log.warning("source dropped", source=self.peer_id, reason=str(failure))
            self.failure = failure
            if self._download._options.on_dropped is not None:
                self._download._options.on_dropped(self.peer_id, failure)
        self._trouble = self._trouble or failure
        self._download.wake()

    async def run(self) -> None:
        """Until the file is complete or the source is dropped."""
        download, failures = self._download, 0
        while self.failure is None and not download.is_over:
            self._trouble, self._moved = None, False
            error = await self._try_once()
            if error is None or self.failure is not None:
                continue
            failures = 1 if self._moved else failures + 1
            if not isinstance(error, _PASSING) or failures >= download._options.attempts:
                self.drop(error)
                continue
            log.info("transfer interrupted", source=self.peer_id, reason=str(error))
            await trio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (failures - 1)))

    async def _try_once(self) -> P2PError | None:
        """One connection, until it ends or there is nothing left to ask for."""
        source, ref = self._source, self._download._ref
        try:
            async with open_client(
                self._download._network,
                self.peer_id,
                PROTOCOL_ID,
                REQUESTS,
                RESPONSES,
                LIMITS,
                addresses=source.addresses,
            ) as client:
                await self._prepare(client)
                await self._get_spans(client)
        except RemoteFailureError as error:
            return SourceRefusedError(f"{self.peer_id} does not give file {ref.blake3}: {error}")
        except TransferError as error:
            return TransferError(self.lied(str(error)))
        except P2PError as error:
            return error
        except OSError as error:
            self._download.give_up(error)
        finally:
            if self._download.schedule is not None:
                self._download.schedule.drop(self.peer_id)
                self._download.wake()
        return None

    async def _prepare(self, client: TransferClient) -> None:
        grant, timeout_s = self._source.grant, self._download._options.timeout_s
        if grant is not None:
            answer, _ = await client.call(ShowGrant(grant), timeout_s=timeout_s)
            if not isinstance(answer, Done):
                raise TransferError(f"answered {type(answer).__name__} to ShowGrant")
        if self._download.schedule is None:
            await self._download.take_manifest(await self._get_manifest(client))

    async def _get_manifest(self, client: TransferClient) -> bytes:
        ref, store = self._download._ref, self._download._store
        assembler = ManifestAssembler(ref.manifest, ref.blake3, ref.size)
        while not assembler.is_complete:
            call = GetManifest(ref.manifest, assembler.offset)
            answer, part = await client.call(call, timeout_s=self._download._options.timeout_s)
            if not isinstance(answer, ManifestPart):
                raise TransferError(f"answered {type(answer).__name__} to GetManifest")
            store.bytes_received += len(part)
            await store.rates.download.wait(len(part))
            assembler.add(answer.total_bytes, part)
        return assembler.encoded

    async def _get_spans(self, client: TransferClient) -> None:
        download, schedule = self._download, self._download.schedule
        assert schedule is not None
        async with background_tasks() as nursery:
            while not schedule.is_complete and self.failure is None:
                if self._trouble is not None:
                    raise self._trouble
                span = schedule.next_span(self.peer_id, trio.current_time())
                if span is None:
                    with trio.move_on_after(_LOOK_AGAIN_S if len(download._pulls) > 1 else float("inf")):
                        await download.changed()
                    continue
                await download._store.rates.download.wait(span.length)
                nursery.start_soon(self._get_span, client, schedule, span)

    async def _get_span(self, client: TransferClient, schedule: Schedule, span: Span) -> None:
        download = self._download
        call = GetRange(download._ref.manifest, span.offset, span.length)
        try:
            answer, data = await client.call(call, timeout_s=download._options.timeout_s)
            download._store.bytes_received += len(data)
            if answer != Range(span.offset):
                raise TransferError(f"answered {answer} to {call}")
            if len(data) != span.length:
                raise TransferError(f"{len(data)} bytes at {span.offset}, asked for {span.length}")
        except P2PError as error:
            self._trouble = self._trouble or error
            download.wake()
            return
        self._moved = True
        schedule.arrived(self.peer_id, span, trio.current_time())
        download.take(self, span, data)


_PASSING = (StreamResetError, ConnectionFailedError, DeadlineError)
