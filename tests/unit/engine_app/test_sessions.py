"""Commands that are given at the same time take turns on a data directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from engine_app.config import Config
from engine_app.jobs import with_session
from engine_app.sessions import EngineEndedError, Session, open_session
from p2p.datadir import DataDir
from p2p.session.places import Places


async def test_a_command_waits_for_one_that_has_not_yet_begun_to_answer(tmp_path: Path) -> None:
    async def ask() -> None:
        async with open_session(Config(tmp_path, None, None, "error"), lan=True) as session:
            assert await session.ask("jobs") == []

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with DataDir.open(tmp_path, "another command"):
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()


async def test_a_command_waits_for_one_that_ends_while_it_looks(tmp_path: Path) -> None:
    async def ask() -> None:
        async with open_session(Config(tmp_path, None, None, "error"), lan=True) as session:
            assert await session.ask("jobs") == []

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with DataDir.open(tmp_path, "another command"):
                control = Places(tmp_path).control
                with trio.socket.socket(trio.socket.AF_UNIX) as listener:
                    await listener.bind(str(control))
                    listener.listen()
                    nursery.start_soon(ask)
                    looking, _ = await listener.accept()
                    looking.close()
                control.unlink()
                await trio.testing.wait_all_tasks_blocked()


async def test_a_command_is_told_that_the_engine_it_asks_has_ended(tmp_path: Path) -> None:
    config = Config(tmp_path, None, None, "error")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            ended = trio.Event()

            async def lend() -> None:
                async with open_session(config, lan=True) as session:
                    nursery.start_soon(borrow, session)
                    await borrowed.wait()
                ended.set()

            async def borrow(_: Session) -> None:
                async with open_session(config, lan=True) as session:
                    assert session.engine is None
                    borrowed.set()
                    await ended.wait()
                    with pytest.raises(EngineEndedError):
                        await session.ask("jobs")

            borrowed = trio.Event()
            nursery.start_soon(lend)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_command_that_can_go_on_does_so_with_an_engine_of_its_own(
    tmp_path: Path, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[Session] = []

    async def use(session: Session) -> None:
        used.append(session)
        async with trio.open_nursery() as nursery:
            if len(used) == 1:
                nursery.start_soon(end)

    async def end() -> None:
        raise EngineEndedError("the other command has ended")

    config = Config(tmp_path, None, None, "error")
    if goes_on:
        with_session(config, use, lan=True, goes_on=True)
    else:
        with pytest.raises(SystemExit):
            with_session(config, use, lan=True)
        assert "the other command has ended" in capsys.readouterr().err
    assert len(used) == (2 if goes_on else 1)
