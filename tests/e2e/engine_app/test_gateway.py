"""`cyxwiz gateway` in front of two real models, asked by the clients that people use, unmodified."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import openai
import pytest
import real_models

from tests.e2e.serving.servers import Running, linear_onnx, worker_pids

pytestmark = pytest.mark.e2e
GGUF = "smollm2-135m"
QUESTION: Any = [{"role": "user", "content": "Name a colour."}]
ROW = {"inputs": [[1, 2, 3]]}
LOGITS = [[16.0, 22.0]]
PEER = "12D3KooWBtp1AcgQTjkmk9JuZmQzS9JjoVSMMEFHEaQYHv8pUrhE"


@contextmanager
def gateway(data_dir: Path, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(data_dir), "gateway"]
    command += [*arguments, "--json", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    running = Running(process)
    try:
        running.url = running.next_news("ready")["url"]
        yield running
    finally:
        process.kill()
        process.communicate()


def cyxwiz(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(data_dir), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An ONNX model, and one of text where it can be had."""
    folder = tmp_path_factory.mktemp("gateway")
    linear_onnx(folder / "linear.onnx")
    text = real_models.find_model(GGUF) if importlib.util.find_spec("llama_cpp") else None
    more = () if text is None else (str(text / f"{GGUF}.gguf"), "--context", "512")
    with gateway(folder / "data", str(folder / "linear.onnx"), *more) as running:
        yield running, text is not None


def test_the_openai_client_works_unmodified(both: Any) -> None:
    running, has_text = both
    if not has_text:
        pytest.skip("no GGUF model or no llama-cpp-python here: scripts/test fetches them")
    client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["linear", GGUF]
    order: Any = {"model": GGUF, "messages": QUESTION, "max_tokens": 12, "seed": 5, "temperature": 0.9}
    whole = client.chat.completions.create(**order)
    chunks = list(client.chat.completions.create(**order, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == whole.choices[0].message.content, "one seed, one text"
    stream = client.completions.create(model=GGUF, prompt="Tell a story.", max_tokens=480, stream=True)
    next(iter(stream))
    stream.close()
    answer = client.completions.create(model=GGUF, prompt="2 + 2 =", max_tokens=2, timeout=60)
    assert answer.choices[0].finish_reason == "length", "whoever leaves frees the model"
    with pytest.raises(openai.NotFoundError, match="linear"):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="does not generate"):
        client.chat.completions.create(model="linear", messages=QUESTION)


def test_tritonclient_works_unmodified(both: Any) -> None:
    from tritonclient import http

    running, _ = both
    client = http.InferenceServerClient(running.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.get_model_metadata("linear")["inputs"][0]["shape"] == [-1, 3]
    assert {each["state"] for each in client.get_model_repository_index()} == {"READY"}
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for binary in (True, False):
        given = http.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "shares")]
        answer = client.infer("linear", [given], outputs=wanted)
        assert np.allclose(answer.as_numpy("logits"), x @ np.arange(6).reshape(3, 2))
    before = len(worker_pids(running))
    client.unload_model("linear")
    assert len(worker_pids(running)) == before - 1, "its memory is free"
    with pytest.raises(Exception, match="unloaded"):
        client.infer("linear", [given])
    client.unload_model("linear")
    client.load_model("linear")
    assert np.allclose(client.infer("linear", [given]).as_numpy("logits"), x @ np.arange(6).reshape(3, 2))
    assert len(worker_pids(running)) == before
    client.close()


def test_a_model_that_cannot_be_loaded_again_says_why_and_the_gateway_goes_on(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "a.onnx")
    with gateway(tmp_path / "data", str(tmp_path / "a.onnx")) as running:
        running.ask("/v2/repository/models/a/unload", {})
        model = (tmp_path / "a.onnx").read_bytes()
        (tmp_path / "a.onnx").write_bytes(model[:-20])
        with pytest.raises(HTTPError, match="500") as refused:
            running.ask("/v2/repository/models/a/load", {})
        assert b"cannot be loaded" in refused.value.read()
        with pytest.raises(HTTPError, match="404"):
            running.ask("/v1/predict", ROW)
        (tmp_path / "a.onnx").write_bytes(model)
        running.ask("/v2/repository/models/a/load", {})
        assert running.ask("/v1/predict", ROW)[0]["outputs"]["logits"] == LOGITS
        assert running.stop() == ""
    assert running.process.returncode == 0


def test_curl_works_with_json_raw_tensors_and_large_bodies(both: Any, tmp_path: Path) -> None:
    running, _ = both
    rows = np.ones((400_000, 3), "<f4")
    (tmp_path / "rows").write_bytes(rows.tobytes())

    def curl(*arguments: str) -> bytes:
        return subprocess.run(["curl", "-s", *arguments], capture_output=True, check=True, timeout=60).stdout

    assert b"22.0" in curl(running.url + "/v1/predict", "-d", '{"inputs": [[1, 2, 3]]}')
    raw = curl(
        running.url + "/v1/predict",
        "-H", "content-type: application/octet-stream",
        "--data-binary", f"@{tmp_path / 'rows'}",
    )  # fmt: skip
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(-1, 2), np.tile([6, 9], (400_000, 1)))
    assert curl(running.url + "/").startswith(b"<!doctype html>")
    assert b'"can":["predict"]' in curl(running.url + "/v1/model", "-H", "x-model: linear")


def test_a_model_whose_worker_dies_comes_back_and_the_other_one_notices_nothing(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "a.onnx")
    linear_onnx(tmp_path / "b.onnx")
    with gateway(tmp_path / "data", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")) as running:
        pids = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        assert len(pids) == 2
        os.kill(int(pids[0]), signal.SIGKILL)
        died = running.next_news("died")
        model = died["endpoint"]
        (other,) = {"a", "b"} - {model}
        assert running.ask("/v1/predict", ROW | {"model": other})[0]["outputs"]["logits"] == LOGITS
        answers = running.ask("/v1/predict", ROW | {"model": model})[0]
        assert answers["outputs"]["logits"] == LOGITS
        assert running.stop() == ""
        assert running.process.returncode == 0
        assert not list((tmp_path / "data" / "serving").iterdir())


def test_of_two_replicas_one_may_die_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    with gateway(tmp_path / "data", str(tmp_path / "m.onnx"), "--replicas", "2") as running:
        pids = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        wrong: list[object] = []
        answered: list[int] = []
        under_way = threading.Event()

        def work() -> None:
            try:
                for number in range(80):
                    answer, _ = running.ask("/v1/predict", ROW)
                    assert answer["outputs"]["logits"] == LOGITS
                    answered.append(number)
                    if len(answered) > 100:
                        under_way.set()
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert under_way.wait(60)
        os.kill(int(pids[0]), signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert wrong == []
        metrics = running.ask("/metrics")[0].decode()
        counted = re.findall(r'requests_total{model="m",endpoint="m@here-\d",outcome="ok"} (\d+)', metrics)
        assert sum(map(int, counted)) == 320
        assert min(map(int, counted)) > 0, "both worked"


def test_beyond_loopback_only_with_a_key(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    refused = cyxwiz(tmp_path, "gateway", str(tmp_path / "m.onnx"), "--host", "0.0.0.0", "--port", "0")
    assert (refused.returncode, "needs an API key" in refused.stderr) == (1, True)
    key = cyxwiz(tmp_path, "keys", "new", "phone").stdout.splitlines()[0]
    with gateway(tmp_path, str(tmp_path / "m.onnx"), "--host", "0.0.0.0") as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(HTTPError, match="401"):
            running.ask("/v1/predict", ROW)
        answer, _ = running.ask("/v1/predict", ROW, authorization=f"Bearer {key}")
        assert answer["outputs"]["logits"] == LOGITS


def test_who_may_see_prompts_is_said_and_kept(tmp_path: Path) -> None:
    said = cyxwiz(tmp_path, "gateway", "allow", PEER)
    assert "sees everything that is asked of it" in said.stdout
    assert cyxwiz(tmp_path, "gateway", "allowed").stdout == f"{PEER}  allowed\n"
    assert cyxwiz(tmp_path, "gateway", "forbid", PEER).returncode == 0
    assert f'"forbidden":["{PEER}"]' in cyxwiz(tmp_path, "gateway", "allowed", "--json").stdout
    wrong = cyxwiz(tmp_path, "gateway", "allow", "../../etc")
    assert (wrong.returncode, "is no peer id" in wrong.stderr) == (1, True)
    assert (tmp_path / "gateway_peers.json").stat().st_mode & 0o777 == 0o600
    assert "nothing to answer for" in cyxwiz(tmp_path, "gateway").stderr
