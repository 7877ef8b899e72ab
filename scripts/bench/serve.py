"""`cyxwiz serve` against FastAPI + onnxruntime, grpc.aio and MLServer, with one client for all;
grpc.aio also with its own, which is what its users have.

A small CNN at 1, 8, 32 and 64 clients, and MiniLM (int8) with and without batches; in turn, medians of
the rounds. MLServer wants packages that do not go with ours: it is measured if it has a venv of its own,
made by ``scripts/bench/serve.py --install-mlserver``. Needs the ``bench`` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import numpy as np  # noqa: E402
from real_models import find_model  # noqa: E402
from serve_client import Load, Measured  # noqa: E402

CLIENTS = (1, 8, 32, 64)
ROUNDS = 3
START_S = 60.0
VENV = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cyxwiz" / "bench" / "mlserver"
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Contender:
    name: str
    called: str
    load: Load
    requests: int
    """In a second or so, at many clients."""


def small_cnn(path: Path) -> None:
    """28 x 28 in, 10 out, about 20 microseconds a row."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.RandomState(0)
    shapes = {"c1": (8, 1, 3, 3), "c2": (16, 8, 3, 3), "w": (784, 10), "b": (10,)}
    weights = [
        numpy_helper.from_array((random.randn(*shape) * 0.1).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    convolution = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "c1"], ["h1"], **convolution),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Conv", ["r1", "c2"], ["h2"], **convolution),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 28, 28])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "cnn", [x], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, **options: Any) -> Iterator[None]:
    """Until the process answers on ``port``, and while the block runs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {})
    # A session of its own, as our worker has: on a busy machine the scheduler shares by session.
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True, **options
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[:4]} did not start") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ours(stack: ExitStack, folder: Path, model: Path, *more: str) -> int:
    port = free_port()
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(folder / f"data-{port}")]
    stack.enter_context(running([*command, "serve", str(model), "--port", str(port), *more], port))
    return port


def rival(stack: ExitStack, what: str, model: Path) -> int:
    port = free_port()
    command = [sys.executable, str(HERE / "serve_rivals.py"), what, str(model), str(port)]
    stack.enter_context(running(command, port))
    return port


def mlserver(stack: ExitStack, folder: Path, model: Path) -> int | None:
    if not (VENV / "bin" / "mlserver").exists():
        print("MLServer is not here: scripts/bench/serve.py --install-mlserver", file=sys.stderr)
        return None
    port, home = free_port(), folder / "mlserver"
    home.mkdir()
    implementation = "serve_mlserver.OnnxModel"
    about = {"name": "cnn", "implementation": implementation, "parameters": {"uri": str(model)}}
    (home / "model-settings.json").write_text(json.dumps(about))
    server = {
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (home / "settings.json").write_text(json.dumps(server))
    command = [str(VENV / "bin" / "mlserver"), "start", str(home)]
    stack.enter_context(running(command, port, env={"PYTHONPATH": str(HERE)}, stderr=subprocess.DEVNULL))
    return port


def contenders(stack: ExitStack, folder: Path) -> list[Contender]:
    model = folder / "cnn.onnx"
    small_cnn(model)
    x = np.random.RandomState(1).rand(1, 1, 28, 28).astype(np.float32)
    raw = x.tobytes().decode("latin-1")
    lists = json.dumps({"inputs": x.tolist()})
    v2 = {"inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}]}
    port = ours(stack, folder, model)
    blank = Load(0, 0, 0, "", "application/json", "")
    grpc = replace(blank, port=rival(stack, "grpc", model), path="/t.T/Infer", body=raw, grpc=True)
    found = [
        Contender(
            "binary",
            "ours",
            replace(blank, port=port, path="/v1/predict", content_type=OCTETS, body=raw),
            8000,
        ),
        Contender("json", "ours", replace(blank, port=port, path="/v1/predict", body=lists), 6000),
        Contender(
            "fastapi",
            "FastAPI + onnxruntime",
            replace(blank, port=rival(stack, "fastapi", model), path="/predict", body=lists),
            2000,
        ),
        Contender("grpc", "grpc.aio", grpc, 2500),
        Contender("grpc_pair", "grpc.aio with its own client", replace(grpc, library=True), 2000),
    ]
    if (other := mlserver(stack, folder, model)) is not None:
        load = replace(blank, port=other, path="/v2/models/cnn/infer", body=json.dumps(v2))
        found.append(Contender("mlserver", "MLServer", load, 1200))
    return found


def texts(stack: ExitStack, folder: Path) -> list[Contender]:
    """MiniLM with batches and without, or nothing where the model is not here."""
    model = find_model("minilm")
    if model is None:
        print("MiniLM is not here: scripts/real_models.py fetches it", file=sys.stderr)
        return []
    body = json.dumps({"model": "minilm", "input": "A short sentence, such as people search for."})
    found = []
    for name, called, batch in (("batched", "ours", "32"), ("single", "the same, without batches", "1")):
        port = ours(stack, folder, model, "--batch", batch)
        load = Load(port, 0, 0, "/v1/embeddings", "application/json", body)
        found.append(Contender(name, called, load, 320))
    return found


def one_round(contender: Contender, clients: int) -> Measured:
    requests = contender.requests if clients > 1 else contender.requests // 4
    load = replace(contender.load, clients=clients, requests=requests)
    done = subprocess.run(
        [sys.executable, str(HERE / "serve_client.py")],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{contender.name} at {clients} clients: {done.stderr[-500:]}")
    return Measured(**json.loads(done.stdout))


def measure(rounds: int) -> dict[tuple[str, int], Measured]:
    """By contender and clients, medians."""
    all_of: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        small, large = contenders(stack, Path(name)), texts(stack, Path(name))
        for _ in range(rounds):
            for clients in CLIENTS:
                for each in small:
                    all_of[each.name, clients].append(one_round(each, clients))
            for each in large:
                all_of[each.name, 32].append(one_round(each, 32))
    return {key: _median(values) for key, values in all_of.items()}


def _median(values: list[Measured]) -> Measured:
    return Measured(
        *(statistics.median(getattr(v, f) for v in values) for f in ("per_s", "p50_ms", "p99_ms"))
    )


def rows(found: dict[tuple[str, int], Measured]) -> list[dict[str, Any]]:
    frameworks = {"fastapi": "FastAPI + onnxruntime", "mlserver": "MLServer"}
    here = {name: called for name, called in frameworks.items() if (name, 32) in found}
    best = max(here, key=lambda name: found[name, 32].per_s)
    table = [
        ("binary_32_of_fastapi", "binary", "fastapi", here["fastapi"]),
        ("json_32_of_fastapi", "json", "fastapi", here["fastapi"]),
        ("binary_32_of_grpc_aio", "binary", "grpc_pair", "grpc.aio with its own client"),
        ("binary_32_of_grpc_aio_same_client", "binary", "grpc", "grpc.aio with the client of all others"),
        ("json_32_of_best_framework", "json", best, here[best]),
        ("minilm_batching", "batched", "single", "without batches"),
    ]
    results: list[dict[str, Any]] = []
    for what, mine, theirs, called in table:
        if (mine, 32) in found and (theirs, 32) in found:
            a, b = found[mine, 32].per_s, found[theirs, 32].per_s
            results.append({"what": what, "ours": a, "other": b, "other_name": called, "ratio": a / b})
    p99 = {"what": "p99_1_client_ms", "ours": found["binary", 1].p99_ms}
    return [*results, p99 | {"other": None, "other_name": None, "ratio": None}]


def install_mlserver() -> None:
    VENV.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin" / "pip"), "install", "-q", "mlserver", "onnxruntime"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--install-mlserver", action="store_true", help="Make its venv, outside the tree.")
    options = parser.parse_args()
    if options.install_mlserver:
        install_mlserver()
        return
    # So that whoever is told to stop takes its servers with it: they have sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    found = measure(options.rounds)
    print(f"{'server':10} {'clients':>7} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8}")
    for (name, clients), value in sorted(found.items()):
        print(f"{name:10} {clients:7} {value.per_s:11.0f} {value.p50_ms:8.2f} {value.p99_ms:8.2f}")
    results = rows(found)
    for row in results:
        ratio = "" if row["ratio"] is None else f"  {row['ratio']:.2f} times {row['other_name']}"
        print(f"{row['what']}: {row['ours']:.4g}{ratio}")
    if options.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
