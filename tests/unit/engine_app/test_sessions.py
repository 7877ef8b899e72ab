"""Commands that are given at the same time take turns on a data directory."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from engine_app.config import Config
from engine_app.sessions import open_session
from p2p.datadir import DataDir


async def test_a_command_waits_for_one_that_has_not_yet_begun_to_answer(tmp_path: Path) -> None:
    async def ask() -> None:
        async with open_session(Config(tmp_path, None, None, "error"), lan=True) as session:
            assert await session.ask("jobs") == []

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with DataDir.open(tmp_path, "another command"):
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
