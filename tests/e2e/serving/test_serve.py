"""`cyxwiz serve` with real models in real sandboxed workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import trio
import trio.testing

from backend.graph import Node
from backend.runtime.base import load_model
from backend.workers.model_server import ModelFile, ServerListener, ServerPlan, SupervisedServer, bind
from backend.workers.supervisor import PoolConfig
from tests.e2e.serving.servers import Running, endless_onnx, greedy_onnx, linear_onnx, serving, worker_pids
from tests.unit.backend.model_files import OUT, chain, door, save

pytestmark = pytest.mark.e2e
ROW = {"inputs": [[1, 2, 3]]}
LOGITS = [[16.0, 22.0]]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("linear")
    linear_onnx(folder / "linear.onnx")
    with serving(folder / "data", str(folder / "linear.onnx")) as server:
        yield server


def status_of(server: Running, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    try:
        return 200, server.ask(path, body, **headers)[0]
    except HTTPError as error:
        return error.code, error.read().decode()


def test_a_user_gets_answers_in_json_and_binary(linear: Running) -> None:
    answer, _ = linear.ask("/v1/predict", ROW)
    assert answer["outputs"]["logits"] == LOGITS
    raw, headers = linear.ask(
        "/v1/predict", np.ones((2, 3), "<f4").tobytes(), content_type="application/octet-stream"
    )
    assert headers["x-shape"] == "2,2"
    assert np.frombuffer(raw, "<f4").tolist() == [6, 9, 6, 9]
    about, _ = linear.ask("/v1/model")
    assert (about["format"], about["devices"]) == ("onnx", ["CPUExecutionProvider"])
    assert linear.ask("/")[0].startswith(b"<!doctype html>")


def test_curl_works(linear: Running) -> None:
    done = subprocess.run(
        ["curl", "-s", linear.url + "/v1/predict", "-d", '{"inputs": [[1, 2, 3]]}'],
        capture_output=True,
        check=True,
    )
    assert b"22.0" in done.stdout


def test_tritonclient_works_unmodified(linear: Running) -> None:
    from tritonclient import http

    client = http.InferenceServerClient(linear.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_model_ready("linear")
    assert client.get_model_metadata("linear")["inputs"][0] == {
        "name": "x",
        "datatype": "FP32",
        "shape": [-1, 3],
    }
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for binary in (True, False):
        given = http.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "shares")]
        answer = client.infer("linear", [given], outputs=wanted, request_id="r")
        assert np.allclose(answer.as_numpy("logits"), x @ np.arange(6).reshape(3, 2))
        assert np.allclose(answer.as_numpy("shares").sum(1), 1)
    client.close()


def test_many_clients_share_batches(linear: Running) -> None:
    def work() -> None:
        for _ in range(20):
            assert linear.ask("/v1/predict", ROW)[0]["outputs"]["logits"] == LOGITS

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = linear.ask("/metrics")[0].decode()
    assert 'cyxwiz_queue_depth{model="linear"} 0' in metrics


def test_only_the_sandboxed_worker_holds_the_model_and_it_opens_no_socket(linear: Running) -> None:
    (pid,) = worker_pids(linear)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


def test_a_head_without_end_is_cut_off(linear: Running) -> None:
    host, port = linear.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"X-More: " + b"a" * 1000 + b"\r\n")
            assert connection.recv(1) == b""
            raise ConnectionResetError
    assert linear.ask("/health")[0]["status"] == "ok"


def test_ctrl_c_answers_what_is_in_flight_and_takes_no_more(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    with serving(tmp_path / "data", str(tmp_path / "m.onnx")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = b'{"inputs": [[1, 2, 3]]}'
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[:5])
            server.ask("/health")  # by then the request before it has been begun
            server.process.send_signal(signal.SIGINT)
            connection.sendall(body[5:])
            seen = b""
            while b"22.0" not in seen:
                seen += (more := connection.recv(65536))
                assert more, seen
        _, said = server.process.communicate(timeout=60)
        assert (server.process.returncode, said) == (0, "")
        assert not list((tmp_path / "data" / "serving").iterdir())


def test_what_was_asked_is_in_no_log(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    with serving(tmp_path / "data", str(tmp_path / "m.onnx")) as server:
        server.ask("/v1/predict", {"inputs": [[8765.25, 2, 3]]})
        assert status_of(server, "/v1/predict", {"inputs": [["a secret wish"]]})[0] == 400
        assert status_of(server, "/v1/predict", b'{"inputs": a secret wish')[0] == 400
        said = server.stop()
    written = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not any(b"8765" in each or b"secret wish" in each for each in [said.encode(), *written])


def test_a_crash_is_told_and_mended_and_neighbours_notice_nothing(tmp_path: Path, linear: Running) -> None:
    linear_onnx(tmp_path / "m.onnx")
    with serving(tmp_path / "data", str(tmp_path / "m.onnx")) as server:
        (before,) = worker_pids(linear)
        (victim,) = worker_pids(server)
        os.kill(victim, signal.SIGKILL)
        assert "SIGKILL" in server.next_news("died")["reason"]
        # Connections wait in the socket that the supervisor keeps, so this needs no retry.
        assert server.ask("/v1/predict", ROW)[0]["outputs"]["logits"] == LOGITS
        assert linear.ask("/v1/predict", ROW)[0]["outputs"]["logits"] == LOGITS
        assert worker_pids(linear) == [before]


def test_several_models_have_a_worker_each_and_notice_nothing_of_the_other(tmp_path: Path) -> None:
    for name in "ab":
        linear_onnx(tmp_path / f"{name}.onnx")
    with serving(tmp_path / "data", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")) as server:
        victim, other = worker_pids(server)
        for name in "abb":
            server.ask("/v1/predict", ROW, x_model=name)
        counted = server.ask("/metrics")[0].decode()
        for name, count in (("a", 1), ("b", 2)):
            labels = f'endpoint="{name}@here-1",model="{name}"'
            assert f'cyxwiz_requests_total{{{labels},outcome="ok"}} {count}' in counted
            assert f"cyxwiz_rows_total{{{labels}}} {count}" in counted
        assert counted.count("# TYPE cyxwiz_requests_total counter") == 1
        os.kill(victim, signal.SIGKILL)
        died = server.next_news("died")
        assert "SIGKILL" in died["reason"]
        neighbour = "b" if died["endpoint"] == "a" else "a"
        for name in (neighbour, died["endpoint"]):
            assert server.ask("/v1/predict", ROW, x_model=name)[0]["outputs"]["logits"] == LOGITS
        assert other in worker_pids(server)
        assert victim not in worker_pids(server)


def test_models_that_do_not_fit_together_take_turns_in_one_worker(tmp_path: Path) -> None:
    for name in "ab":
        linear_onnx(tmp_path / f"{name}.onnx")
    models = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    with serving(tmp_path / "data", *models, "--memory", "500") as server:
        assert len(worker_pids(server)) == 1
        for name in "abab":
            assert server.ask("/v1/predict", ROW, x_model=name)[0]["outputs"]["logits"] == LOGITS


def test_a_loop_without_end_is_stopped_at_its_deadline_and_the_model_goes_on(tmp_path: Path) -> None:
    endless_onnx(tmp_path / "endless.onnx")
    with serving(tmp_path / "data", str(tmp_path / "endless.onnx"), "--timeout", "4") as server:
        (before,) = worker_pids(server)
        assert status_of(server, "/v1/predict", {"inputs": [[1.0]]})[0] == 504
        assert server.ask("/v1/predict", {"inputs": [[-1.0]]})[0]["outputs"]["y"] == [[-1.0]]
        assert worker_pids(server) == [before]


def test_a_model_that_allocates_without_end_is_refused_and_goes_on(tmp_path: Path) -> None:
    greedy_onnx(tmp_path / "greedy.onnx")
    with serving(tmp_path / "data", str(tmp_path / "greedy.onnx")) as server:
        status, said = status_of(server, "/v1/predict", {"inputs": [1e11]})
        assert status in (400, 507), said
        assert server.ask("/v1/predict", {"inputs": [2]})[0]["outputs"]["y"] == [0, 0]


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    ready, deaths = trio.Event(), []
    told = ServerListener(
        on_ready=lambda lines: ready.set(), on_death=lambda reason, pause_s: deaths.append(reason)
    )
    pool = PoolConfig(tmp_path / "workers", hang_s=4)
    plan = ServerPlan((ModelFile("m", tmp_path / "m.onnx"),), pool)
    with bind("127.0.0.1", 0) as listener, trio.fail_after(240):
        server = SupervisedServer(plan, listener, lambda: (), told)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await ready.wait()
            assert server.worker is not None
            os.kill(server.worker.pid, signal.SIGSTOP)
            # On a busy machine the thread that takes the signal may run long after the one that answers.
            await trio.to_thread.run_sync(os.waitid, os.P_PID, server.worker.pid, os.WSTOPPED | os.WNOWAIT)
            client = Running(None)  # type: ignore[arg-type]
            client.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            answer, _ = await trio.to_thread.run_sync(client.ask, "/v1/predict", ROW)
            assert answer["outputs"]["logits"] == LOGITS
            assert "hangs" in deaths[0]
            await server.stop(1)


async def test_a_server_outlives_a_model_file_that_is_damaged_for_a_while(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    linear_onnx(model)
    good = model.read_bytes()
    ready, died = trio.open_memory_channel[str](9)
    told = ServerListener(
        on_ready=lambda lines: ready.send_nowait("ready"),
        on_death=lambda reason, pause_s: ready.send_nowait(reason),
    )
    plan = ServerPlan((ModelFile("m", model),), PoolConfig(tmp_path / "workers"))
    with bind("127.0.0.1", 0) as listener, trio.fail_after(240):
        server = SupervisedServer(plan, listener, lambda: (), told)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            assert await died.receive() == "ready"
            assert server.worker is not None
            model.write_bytes(good.replace(b"MatMul", b"NotAnO"))
            server.worker.kill()
            assert "SIGKILL" in await died.receive()
            assert "NotAnO" in await died.receive()
            model.write_bytes(good)
            assert await died.receive() == "ready"
            await server.stop(1)


async def test_a_server_that_is_told_to_stop_before_it_answers_stops(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    plan = ServerPlan((ModelFile("m", tmp_path / "m.onnx"),), PoolConfig(tmp_path / "workers"))
    with bind("127.0.0.1", 0) as listener, trio.fail_after(60):
        server = SupervisedServer(plan, listener, lambda: (), ServerListener())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await trio.testing.wait_all_tasks_blocked()
            assert server.worker is None
            await server.stop(1)


def cyxwiz(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(data_dir), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_beyond_loopback_only_with_a_key_which_can_be_taken_back(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    refused = cyxwiz(tmp_path, "serve", str(tmp_path / "m.onnx"), "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1
    assert "needs an API key" in refused.stderr
    key = cyxwiz(tmp_path, "keys", "new", "phone").stdout.splitlines()[0]
    kept = tmp_path / "api_keys.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert key not in kept.read_text()
    with serving(tmp_path, str(tmp_path / "m.onnx"), "--host", "0.0.0.0") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.ask("/health")[0]["needs_key"] is True
        assert status_of(server, "/v1/predict", ROW)[0] == 401
        assert server.ask("/v1/predict", ROW, authorization=f"Bearer {key}")[0]["outputs"]["logits"] == LOGITS
        good = kept.read_bytes()
        kept.write_bytes(b"[{")
        assert "is damaged" in server.next_news("keys")["problem"]
        assert server.ask("/v1/predict", ROW, authorization=f"Bearer {key}")[0]["outputs"]["logits"] == LOGITS
        again = cyxwiz(tmp_path, "serve", str(tmp_path / "m.onnx"), "--port", "0")
        assert (again.returncode, "api_keys.json is damaged" in again.stderr) == (1, True)
        kept.write_bytes(good)
        name = cyxwiz(tmp_path, "keys", "list").stdout.split()[0]
        assert cyxwiz(tmp_path, "keys", "revoke", name).returncode == 0
        deadline = time.monotonic() + 90
        while status_of(server, "/v1/predict", ROW, authorization=f"Bearer {key}")[0] != 401:
            assert time.monotonic() < deadline, "a revoked key still works"


def test_a_cyxmodel_answers_beside_an_onnx_model(tmp_path: Path) -> None:
    graph = chain(door(3), Node("dense", "Dense", 1, {"units": 2}), OUT)
    own = save(tmp_path / "net.cyxmodel", graph)
    linear_onnx(tmp_path / "linear.onnx")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = load_model(own, "cpu").run({"input": x})["output"]
    with serving(tmp_path / "data", str(own), str(tmp_path / "linear.onnx")) as server:
        answer, _ = server.ask("/v1/predict", {"inputs": x.tolist()})
        assert np.allclose(answer["outputs"]["output"], expected, atol=1e-6)
        other, _ = server.ask("/v1/predict", ROW, x_model="linear")
        assert other["outputs"]["logits"] == LOGITS
        assert [model["id"] for model in server.ask("/v1/models")[0]["data"]] == ["net", "linear"]


def test_what_cannot_be_served_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    assert "is unknown, served are" in cyxwiz(tmp_path, "serve", str(tmp_path / "m.onnx")).stderr
    linear_onnx(tmp_path / "good.onnx")
    broken = (tmp_path / "good.onnx").read_bytes().replace(b"MatMul", b"NotAnO")
    (tmp_path / "m.onnx").write_bytes(broken)
    said = cyxwiz(tmp_path, "serve", str(tmp_path / "m.onnx"), "--port", "0")
    assert said.returncode == 1
    assert "NotAnO" in said.stderr
