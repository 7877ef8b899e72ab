"""What becomes of a worker that dies, hangs, or takes more than its share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from backend.errors import WorkerDiedError, WorkerError
from backend.reports import Event, Failed, Finished, Ping, Train
from backend.workers.process import MAX_FILES, usage
from backend.workers.supervisor import PoolConfig, Worker, open_pool

pytestmark = pytest.mark.e2e

Command = Callable[..., Train]


async def death_of(worker: Worker) -> str:
    """Takes events until the worker is found dead; why it died."""
    with trio.fail_after(90), pytest.raises(WorkerDiedError) as caught:
        while True:
            await worker.receive()
    assert not worker.directory.exists()
    assert not worker.is_alive
    with pytest.raises(WorkerDiedError):
        await worker.send(Train("d", None, 1, 0, 1, "cpu"))
    return str(caught.value)


async def test_a_prewarmed_worker_is_handed_out_at_once_and_replaced(tmp_path: Path) -> None:
    config = PoolConfig(tmp_path / "w", prewarmed=1, threads=1, refill_delay_s=0)
    async with open_pool(config) as pool:
        await pool.wait_warm()
        assert pool.idle == 1
        first = await pool.acquire()
        assert pool.idle == 0
        await pool.wait_warm()
        second = await pool.acquire()
        assert first.pid != second.pid
        assert first.directory != second.directory
        assert first.directory.stat().st_mode & 0o777 == 0o700
        assert {"seccomp", "rlimits"} <= set(first.ready.sandbox)
        await first.aclose()
        assert not first.directory.exists()
    assert list((tmp_path / "w").iterdir()) == []


def open_files(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


async def test_a_worker_inherits_nothing_but_its_connection_and_its_output(open_worker) -> None:
    async with open_worker() as worker:
        links = open_files(worker.pid)
    assert sorted(link.partition(":")[0] for link in links) == ["/dev/null", "pipe", "pipe", "socket"]


async def test_a_worker_that_fills_the_disk_is_killed(open_worker) -> None:
    async with open_worker(disk_bytes=1 << 20) as worker:
        (worker.directory / "a").write_bytes(bytes(1 << 20))
        assert await death_of(worker) == "disk: 1 MB held, limit 1 MB"


async def test_a_worker_that_makes_very_many_files_is_killed(open_worker) -> None:
    async with open_worker() as worker:
        for number in range(MAX_FILES + 1):
            (worker.directory / str(number)).touch()
        assert await death_of(worker) == f"files: {MAX_FILES + 1} or more, limit {MAX_FILES}"


async def test_a_worker_with_very_many_threads_is_killed(open_worker) -> None:
    async with open_worker(max_threads=1) as worker:
        assert re.fullmatch(r"threads: \d+ run, limit 1", await death_of(worker))


def test_files_that_were_removed_and_are_still_open_count(tmp_path: Path) -> None:
    before = usage(os.getpid(), tmp_path).disk_bytes
    with (tmp_path / "gone").open("wb") as file:
        file.write(bytes(5 << 20))
        file.flush()
        (tmp_path / "gone").unlink()
        assert usage(os.getpid(), tmp_path).disk_bytes - before >= 5 << 20


async def test_a_killed_worker_says_so(open_worker) -> None:
    async with open_worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        assert await death_of(worker) == "killed by SIGKILL"


async def test_a_worker_that_hangs_is_ended(open_worker) -> None:
    async with open_worker(hang_s=4) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        assert (await death_of(worker)).startswith("hangs: no answer for")


async def test_a_training_step_that_never_ends_is_ended(
    open_worker, long_graph: bytes, train: Command
) -> None:
    """Ends at the first step, since a stall of no length at all is allowed."""
    async with open_worker(stall_s=-1) as worker:
        await worker.send(train(), long_graph)
        await worker.send(Ping())
        assert (await death_of(worker)).startswith("stalls: one step for")


async def test_a_worker_over_its_time_is_ended(open_worker, long_graph: bytes, train: Command) -> None:
    async with open_worker(wall_clock_s=3) as worker:
        await worker.send(train(), long_graph)
        assert (await death_of(worker)) == "time: over its 3 s"


async def test_a_worker_over_its_memory_is_ended(tmp_path: Path) -> None:
    """torch alone holds more than this budget."""
    async with open_pool(PoolConfig(tmp_path / "w", memory_bytes=32 << 20)) as pool:
        with pytest.raises(WorkerDiedError, match=r"memory: \d+ MB held, limit 32 MB"):
            await pool.acquire()


async def test_one_worker_that_dies_leaves_the_others_alone(
    tmp_path: Path, data: Path, graph: bytes, train: Command
) -> None:
    contents = await trio.Path(data).read_bytes()
    config = PoolConfig(tmp_path / "w", prewarmed=2, threads=1, refill_delay_s=1000)
    async with open_pool(config) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        (second.directory / "data.safetensors").write_bytes(contents)
        await second.send(train(), graph)
        first.kill()
        await death_of(first)
        event: Event | None = None
        while not isinstance(event, Finished):
            event, _ = await second.receive(60)


async def test_a_file_that_is_a_link_is_not_taken_from_a_worker(open_worker, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    async with open_worker() as worker:
        (worker.directory / "link").symlink_to(tmp_path / "secret")
        (worker.directory / "folder").mkdir()
        for name in ("link", "folder", "absent", "../secret", "."):
            with pytest.raises(WorkerError):
                worker.path(name)


async def test_a_sandbox_that_cannot_be_had_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkerError, match="neither landlock nor bubblewrap"):
        async with open_pool(PoolConfig(tmp_path / "w", sandbox="bwrap")):
            pass


async def test_a_pool_without_room_says_why_and_recovers(tmp_path: Path) -> None:
    async with open_pool(PoolConfig(tmp_path / "w", prewarmed=0, threads=1)) as pool:
        (tmp_path / "w").rmdir()
        with pytest.raises(WorkerDiedError, match="no worker: no directory for it"):
            await pool.acquire()
        (tmp_path / "w").mkdir()
        await pool.acquire()


async def test_too_many_workers_are_refused(tmp_path: Path) -> None:
    async with open_pool(PoolConfig(tmp_path / "w", prewarmed=0, max_workers=1, threads=1)) as pool:
        await pool.acquire()
        with pytest.raises(WorkerError, match="1 workers run, limit 1"):
            await pool.acquire()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_it_trains_inside_bubblewrap(open_worker, graph: bytes, train: Command) -> None:
    async with open_worker(sandbox="bwrap") as worker:
        assert "bubblewrap" in worker.ready.sandbox
        await worker.send(train(), graph)
        event: Event | None = None
        while not isinstance(event, Finished):
            event, _ = await worker.receive(60)
            assert not isinstance(event, Failed), event


PARENT = """
import sys, trio
from pathlib import Path
from backend.workers.supervisor import PoolConfig, open_pool

async def main():
    async with open_pool(PoolConfig(Path(sys.argv[1]), threads=1)) as pool:
        worker = await pool.acquire()
        print("pid", worker.pid, "end", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "w")]
    async with trio.open_nursery() as nursery:
        parent = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
        printed = b""
        while not (found := re.search(rb"pid (\d+) end", printed)):
            printed += await parent.stdout.receive_some()
        pid = int(found[1])
        watched = os.pidfd_open(pid)
        try:
            parent.kill()
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(watched)
        finally:
            os.close(watched)
