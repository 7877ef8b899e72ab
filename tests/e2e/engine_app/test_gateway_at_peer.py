"""`cyxwiz gateway` in front of a model here and of paid deployments at real peers."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from local_network import LocalNetwork

from tests.e2e.engine_app.test_gateway import LOGITS, ROW, gateway
from tests.e2e.serving.servers import Running, linear_onnx

pytestmark = pytest.mark.e2e


def ask(running: Running, model: str) -> list[list[float]]:
    answer: list[list[float]] = running.ask("/v1/predict", ROW | {"model": model})[0]["outputs"]["logits"]
    return answer


def names(running: Running) -> list[str]:
    return [each["id"] for each in running.ask("/v1/models")[0]["data"]]


@contextmanager
def deploying(network: LocalNetwork, model: Path, peers: list[str]) -> Iterator[None]:
    where = [word for peer in peers for word in ("--peer", peer)]
    words = network.engine_arguments("deploy", str(model), *where, "--budget", "5", "--minutes", "5")
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
        with deploying(network, tmp_path / "there.onnx", peers):
            assert {running.next_news("came")["peer"] for _ in peers} == set(peers)
            assert names(running) == ["here", "there"]
            assert ask(running, "here") == ask(running, "there") == LOGITS
            tritonclient_gets_tensors(running)

            network.engine("gateway", "forbid", *peers)
            with pytest.raises(HTTPError, match="404"):
                ask(running, "there")
            assert names(running) == ["here"]
            # Only then: what is taken back before the next look is nothing to tell of.
            assert {running.next_news("went")["peer"] for _ in peers} == set(peers)
            network.engine("gateway", "allow", *peers)
            assert {running.next_news("came")["peer"] for _ in peers} == set(peers)

            one_peer_dies_and_nobody_notices(network, running)
            assert ask(running, "here") == LOGITS


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
