"""`cyxwiz gateway` in front of a model here and a paid deployment at a real peer."""

from __future__ import annotations

import json
import subprocess
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


def test_a_deployment_at_a_peer_answers_beside_a_model_here_as_long_as_its_peer_may_see_it(
    network: LocalNetwork, tmp_path: Path
) -> None:
    from tritonclient import http

    peer = network.start_peer("peer", "10", "--gpus", "none")["peer_id"]
    linear_onnx(tmp_path / "here.onnx")
    linear_onnx(tmp_path / "there.onnx")
    arguments = (str(tmp_path / "here.onnx"), "--all", "--coordinator", network.address)
    with gateway(network.engine_home, *arguments) as running:
        assert names(running) == ["here"]
        # The gateway is the Engine of this data directory: the command asks it, and it pays.
        words = ("deploy", str(tmp_path / "there.onnx"), "--peer", peer, "--budget", "5", "--minutes", "5")
        with (tmp_path / "deploy.log").open("wb") as log:
            deploying = subprocess.Popen(network.engine_arguments(*words), stdout=log, stderr=log)
        try:
            assert running.next_news("came")["peer"] == peer
            assert names(running) == ["here", "there"]
            assert ask(running, "here") == ask(running, "there") == LOGITS

            client = http.InferenceServerClient(running.url.removeprefix("http://"))
            x = np.arange(12, dtype=np.float32).reshape(4, 3)
            given = http.InferInput("x", x.shape, "FP32")
            given.set_data_from_numpy(x, binary_data=True)
            answer = client.infer("there", [given], outputs=[http.InferRequestedOutput("logits")])
            assert np.allclose(answer.as_numpy("logits"), x @ np.arange(6).reshape(3, 2))
            client.close()

            network.engine("gateway", "forbid", peer)
            with pytest.raises(HTTPError, match="404"):
                ask(running, "there")
            assert running.next_news("not allowed")["peer"] == peer
            assert names(running) == ["here"]
            network.engine("gateway", "allow", peer)
            running.next_news("came")
            assert ask(running, "there") == LOGITS

            network.programs["peer"].kill()
            assert ask(running, "here") == LOGITS
            wait_until(lambda: states(running)["there"] == "UNAVAILABLE", 60, "the peer to be taken out")
            assert states(running)["here"] == "READY"
        finally:
            deploying.kill()
            deploying.wait()
            print((tmp_path / "deploy.log").read_text(errors="replace"))


def states(running: Running) -> dict[str, str]:
    index = running.ask("/v2/repository/index", json.dumps({}).encode())[0]
    return {"there": "UNAVAILABLE"} | {each["name"]: each["state"] for each in index}
