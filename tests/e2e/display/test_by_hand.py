"""A graph drawn from nothing with the mouse, trained, trained again by a paid peer, and closed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from local_network import LocalNetwork

from tests.e2e.display.screen import Screen, Window

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PALETTE_WIDTH = 160

NODES = (
    "DatasetInput",
    "DataSplit",
    "Normalize",
    "DataLoader",
    "Input",
    "Flatten",
    "Dense",
    "ReLU",
    "Dense",
    "Output",
    "CrossEntropyLoss",
    "AdamW",
)


def test_a_graph_drawn_by_hand_is_trained_and_its_curve_moves(screen: Screen, window: Window) -> None:
    draw(window)
    train(screen, window)
    close(window, is_saved=False)


def test_a_graph_is_trained_by_a_paid_peer_and_its_model_deployed_there_and_asked(
    screen: Screen, network: LocalNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the window offers to put files
    network.start_peer("peer", "2")
    with screen.open_window(network.engine_home) as window:
        window.press("Skip")
        window.press("Open the digits example")
        submit(window)
        model = fetch(window, tmp_path)
        deploy_at_peer(window, model)
        ask_by_drawing(window)
        stop(window)
        close(window, is_saved=True)


def test_letters_that_are_written_are_no_shortcuts(window: Window) -> None:
    window.press("Skip")
    add(window, "Dense")
    window.fill(window.wait_for(lambda: window.find("Search ..."), "the palette"), "xcf .")
    assert window.state["nodes"] == {"dense": "Dense"}
    window.keys("Escape", "Delete")
    window.wait_for(lambda: not window.state["nodes"], "the node to be removed")
    window.keys("ctrl+z")
    window.wait_for(lambda: window.state["nodes"], "the removal to be undone")


def draw(window: Window) -> None:
    """A classifier, from an empty window: types from the palette, the last link from port to port."""
    window.press("Skip")
    for name in NODES:
        add(window, name)
    assert window.state["problems"] == ["nothing is linked to target"]
    window.press("Show all")
    click_node(window, "dataloader")
    window.keys("period")  # zooms to it
    window.click(window.ask("port", node="dataloader", port="labels"))
    pan_to(window, "crossentropyloss", "target")
    window.click(window.ask("port", node="crossentropyloss", port="target"))
    link = ["dataloader", "labels", "crossentropyloss", "target"]
    window.wait_for(lambda: link in window.state["links"], "the link")
    window.press("Show all")
    click_node(window, "dense2")
    window.fill(window.wait_for(lambda: window.find("64"), "its units"), "10")
    window.keys("Return")


def add(window: Window, name: str) -> None:
    before = len(window.state["nodes"])
    window.fill(window.wait_for(lambda: window.find("Search ..."), "the palette"), name)
    # The field holds the text as well; the row is below it.
    window.click(window.wait_for(partial(below, window, name), name))
    window.wait_for(lambda: len(window.state["nodes"]) > before, f"the node {name}")


def below(window: Window, name: str) -> tuple[float, float] | None:
    field = window.find("Search ...")
    # To the right of the palette a fact of a node may be called so, too.
    place = None if field is None else window.find(name, until=field[0] + PALETTE_WIDTH)
    return place if place and field and place[1] > field[1] + 20 else None


def click_node(window: Window, node: str) -> None:
    window.click(window.ask("port", node=node))
    window.wait_for(lambda: window.state["selected"] == [node], f"{node} to be selected")


def pan_to(window: Window, node: str, port: str) -> None:
    """Drags the ground until the port is in sight; the port that was tapped first stays so."""
    for _ in range(20):
        x, _ = window.ask("port", node=node, port=port)
        if x < 930:
            return
        window.drag((930, 600), (480, 600))
    raise AssertionError(f"{node} does not come into sight")


def train(screen: Screen, window: Window) -> None:
    """On the digits, until it tells of 0.95 on samples that it has not seen."""
    window.click(window.find("Wallet") or (40, 240))
    window.wait_for(lambda: window.state["page"] == "wallet", "the wallet")
    window.press("Train")
    window.wait_for(lambda: window.state["page"] == "train", "the page for training")
    window.press("Choose data")
    window.press("digits")
    window.press("Set the graph to this data")
    window.wait_for(lambda: not window.state["problems"], "the graph to fit the data")
    window.fill(window.wait_for(lambda: window.find("1", field=True), "the epochs"), "30")
    window.keys("Return")
    before = screen.picture()
    window.press("Start training")
    window.wait_for(lambda: window.state["metrics"].get("step", 0) > 20, "the first steps", 120)
    early = screen.picture()
    window.wait_for(lambda: window.state["training"] == "idle", "the end of the training", 180)
    late = screen.picture()
    found = window.state["metrics"]
    assert found["test_accuracy"] >= 0.95, found
    assert moved(before, early) > 200
    assert moved(early, late) > 200


def show(window: Window, page: str) -> None:
    window.press(page)
    window.wait_for(lambda: window.state["page"] == page.lower(), page)


def submit(window: Window) -> None:
    """To the coordinator that this data directory knows."""
    show(window, "Jobs")
    window.wait_for(lambda: window.state["network"] in ("online", "off"), "the network")
    if window.state["network"] == "off":
        window.press("Connect")
    window.wait_for(lambda: window.state["network"] == "online", "the coordinator")
    window.press("Submit")
    window.wait_for(lambda: [job["state"] for job in window.state["jobs"]] == ["settled"], "the model", 180)


def fetch(window: Window, directory: Path) -> Path:
    window.press("Handwritten digits")
    window.press("Fetch the model")
    window.press("Fetch")
    return window.wait_for(lambda: next(directory.glob("*.cyxmodel"), None), "the model's file")


def deploy_at_peer(window: Window, model: Path) -> None:
    show(window, "Deploy")
    window.press("Deploy a model")
    window.press("Choose a model")
    window.press("Look for a file")
    window.fill(window.wait_for(lambda: window.find("A file or folder", field=True), "the path"), str(model))
    window.keys("Return")
    window.press("A peer")
    window.wait_for(lambda: window.find("Costs at most..."), "the price")
    window.press("Deploy")
    window.wait_for(lambda: window.find("Answering, at a peer"), "the deployment to answer", 120)


def ask_by_drawing(window: Window) -> None:
    """A line down the middle of the pad, which is below what can be seen at once."""
    window.wait_for(lambda: window.find("Try it"), "what it is tried with")
    pad = None
    for _ in range(10):
        pad = window.ask("place", kind="DrawPad")
        if pad is not None and pad[3] < 780:
            break
        window.click(window.find("Extend") or (700, 400), button=5, times=2)
    assert pad is not None
    middle = (pad[0] + pad[2]) / 2
    window.drag((middle, pad[1] + 30), (middle, pad[3] - 30))
    window.wait_for(lambda: any(text.endswith("%") for text in window.ask("texts")), "an answer")


def stop(window: Window) -> None:
    for _ in range(10):
        if window.find("Stop") is not None:
            break
        window.click((700, 400), button=4, times=4)
    window.press("Stop")
    window.wait_for(lambda: window.find("Stopped, at a peer") or window.find("Stop it"), "the end")
    if window.find("Stop it") is not None:
        window.press("Stop it")
        window.wait_for(lambda: window.find("Stopped, at a peer"), "the end")


def moved(one: np.ndarray, other: np.ndarray) -> int:
    """Pixels that differ in the right half, where the curves are."""
    middle = one.shape[1] // 2
    return int((one[:, middle:] != other[:, middle:]).any(-1).sum())


def close(window: Window, *, is_saved: bool) -> None:
    """As a user does; what is not saved is asked about."""
    window.close()
    if not is_saved:
        window.press("Close")
    assert window.ended() == 0
