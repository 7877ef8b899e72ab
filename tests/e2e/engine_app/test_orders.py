"""What a user may say of a job, of data and of a node's training, by taps, and what is asked for then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.graph import Frozen, Lora
from engine_app.ui.examples import DIGITS, DIGITS_DATA
from tests.unit.backend.model_files import image_model, save

pytestmark = pytest.mark.e2e

Open = Callable[..., AbstractAsyncContextManager[tuple[Any, Any]]]


class Answering:
    """Stands where a session does: keeps what it was asked."""

    engine = None

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, name: str, told: Any = None, /, **words: Any) -> Any:
        self.asked.append((name, words))
        return self._answers.get(name)

    def was_asked(self, name: str) -> bool:
        return any(asked == name for asked, _ in self.asked)


def found(root: Any, kind: type, **named: Any) -> Any:
    return next(
        each
        for each in root.walk(restrict=True)
        if isinstance(each, kind) and all(getattr(each, name) == value for name, value in named.items())
    )


def button(root: Any, text: str) -> Any:
    from engine_app.ui.widgets.buttons import PushButton

    return found(root, PushButton, text=text)


def segment(root: Any, text: str) -> Any:
    from engine_app.ui.widgets.buttons import _Segment

    return next(
        each for each in root.walk(restrict=True) if isinstance(each, _Segment) and each._label.text == text
    )


def texts(root: Any) -> list[str]:
    from engine_app.ui.widgets.box import Text

    return [each.text for each in root.walk(restrict=True) if isinstance(each, Text)]


async def test_a_job_is_streamed_with_private_parts_its_rate_changed_and_its_peer_explained(
    open_window: Open,
) -> None:
    from engine_app.ui.self_check_models import show_network
    from engine_app.ui.widgets.buttons import ListRow, Toggle
    from engine_app.ui.widgets.scroll import scroll_of

    async with open_window() as (window, driver):
        window.trainer.source = DIGITS_DATA  # it need not be read for this
        window.open_example()
        network = window.network
        show_network(network, DIGITS, DIGITS_DATA)
        estimate, jobs, network.estimate = network.estimate, network.jobs, None
        reasons = {"lines": ["2 peers fit, 1 do not"], "rejected": [{"peer_id": "x", "reason": "too small"}]}
        session = Answering({"estimate": estimate, "jobs": jobs, "explain": reasons})
        network._session = session
        window.show_page("jobs")
        await driver.frames(4)
        page = window.content
        await driver.tap(found(page._order, Toggle))
        await driver.frames(4)
        await driver.tap(segment(page._order, "Both"))
        await driver.tap(button(page._order, "Estimate"))
        await driver.until(lambda: session.was_asked("estimate") and not network.busy)
        await driver.frames(4)
        assert session.asked[-1][1]["segments"] == 4
        offers = [each.name for each in page._order.walk(restrict=True) if isinstance(each, ListRow)]
        assert offers == ["Ryzen 9 7950X, 64 GiB", "RTX 4090, 24 GiB", "12D3KooWQx7..."]
        page._order._submit()
        await driver.until(lambda: session.was_asked("submit") and not network.busy)
        name, words = session.asked[-1]
        assert name == "submit"
        assert words["stream"] is True and words["private"] == ["test", "validation"]
        assert (words["budget"], words["segments"]) == (5 * 10**9, 4)
        page.choose(jobs[0]["job_id"])
        await driver.frames(4)
        scroll_of(page._rate).scroll_to(button(page._rate, "Set"))
        await driver.frames()
        await driver.tap(button(page._rate, "Set"))
        rate = ("set_rate", {"job": jobs[0]["job_id"], "rate": 0.01})
        await driver.until(lambda: rate in session.asked and not network.busy)
        scroll_of(page._rate).to_top()
        await driver.frames()
        await driver.tap(button(page._detail, "Why this peer"))
        await driver.until(lambda: window.host.is_asking)
        assert "2 peers fit, 1 do not" in texts(window.host.children[0])


async def test_a_node_is_frozen_and_adapted_with_taps_and_that_is_undone(open_window: Open) -> None:
    from engine_app.ui.panels.tuning import TuningControl
    from engine_app.ui.widgets.buttons import IconButton

    async with open_window() as (window, driver):
        window.open_example()
        window.desk.select("dense")
        await driver.frames(4)
        control = found(window.host, TuningControl)
        await driver.tap(segment(control, "Frozen"))
        assert window.desk.graph.node("dense").tuning == Frozen()
        await driver.tap(segment(control, "LoRA"))
        await driver.frames(4)
        await driver.tap(found(control, IconButton, tip="More"))
        assert window.desk.graph.node("dense").tuning == Lora(9, 16.0)
        assert window.desk.can_train
        driver.key(ord("z"), modifiers=("ctrl",))
        assert window.desk.graph.node("dense").tuning is None
        window.desk.select("conv1")  # takes no adapters
        await driver.frames(4)
        control = found(window.host, TuningControl)
        assert "LoRA" not in texts(control)
        window.desk.select("relu1")
        await driver.frames(4)
        assert not [each for each in window.host.walk(restrict=True) if isinstance(each, TuningControl)]


async def test_data_is_read_as_the_user_says_and_what_will_not_do_is_told(
    open_window: Open, tmp_path: Path
) -> None:
    from engine_app.ui.panels.read_options import ReadSheet

    rows = "".join(f"{n % 3},{n},{n * 0.5}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text(f"kind,a,b\n{rows}")
    async with open_window() as (window, driver):
        window.show_page("train")
        trainer = window.trainer
        trainer.choose(str(tmp_path / "rows.csv"))
        await driver.until(lambda: trainer.preview is not None)
        await driver.frames(4)
        await driver.tap(button(window.content, "How to read it"))
        await driver.frames(8)
        sheet = found(window.host, ReadSheet)
        window_of_rows = sheet._fields["window"]
        assert window_of_rows not in sheet.walk(restrict=True)  # folded, as few tables are series
        await driver.tap(button(sheet, "Time series"))
        assert window_of_rows in sheet.walk(restrict=True)
        sheet._fields["target"].input.text = "nothing"
        sheet._start()
        await driver.until(lambda: bool(trainer.converter.problem))
        assert "nothing" in trainer.converter.problem
        sheet._fields["target"].input.text = "kind"
        sheet._fields["window"].input.text = "many"
        sheet._start()
        assert any("will not do" in text for text in texts(sheet.foot)) and not trainer.converter.is_busy
        sheet._fields["window"].input.text = "0"
        window.host.children[0].to_end()
        await driver.frames(8)
        await driver.tap(button(sheet.foot, "Read it this way"))
        await driver.until(lambda: trainer.source.endswith(".safetensors") and trainer.preview is not None)
        assert await trio.Path(trainer.source).is_file()
        assert [entry.name for entry in trainer.preview.description.classes] == ["0", "1", "2"]
        assert not window.host.is_asking
        await driver.frames(4)
        await driver.tap(button(window.content, "How to read it"))  # from what it was made of
        await driver.frames(4)
        assert found(window.host, ReadSheet)._fields["target"].text == "kind"


async def test_a_model_is_deployed_at_a_chosen_peer_for_a_known_cost_extended_and_stopped(
    open_window: Open, tmp_path: Path
) -> None:
    from engine_app.ui.panels.remote import ExtendSheet
    from engine_app.ui.panels.serve_peer import PeerSheet
    from engine_app.ui.self_check_models import show_deployment, show_network
    from engine_app.ui.widgets.buttons import IconButton, ListRow

    model = save(tmp_path / "digits.cyxmodel", image_model())
    async with open_window() as (window, driver):
        network = window.network
        show_network(network, DIGITS, DIGITS_DATA)
        network.jobs = []
        window.context.act.deploy(model)
        await driver.frames(8)
        await driver.tap(segment(window.host.children[0], "A peer"))
        await driver.frames(8)
        sheet = found(window.host, PeerSheet)
        await driver.until(lambda: not button(sheet.foot, "Deploy").disabled)
        assert "Costs at most 0.9 CYXWIZ" in texts(sheet)  # the dearest peer, an hour
        await driver.tap(found(sheet, ListRow, name="Ryzen 9 7950X, 64 GiB"))
        await driver.tap(found(labelled_as(sheet, "Replicas"), IconButton, tip="More"))
        await driver.tap(found(labelled_as(sheet, "Minutes"), IconButton, tip="More"))
        await driver.frames(4)
        assert "Costs 0.75 CYXWIZ" in texts(sheet)  # 2 times 75 minutes at 0.3 an hour
        show_deployment(network)
        views, peer = network.deployments, network.peers[1]["peer_id"]
        session = Answering({"deployments": views})
        network._session = session
        await driver.tap(button(sheet.foot, "Deploy"))
        await driver.until(lambda: "deploy" in dict(session.asked) and not network.busy)
        orders = [words for name, words in session.asked if name == "deploy"]
        assert len(orders) == 2
        assert orders[0]["allow"] == [peer] and orders[0]["budget"] == 375_000_000
        assert (orders[0]["periods"], orders[0]["name"], orders[0]["model"]) == (75, "digits", str(model))
        assert window.page == "deploy"
        page = window.content
        await driver.frames(4)
        assert "0.315 CYXWIZ of 0.9 CYXWIZ" in texts(page)
        assert "58.2" in texts(page)  # tokens a second
        await driver.tap(button(page, "Extend"))
        await driver.frames(8)
        await driver.tap(button(found(window.host, ExtendSheet), "Extend"))
        await driver.until(lambda: "extend" in dict(session.asked) and not network.busy)
        extended = dict(session.asked)["extend"]
        assert extended == {"deployment": views[0]["id"], "periods": 60, "budget": 900_000_000}
        await driver.frames(4)
        await driver.tap(button(page, "Stop"))
        await driver.frames(8)
        await driver.tap(button(window.host.children[0], "Stop it"))
        stop = ("cancel", {"job": views[0]["id"]})
        await driver.until(lambda: stop in session.asked and not network.busy)
        network.deployments = [{**views[0], "state": "settled", "is_running": False}]
        network._tell()
        await driver.frames(4)
        assert "Stopped" in texts(page)
        assert not network.stories


def labelled_as(root: Any, title: str) -> Any:
    """The column of a control under that name."""
    from engine_app.ui.widgets.box import Text

    return found(root, Text, text=title).parent


async def test_a_job_is_offered_what_its_state_allows(open_window: Open) -> None:
    """In the words in which sessions tell states."""
    from engine_app.ui.network import OVER
    from engine_app.ui.self_check_models import show_network
    from p2p.jobs import JobState

    assert {state.value for state in JobState if state.is_final} | {JobState.FAILED.value} == OVER
    async with open_window() as (window, driver):
        show_network(window.network, DIGITS, DIGITS_DATA)
        window.show_page("jobs")
        await driver.frames(2)
        job = window.network.jobs[0] | {"state": JobState.WAITING_FOR_USER.value, "paused": False}
        assert "Resume" in [each.text for each in window.content._buttons(job)]
