"""`cyxwiz gateway` in front of a model here and of the replicas of one at real peers, paid for."""

from __future__ import annotations

import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from local_network import LocalNetwork, wait_until

from tests.e2e.engine_app.test_gateway import LOGITS, ROW, gateway
from tests.e2e.serving.servers import Running, linear_onnx

pytestmark = pytest.mark.e2e


def ask(running: Running, model: str) -> list[list[float]]:
    answer: list[list[float]] = running.ask("/v1/predict", ROW | {"model": model})[0]["outputs"]["logits"]
    return answer


def names(running: Running) -> list[str]:
    return [each["id"] for each in running.ask("/v1/models")[0]["data"]]


@contextmanager
def replicas(network: LocalNetwork, model: Path) -> Iterator[None]:
    """Two of them, wherever there is a peer for each."""
    order = ("--any", "--replicas", "2", "--budget", "5", "--minutes", "5")
    words = network.engine_arguments("deploy", str(model), *order)
    with (network.directory / "deploy.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        print((network.directory / "deploy.log").read_text(errors="replace"))


def test_deployments_at_peers_answer_beside_a_model_here_as_long_as_their_peers_may_see_it(
    network: LocalNetwork, tmp_path: Path
) -> None:
    peers = [network.start_peer(name, "10", "--gpus", "none")["peer_id"] for name in ("peer", "other")]
    linear_onnx(tmp_path / "here.onnx")
    linear_onnx(tmp_path / "there.onnx")
    arguments = (str(tmp_path / "here.onnx"), "--all", "--coordinator", network.address)
    with gateway(network.engine_home, *arguments) as running:
        assert names(running) == ["here"]
        # The gateway is the Engine of this data directory: the command asks it, and it pays.
        with replicas(network, tmp_path / "there.onnx"):
            assert {running.next_news("came")["peer"] for _ in peers} == set(peers)
            assert names(running) == ["here", "there"]
            assert ask(running, "here") == ask(running, "there") == LOGITS
            tritonclient_gets_tensors(running)
            answered_by(running, set(peers))
            a_command_asks_them_by_name(network, tmp_path, peers[1])

            network.engine("gateway", "forbid", *peers)
            with pytest.raises(HTTPError, match="404"):
                ask(running, "there")
            assert names(running) == ["here"]
            # Only then: what is taken back before the next look is nothing to tell of.
            assert {running.next_news("went")["peer"] for _ in peers} == set(peers)
            network.engine("gateway", "allow", *peers)
            assert {running.next_news("came")["peer"] for _ in peers} == set(peers)

            third = network.start_peer("third", "10", "--gpus", "none")["peer_id"]
            one_peer_dies_and_nobody_notices(network, running)
            assert ask(running, "here") == LOGITS
            its_replica_moves_and_is_asked_once_its_peer_may_see_it(network, running, peers[0], third)


def asked(running: Running) -> dict[str, int]:
    """How often each peer has answered, by the gateway's own count."""
    with urllib.request.urlopen(f"{running.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    counted = re.findall(r'requests_total\{model="there",endpoint="([^"]*)",outcome="ok"\} (\d+)', text)
    return {endpoint: int(count) for endpoint, count in counted}


def answered_by(running: Running, peers: set[str]) -> None:
    """Several clients at once keep all replicas busy: after 10 s also one that was slow at first."""
    before = asked(running)

    def work() -> bool:
        threads = [
            threading.Thread(target=lambda: [ask(running, "there") for _ in range(4)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = {name: count - before.get(name, 0) for name, count in asked(running).items()}
        return peers == {
            peer for peer in peers for name, count in counts.items() if peer[-8:] in name and count
        }

    wait_until(work, 60, "an answer of each replica")


def a_command_asks_them_by_name(network: LocalNetwork, directory: Path, peer: str) -> None:
    """Whichever it is, and the one at the peer that is named."""
    np.save(directory / "row.npy", np.array(ROW["inputs"], np.float32))
    for there in ((), ("--peer", peer)):
        told = network.ask_engine("infer", "there", *there, "--input", str(directory / "row.npy"))
        assert told["values"]["logits"] == LOGITS


def its_replica_moves_and_is_asked_once_its_peer_may_see_it(
    network: LocalNetwork, running: Running, left: str, third: str
) -> None:
    def moved() -> bool:
        found = {each["peer_id"]: each for each in network.ask_engine("deployments")}
        return left in found and third in found and bool(found[third]["moved"] and found[third]["is_running"])

    wait_until(moved, 60, "the replica of the peer that died, at another one")
    answered_by(running, {left})
    assert not any(third[-8:] in name for name in asked(running))
    network.engine("gateway", "allow", third)
    assert running.next_news("came")["peer"] == third
    answered_by(running, {left, third})


def tritonclient_gets_tensors(running: Running) -> None:
    from tritonclient import http

    client = http.InferenceServerClient(running.url.removeprefix("http://"))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    given = http.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x, binary_data=True)
    answer = client.infer("there", [given], outputs=[http.InferRequestedOutput("logits")])
    assert np.allclose(answer.as_numpy("logits"), x @ np.arange(6).reshape(3, 2))
    client.close()


def one_peer_dies_and_nobody_notices(network: LocalNetwork, running: Running) -> None:
    wrong: list[Exception] = []
    under_way = threading.Event()

    def work() -> None:
        try:
            for number in range(60):
                assert ask(running, "there") == LOGITS
                if number == 20:
                    under_way.set()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert under_way.wait(60)
    network.programs["other"].kill()
    for thread in threads:
        thread.join()
    assert wrong == []
