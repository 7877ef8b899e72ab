"""The window against a real coordinator and peer on loopback: wallet, job, payment, model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from local_network import LocalNetwork, loopback_environment

from engine_app.config import Config
from engine_app.ui.examples import DIGITS, DIGITS_DATA
from p2p.identifiers import Units

pytestmark = pytest.mark.e2e
TOKEN = 10**9
PATIENCE_S = 120
"""For what several processes do, on a machine that does much else."""


async def test_a_job_is_submitted_from_the_window_followed_to_its_end_and_paid(
    open_window: Any, tmp_path: Path
) -> None:
    loopback_environment()
    network = LocalNetwork(tmp_path)
    try:
        await trio.to_thread.run_sync(network.start_coordinator)
        await trio.to_thread.run_sync(lambda: network.start_peer("peer", "10", "--gpus", "none"))
        config = Config(tmp_path / "window", network.address, None, "error")
        async with open_window(config=config) as (window, driver):
            await _buy_and_train(window, driver, tmp_path)
            await _deploy_and_ask(window, driver, tmp_path / "mine.cyxmodel")
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(network.stop)


async def _buy_and_train(window: Any, driver: Any, directory: Path) -> None:
    from engine_app.ui.network import JobWish

    engine, purse = window.network, window.purse
    with trio.fail_after(240):
        purse.create("")
        await _until(driver, lambda: not purse.busy and engine.state == "online" and bool(engine.peers))
        assert purse.problem == ""
        purse.airdrop(Units(100 * TOKEN))
        await _until(driver, lambda: not purse.busy)
        assert (purse.problem, purse.units) == ("", 100 * TOKEN)
        window.show_page("jobs")
        window.desk.open(DIGITS)
        engine.ask_estimate(window.desk.graph, DIGITS_DATA, 4)
        await _until(driver, lambda: not engine.busy)
        assert engine.problem == ""
        assert engine.estimate["quotes"][0]["amount"] > 0
        engine.submit(window.desk.graph, DIGITS_DATA, JobWish(5 * TOKEN))
        await _until(driver, lambda: bool(engine.jobs) and engine.jobs[0]["state"] == "settled")
        (job,) = engine.jobs
        window.content.choose(job["job_id"])
        await driver.frames(3)
        story = engine.stories[job["job_id"]]
        assert len(story.run.curves["loss"]) > 0
        assert any("settled" in line for line in story.lines)
        reasons: list[Any] = []
        engine.explain(job["job_id"], reasons.append)
        await _until(driver, lambda: not engine.busy)
        assert job["peer_id"] in str(reasons[0]["lines"])
        engine.fetch(job["job_id"], directory / "mine.cyxmodel")
        await _until(driver, lambda: not engine.busy)
        assert engine.problem == ""
        assert (await trio.Path(directory / "mine.cyxmodel").stat()).st_size == job["result"]["size"]
        window.show_page("wallet")
        purse.refresh()
        await _until(driver, lambda: not purse.busy)
        assert purse.units == 100 * TOKEN - sum(escrow["earned"] for escrow in job["escrows"])


async def _deploy_and_ask(window: Any, driver: Any, model: Path) -> None:
    """At the peer that trained it, drawn on by hand, and stopped: what was not served comes back."""
    from engine_app.ui.network import PeerWish
    from engine_app.ui.widgets.facts import ShareBar

    engine, purse = window.network, window.purse
    with trio.fail_after(240):
        before = purse.units
        engine.deploy(PeerWish(model, "digits", None, "", 5, 1, TOKEN))
        await _until(driver, lambda: not engine.busy)
        assert engine.problem == ""
        window.show_page("deploy")
        page = window.content
        await _until(driver, lambda: page.try_it is not None and page.try_it.pad is not None)
        (one,) = engine.deployments
        assert one["is_running"] and one["left_s"] <= 300
        page.try_it.pad.draw([[(0.5, 0.9), (0.5, 0.1)]])
        await _until(driver, lambda: any(isinstance(e, ShareBar) for e in page.walk(restrict=True)))
        await _until(driver, lambda: engine.statuses[one["id"]]["requests"] > 0)
        engine.order("cancel", one["id"])
        await _until(driver, lambda: not engine.busy)
        assert engine.problem == ""
        await _until(driver, lambda: page.chosen.is_over)
        paid = engine.deployments[0]["paid"]
        purse.refresh()
        await _until(driver, lambda: not purse.busy)
        assert paid < TOKEN // 2
        assert before - purse.units <= TOKEN  # what is not settled yet is on its way


async def _until(driver: Any, holds: Any) -> None:
    while not holds():
        await driver.frames(1)


class Silent:
    """A session whose other side never answers."""

    engine = None

    async def ask(self, method: str, tell: Any = None, /, **parameters: Any) -> Any:
        await trio.sleep_forever()


async def test_an_order_that_takes_too_long_is_called_off_with_a_tap(open_window: Any) -> None:
    from engine_app.ui.widgets.buttons import PushButton

    async with open_window() as (window, driver):
        window.open_example()
        window.show_page("jobs")
        engine = window.network
        engine._session = Silent()
        engine.ask_estimate(window.desk.graph, DIGITS_DATA, 1)

        def button() -> Any:
            found = (each for each in window.content.walk() if isinstance(each, PushButton))
            return next((each for each in found if each.text == "Call off"), None)

        await driver.until(lambda: button() is not None)
        await driver.frames(3)
        await driver.tap(button())
        await driver.until(lambda: not engine.busy)
        assert engine.problem.startswith("Estimating: called off")
        await driver.until(lambda: button() is None)


async def test_a_new_connection_waits_for_the_end_of_the_one_before(open_window: Any) -> None:
    async with open_window() as (window, driver):
        engine, told = window.network, []
        engine.listen(lambda: told.append(engine.text))
        for _ in range(2):
            engine.connect()
            with trio.fail_after(60):
                await _until(driver, lambda: engine.state in ("online", "away"))
        assert not [text for text in told if "in use" in text]
        engine.connect()
        engine.disconnect()
        await driver.frames(5)
        assert engine.state == "off"


async def test_without_a_coordinator_the_window_says_so_and_goes_on(open_window: Any, tmp_path: Path) -> None:
    config = Config(tmp_path / "alone", None, None, "error")
    async with open_window(config=config) as (window, driver):
        window.show_page("jobs")
        engine = window.network
        assert engine.state == "off"
        key = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
        engine.connect(f"/ip4/127.0.0.1/tcp/9/p2p/{key}")
        with trio.fail_after(60):
            await _until(driver, lambda: "Trying again" in engine.text)
        from engine_app.ui.network import JobWish

        engine.submit(window.desk.graph, DIGITS_DATA, JobWish(1))
        await _until(driver, lambda: not engine.busy)
        assert engine.problem == "not connected"
        engine.disconnect()
        assert engine.state == "off"


async def test_a_window_finds_a_coordinator_that_comes_later_and_again_after_it_was_away(
    open_window: Any, tmp_path: Path
) -> None:
    loopback_environment()
    network = LocalNetwork(tmp_path)
    config = Config(tmp_path / "window", None, None, "error")
    try:
        async with open_window(config=config) as (window, driver):
            window.show_page("jobs")
            engine = window.network
            assert engine.state == "off"
            await trio.to_thread.run_sync(network.start_coordinator)
            await _connect_by_hand(window, driver, network.address)
            with trio.fail_after(PATIENCE_S):
                await _until(driver, lambda: engine.state == "online")
            await trio.to_thread.run_sync(network.programs["coordinator"].stop)
            with trio.fail_after(PATIENCE_S):
                await _until(driver, lambda: engine.state != "online")
            assert "rying again" in engine.text  # and on the page, which follows it
            await trio.to_thread.run_sync(network.programs["coordinator"].start)
            with trio.fail_after(PATIENCE_S):
                await _until(driver, lambda: engine.state == "online")
            assert engine.problem == ""
        async with open_window(config=config) as (window, driver):
            with trio.fail_after(PATIENCE_S):  # the address is remembered
                await _until(driver, lambda: window.network.state == "online")
    finally:
        await trio.to_thread.run_sync(network.stop)


async def _connect_by_hand(window: Any, driver: Any, address: str) -> None:
    from engine_app.ui.widgets.buttons import PushButton
    from engine_app.ui.widgets.fields import TextField

    await driver.frames(4)
    field = next(each for each in window.content.walk() if isinstance(each, TextField))
    field.input.focus = True
    await driver.frames(2)
    field.input.text = address
    field.input.focus = False
    await driver.frames(2)
    await driver.tap(
        next(e for e in window.content.walk() if isinstance(e, PushButton) and e.text == "Connect")
    )
