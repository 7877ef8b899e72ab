from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2p.errors import SourceRefusedError, TransferError
from p2p.files import FileStore
from p2p.identifiers import PeerId
from p2p.jobs import FileRef
from p2p.store import Reuse
from peer.artifacts import KEEP_FETCHED_S, KEEP_UNFETCHED_S, Artifacts, FetchUsing
from peer.events import OfferAccepted
from peer.job import (
    Job,
    new_job,
    transition,
)
from peer.store import open_store
from tests.unit.peer.make import ENGINE_ID, NOW, make_offer

ENGINE, STRANGER = PeerId(ENGINE_ID), PeerId("12D3KooWStrangerStranger")


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Artifacts]:
    async with open_store(tmp_path / "db") as store:
        artifacts = Artifacts(FileStore(tmp_path / "files", 1 << 20), store)
        await artifacts.load()
        yield artifacts


def job() -> Job:
    return transition(new_job(make_offer()), OfferAccepted(NOW))[0]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def test_only_the_engine_of_the_job_may_fetch_its_result_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        result = await artifacts.add_result(job(), written(tmp_path / "m", b"model"), NOW)
    async with opened(tmp_path) as artifacts:
        assert artifacts.may_fetch(ENGINE, result.manifest)
        assert not artifacts.may_fetch(STRANGER, result.manifest)
        assert artifacts.is_result_of(result.blake3, job().job_id, ENGINE)
        assert not artifacts.is_result_of(result.blake3, job().job_id, STRANGER)
        assert not artifacts.is_result_of(result.blake3, "f" * 64, ENGINE)


async def test_a_fetched_result_is_kept_an_hour_and_then_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        result = await artifacts.add_result(job(), written(tmp_path / "m", b"model"), NOW)
        await artifacts.mark_fetched(job(), NOW + 10)
        await artifacts.drop_old_results(NOW + 10 + KEEP_FETCHED_S)
        assert artifacts.files.path(result.blake3) is not None
        await artifacts.drop_old_results(NOW + 11 + KEEP_FETCHED_S)
        assert artifacts.files.path(result.blake3) is None
        assert not artifacts.may_fetch(ENGINE, result.manifest)


async def test_a_result_that_nobody_fetched_is_kept_a_week(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        result = await artifacts.add_result(job(), written(tmp_path / "m", b"model"), NOW)
        await artifacts.drop_old_results(NOW + KEEP_UNFETCHED_S)
        assert artifacts.files.path(result.blake3) is not None
        await artifacts.drop_old_results(NOW + KEEP_UNFETCHED_S + 1)
        assert artifacts.files.path(result.blake3) is None


async def test_vouchered_checkpoints_go_and_the_newest_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        first, second = [
            await artifacts.add_checkpoint(job(), written(tmp_path / "c", content))
            for content in (b"1", b"2")
        ]
        artifacts.drop_checkpoints(job(), keep=1)
        assert artifacts.files.path(first.blake3) is None
        assert artifacts.files.path(second.blake3) is not None
        artifacts.drop_checkpoints(job())
        assert artifacts.files.path(second.blake3) is None


async def test_a_result_that_is_missing_on_disk_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        result = await artifacts.add_result(job(), written(tmp_path / "m", b"model"), NOW)
        artifacts.files.remove(result.blake3)
    async with opened(tmp_path) as artifacts:
        assert not artifacts.has_result(result.blake3)


async def test_a_file_that_another_engine_brought_is_asked_for_before_it_counts(tmp_path: Path) -> None:
    source = FileStore(tmp_path / "source", 1 << 20)
    file = await source.add_bytes(b"samples")
    asked: list[str] = []

    def bring(who: str, artifacts: Artifacts) -> FetchUsing:
        async def fetch_using(reuse: Reuse) -> Path:
            async with artifacts.files.receiving(file, reuse) as incoming:
                if incoming.whole is not None:
                    return incoming.whole
            asked.append(who)
            if who == "stranger":
                raise SourceRefusedError("has no such file")
            await artifacts.files.add_bytes(b"samples")
            path = artifacts.files.path(file.blake3)
            assert path is not None
            return path

        return fetch_using

    async with opened(tmp_path) as artifacts:
        path = await artifacts.receive(file, ENGINE, bring("engine", artifacts))
        with pytest.raises(SourceRefusedError):
            await artifacts.receive(file, STRANGER, bring("stranger", artifacts))
        assert not artifacts.may_fetch(STRANGER, file.manifest)
        assert await artifacts.receive(file, ENGINE, bring("engine", artifacts)) == path
    async with opened(tmp_path) as artifacts:  # also remembered over a restart
        await artifacts.receive(file, ENGINE, bring("engine", artifacts))
        assert asked == ["engine", "stranger"]
        await artifacts.receive(file, STRANGER, bring("friend", artifacts))
        await artifacts.receive(file, STRANGER, bring("friend", artifacts))
        assert asked == ["engine", "stranger", "friend"]


async def test_an_engine_may_have_back_what_it_brought_and_lets_others_have_it(tmp_path: Path) -> None:
    source = FileStore(tmp_path / "source", 1 << 20)
    file = await source.add_bytes(b"samples")

    async with opened(tmp_path) as artifacts:

        async def fetch_using(reuse: Reuse) -> Path:
            await artifacts.files.add_bytes(b"samples")
            return tmp_path

        assert not artifacts.may_fetch(ENGINE, file.manifest)
        await artifacts.receive(file, ENGINE, fetch_using)
        assert artifacts.may_fetch(ENGINE, file.manifest)
        assert not artifacts.may_fetch(STRANGER, file.manifest)
        artifacts.files.remove(file.blake3)
        await artifacts.drop_old_results(NOW)
        assert not artifacts.may_fetch(ENGINE, file.manifest), "it is not here any more"


async def test_an_own_file_under_another_engines_manifest_opens_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        secret = await artifacts.files.add_bytes(b"secret")
        artifacts.hold(secret, ENGINE)
        own = await artifacts.files.add_bytes(b"own")

        def naming(file: FileRef) -> FetchUsing:
            async def fetch_using(reuse: Reuse) -> Path:
                async with artifacts.files.receiving(file, reuse) as incoming:
                    if incoming.whole is None:
                        raise SourceRefusedError("no such manifest")
                    return incoming.whole

            return fetch_using

        await artifacts._store.note_brought(own.blake3, STRANGER)
        await artifacts.receive(own, STRANGER, naming(own))
        mixed = FileRef(own.blake3, secret.manifest, own.size)
        with pytest.raises(SourceRefusedError):
            await artifacts.receive(mixed, STRANGER, naming(mixed))
        assert not artifacts.may_fetch(STRANGER, secret.manifest)


async def test_what_a_running_job_needs_does_not_give_way_to_what_arrives(tmp_path: Path) -> None:
    async with opened(tmp_path) as artifacts:
        running = job()

        async def fetch_using(reuse: Reuse) -> Path:
            await artifacts.files.add_bytes(b"d" * (300 << 10))
            return tmp_path

        data = await FileStore(tmp_path / "source", 1 << 20).add_bytes(b"d" * (300 << 10))
        await artifacts.receive(data, ENGINE, fetch_using, running.lease.lease_id)
        checkpoint = await artifacts.add_checkpoint(running, written(tmp_path / "c", b"c" * (300 << 10)))
        with pytest.raises(TransferError, match="in use"):
            await artifacts.files.add_bytes(b"1" * (600 << 10))
        artifacts.end_work(running)
        await artifacts.files.add_bytes(b"1" * (600 << 10))
        assert artifacts.files.path(data.blake3) is None
        assert artifacts.files.path(checkpoint.blake3) is not None
        artifacts.end_job(running)
        await artifacts.files.add_bytes(b"2" * (900 << 10))
        assert artifacts.files.path(checkpoint.blake3) is None


async def test_a_checkpoint_that_another_job_starts_from_outlives_its_own_job(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as artifacts:
        made = await artifacts.add_checkpoint(job(), written(tmp_path / "c", b"weights"))
        artifacts.files.use(made.blake3, "the next lease")
        artifacts.drop_checkpoints(job())
        artifacts.end_job(job())
        assert artifacts.files.path(made.blake3) is not None
        assert artifacts.may_fetch(ENGINE, made.manifest)
