"""Fetching from several sources, from what is held already, within limits, and with other's word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
import trio

from p2p.disk import run_inline
from p2p.errors import P2PError, SourceRefusedError, StreamResetError, TransferError
from p2p.files import FileStore, fetch, serve_transfers
from p2p.grants import sign_grant
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import FileRef
from p2p.network import Network
from p2p.partial import Arrival
from p2p.protocols.transfer import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    FileGrant,
    FileSource,
    GetManifest,
    GetRange,
    ManifestPart,
    Range,
    SignedGrant,
    TransferAnswer,
    TransferCall,
)
from p2p.rates import Rates
from p2p.router import serve_calls
from p2p.store import Reuse
from p2p.testing import MemoryNet
from p2p.transfer import encode_manifest, manifest_hash, manifest_of

A, B, C, TAKER = (Identity.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3, 9))
QUOTA = 1 << 30
CHUNK = 16 << 10
DATA = Random(7).randbytes(64 * CHUNK)
MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))
ENCODED = encode_manifest(MANIFEST)
REF = FileRef(MANIFEST.blake3.hex(), manifest_hash(MANIFEST), MANIFEST.size)
WINDOW = 4 * CHUNK
Answer = tuple[TransferAnswer, bytes]
T = TypeVar("T")


class Giver:
    """A source that answers from memory; ``spoil`` may change what it says, ``delay_s`` makes it slow."""

    def __init__(
        self,
        network: Network,
        *,
        delay_s: float = 0.0,
        spoil: Callable[[GetRange, bytes], bytes] = lambda call, data: data,
        stops_after: int = 1 << 60,
    ) -> None:
        self.peer_id = network.peer_id
        self.sent_bytes = 0
        self._delay_s = delay_s
        self._spoil = spoil
        self._stops_after = stops_after
        serve_calls(network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, self.answer, max_in_flight=1)

    async def answer(self, caller: PeerId, call: TransferCall, body: bytes) -> Answer:
        if isinstance(call, GetManifest):
            return ManifestPart(len(ENCODED)), ENCODED[call.offset :]
        assert isinstance(call, GetRange)
        await trio.sleep(self._delay_s)
        if self.sent_bytes >= self._stops_after:
            await trio.sleep_forever()
        self.sent_bytes += call.length
        return Range(call.offset), self._spoil(call, DATA[call.offset : call.offset + call.length])


class World:
    def __init__(self, net: MemoryNet, directory: Path) -> None:
        self.networks = {identity.peer_id: net.join(identity) for identity in (A, B, C)}
        self.taker = net.join(TAKER)
        self.store = FileStore(directory / "ours", QUOTA, run_inline)
        self.dropped: dict[PeerId, str] = {}

    def giver(self, identity: Identity, **options: object) -> Giver:
        return Giver(self.networks[identity.peer_id], **options)  # type: ignore[arg-type]

    def at(self, identity: Identity, grant: SignedGrant | None = None) -> FileSource:
        return FileSource(identity.peer_id, tuple(self.networks[identity.peer_id].addresses()), grant)

    async def fetch(self, *others: FileSource, reuse: Reuse | None = None, ref: FileRef = REF) -> bytes:
        path = await fetch(
            self.taker,
            A.peer_id,
            ref,
            self.store,
            max_bytes=QUOTA,
            addresses=self.networks[A.peer_id].addresses(),
            sources=others,
            reuse=reuse,
            on_dropped=self.note,
            max_window_bytes=WINDOW,
            timeout_s=20.0,
        )
        return path.read_bytes()

    def note(self, peer_id: PeerId, error: P2PError) -> None:
        self.dropped[peer_id] = str(error)


@asynccontextmanager
async def world(directory: Path, seed: int = 1) -> AsyncIterator[World]:
    async with MemoryNet(seed, latency_s=(0.001, 0.002)) as net:
        yield World(net, directory)


# -- several sources -----------------------------------------------------------------------------


@pytest.mark.virtual_clock
async def test_sources_share_the_work_by_their_speed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        fast, slow = here.giver(A, delay_s=0.01), here.giver(B, delay_s=0.04)
        assert await here.fetch(here.at(B)) == DATA
    assert here.dropped == {}
    assert fast.sent_bytes > 2 * slow.sent_bytes > 0
    assert fast.sent_bytes + slow.sent_bytes <= len(DATA) + 2 * WINDOW


@pytest.mark.virtual_clock
async def test_two_sources_are_faster_than_one(tmp_path: Path) -> None:
    taken = []
    for others in (0, 1):
        async with world(tmp_path / str(others)) as here:
            here.giver(A, delay_s=0.02)
            here.giver(B, delay_s=0.02)
            began = trio.current_time()
            await here.fetch(*[here.at(B)][:others])
            taken.append(trio.current_time() - began)
    assert taken[1] < 0.65 * taken[0]


@pytest.mark.virtual_clock
async def test_a_source_that_stalls_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.giver(A, delay_s=0.01)
        here.giver(B, delay_s=0.01, stops_after=5 * CHUNK)
        began = trio.current_time()
        assert await here.fetch(here.at(B)) == DATA
        assert trio.current_time() - began < 5.0, "long before the deadline of what was asked of the other"


def corrupt(call: GetRange, data: bytes) -> bytes:
    return b"\x66" + data[1:] if call.offset // CHUNK % 4 == 3 else data


@pytest.mark.virtual_clock
@pytest.mark.parametrize("liar", [A, B], ids=["the first", "a further one"])
async def test_a_source_that_lies_is_named_and_dropped_and_the_others_go_on(
    tmp_path: Path, liar: Identity
) -> None:
    async with world(tmp_path) as here:
        givers = {identity: here.giver(identity, delay_s=0.01) for identity in (A, B, C) if identity != liar}
        here.giver(liar, delay_s=0.01, spoil=corrupt)
        assert await here.fetch(here.at(B), here.at(C)) == DATA
    assert list(here.dropped) == [liar.peer_id]
    assert f"{liar.peer_id} lied about file {REF.blake3}: chunk " in here.dropped[liar.peer_id]
    sent = sum(giver.sent_bytes for giver in givers.values())
    assert len(DATA) // 2 < sent <= len(DATA) + 2 * WINDOW


def corrupt_in_the_end(call: GetRange, data: bytes) -> bytes:
    return data if call.offset < len(DATA) // 2 else b"\x66" + data[1:]


@pytest.mark.virtual_clock
async def test_with_liars_only_the_first_is_what_is_raised_and_good_chunks_are_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for identity in (A, B):
            here.giver(identity, spoil=corrupt_in_the_end)
        with pytest.raises(TransferError, match=f"{A.peer_id} lied about file"):
            await here.fetch(here.at(B))
        assert set(here.dropped) == {A.peer_id, B.peer_id}
        honest = here.giver(A)
        assert await here.fetch() == DATA
        assert honest.sent_bytes <= len(DATA) // 2 + 2 * WINDOW


@pytest.mark.virtual_clock
async def test_a_source_that_does_not_have_the_file_or_is_not_there_costs_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.giver(B)
        serve_transfers(
            here.networks[A.peer_id], FileStore(tmp_path / "empty", QUOTA, run_inline), lambda *_: True
        )
        nowhere = FileSource(Identity.from_seed(b"\x0f" * 32).peer_id)
        assert await here.fetch(here.at(B), nowhere) == DATA
    assert "not_found" in here.dropped[A.peer_id]


@pytest.mark.virtual_clock
async def test_a_source_named_twice_or_oneself_is_asked_once(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        giver = here.giver(A)
        itself = FileSource(TAKER.peer_id, tuple(here.taker.addresses()))
        assert await here.fetch(here.at(A), here.at(A), itself) == DATA
    assert giver.sent_bytes == len(DATA)
    assert here.dropped == {}


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seed", range(8))
async def test_sources_come_and_go_and_the_file_arrives(tmp_path: Path, seed: int) -> None:
    """Each of three sources is cut off again and again, at random moments, and returns."""
    draws = Random(seed)
    async with MemoryNet(seed, latency_s=(0.001, 0.02)) as net:
        here = World(net, tmp_path)
        for identity in (A, B, C):
            here.giver(identity, delay_s=draws.uniform(0.005, 0.05))
        done = False

        async def disturb() -> None:
            while not done:
                await trio.sleep(draws.uniform(0.05, 0.4))
                victim = draws.choice((A, B, C)).peer_id
                net.partition(victim, TAKER.peer_id)
                await trio.sleep(draws.uniform(0.01, 0.1))
                net.heal(victim, TAKER.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disturb)
            while not done:
                try:
                    done = await here.fetch(here.at(B), here.at(C)) == DATA
                except P2PError:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


# -- cancellation --------------------------------------------------------------------------------


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seed", range(10))
async def test_a_fetch_cancelled_at_any_moment_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    draws = Random(seed)
    async with world(tmp_path, seed) as here:
        givers = [here.giver(identity, delay_s=0.01) for identity in (A, B)]
        cancellations = 0
        while here.store.path(REF.blake3) is None:
            with trio.move_on_after(draws.uniform(0.0, 0.2)) as scope:
                assert await here.fetch(here.at(B)) == DATA
            cancellations += scope.cancelled_caught
    assert cancellations > 0
    sent = sum(giver.sent_bytes for giver in givers)
    assert sent <= len(DATA) + 2 * (cancellations + 1) * WINDOW
    assert here.store.used_bytes == len(DATA)


# -- what is held already ------------------------------------------------------------------------


async def held_and_new(here: World, directory: Path, held: bytes, new: bytes) -> tuple[FileStore, FileRef]:
    await here.store.add_bytes(held)
    theirs = FileStore(directory / "theirs", QUOTA, run_inline)
    serve_transfers(here.networks[A.peer_id], theirs, lambda *_: True)
    return theirs, await theirs.add_bytes(new)


@pytest.mark.virtual_clock
async def test_what_another_file_holds_does_not_travel(tmp_path: Path) -> None:
    held = Random(3).randbytes(4 << 20)
    new = held[: 1 << 20] + b"a line more" + held[1 << 20 :]
    async with world(tmp_path) as here:
        theirs, ref = await held_and_new(here, tmp_path, held, new)
        assert await here.fetch(ref=ref) == new
    assert theirs.bytes_sent < 0.1 * len(new)


@pytest.mark.virtual_clock
async def test_files_that_may_not_be_used_are_not(tmp_path: Path) -> None:
    held = Random(3).randbytes(2 << 20)
    async with world(tmp_path) as here:
        theirs, ref = await held_and_new(here, tmp_path, held, held + b"more")
        asked: list[str] = []

        def reuse(file_hash: str) -> bool:
            asked.append(file_hash)
            return False

        assert await here.fetch(ref=ref, reuse=reuse) == held + b"more"
    assert len(asked) == 1
    assert theirs.bytes_sent > len(held)


@pytest.mark.virtual_clock
async def test_a_held_file_that_rotted_is_found_out_and_fetched_instead(tmp_path: Path) -> None:
    held = Random(3).randbytes(4 << 20)
    async with world(tmp_path) as here:
        theirs, ref = await held_and_new(here, tmp_path, held, held + b"more")
        (file,) = (tmp_path / "ours" / "files").iterdir()
        file.write_bytes(bytes(len(held)))
        assert await here.fetch(ref=ref) == held + b"more"
    assert theirs.bytes_sent > len(held)


# -- another's word ------------------------------------------------------------------------------

ENGINE = C
NOW = 1_000_000.0


def grant(issuer: Identity = ENGINE, subject: Identity = TAKER, expires_at: float = NOW + 60) -> SignedGrant:
    files = (REF.manifest, "cd" * 32)
    return sign_grant(FileGrant(issuer.peer_id, subject.peer_id, files, expires_at), issuer.sign)


async def holder(here: World, directory: Path, now: Callable[[], float] = lambda: NOW) -> FileStore:
    """B holds the file for the Engine and for nobody else; the Engine itself is not reachable."""
    theirs = FileStore(directory / "theirs", QUOTA, run_inline)
    async with theirs.receiving(REF) as incoming:
        await incoming.begin(ENCODED)
        await incoming.write([Arrival(0, DATA)])
        await incoming.finish()
    serve_transfers(
        here.networks[B.peer_id],
        theirs,
        lambda caller, manifest: (caller, manifest) == (ENGINE.peer_id, REF.manifest),
        now,
    )
    serve_calls(here.networks[A.peer_id], PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, hang_up)
    return theirs


async def hang_up(caller: PeerId, call: TransferCall, body: bytes) -> Answer:
    raise StreamResetError("not now")


@pytest.mark.virtual_clock
async def test_the_owners_word_opens_a_file_at_another_peer(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        theirs = await holder(here, tmp_path)
        assert await here.fetch(here.at(B, grant())) == DATA
    assert theirs.bytes_sent >= len(DATA)


@pytest.mark.virtual_clock
@pytest.mark.parametrize(
    ("word", "text"),
    [
        (None, f"{TAKER.peer_id} may not fetch {REF.manifest}"),
        (grant(issuer=A), f"{A.peer_id} may not fetch {REF.manifest}, {'cd' * 32}"),
        (grant(issuer=TAKER), f"{TAKER.peer_id} may not fetch {REF.manifest}"),
        (grant(subject=A), f"grant for {A.peer_id}, shown by {TAKER.peer_id}"),
        (grant(expires_at=NOW), "grant until 1000000, allowed"),
        (SignedGrant(grant().payload, bytes(64)), "not signed by its issuer"),
    ],
)
async def test_any_other_word_does_not(tmp_path: Path, word: SignedGrant | None, text: str) -> None:
    async with world(tmp_path) as here:
        theirs = await holder(here, tmp_path)
        with pytest.raises(SourceRefusedError):
            await here.fetch(here.at(B, word))
    assert text in here.dropped[B.peer_id]
    assert "unauthorized" in here.dropped[B.peer_id]
    assert theirs.bytes_sent == 0


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.virtual_clock
@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_a_limit_holds_over_all_transfers_of_a_program(tmp_path: Path, direction: str) -> None:
    rates = Rates.of(**{direction: 100_000})
    async with world(tmp_path) as here:
        limited = FileStore(tmp_path / "limited", QUOTA, run_inline, rates)
        free = FileStore(tmp_path / "free", QUOTA, run_inline)
        ours, theirs = (limited, free) if direction == "download" else (free, limited)
        refs = [await theirs.add_bytes(Random(seed).randbytes(500_000)) for seed in (1, 2)]
        serve_transfers(here.networks[A.peer_id], theirs, lambda *_: True)
        await here.taker.connect(A.peer_id, here.networks[A.peer_id].addresses())
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for ref in refs:
                nursery.start_soon(lambda ref=ref: fetch(here.taker, A.peer_id, ref, ours, max_bytes=QUOTA))
        took_s = trio.current_time() - began
    # The last span moves as soon as those before it are paid for.
    assert 10.0 - 0.25 - 2.7 < took_s < 11.0


@pytest.mark.virtual_clock
async def test_a_receiver_whose_disk_stalls_holds_no_more_than_a_window(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        giver = here.giver(A)
        stalled = False

        async def run(function: Callable[..., T], *arguments: object) -> T:
            if stalled and getattr(function, "__name__", "") == "write":
                await trio.sleep_forever()
            return await run_inline(function, *arguments)

        here.store = FileStore(tmp_path / "stalling", QUOTA, run)
        with trio.move_on_after(60.0):
            stalled = True
            await here.fetch()
        assert 0 < giver.sent_bytes <= WINDOW
        assert here.store.bytes_received == giver.sent_bytes + len(ENCODED)
