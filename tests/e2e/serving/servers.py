"""Real model servers on loopback: `cyxwiz serve` as a user starts it, and the clients' own libraries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Running:
    """One ``cyxwiz serve`` process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = ""
        self.news: list[dict[str, Any]] = []

    def next_news(self, event: str) -> dict[str, Any]:
        """Reads on until that event. Fails with what the process said if it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            news: dict[str, Any] = json.loads(line)
            self.news.append(news)
            if news["event"] == event:
                return news
        raise AssertionError(self.process.stderr.read() if self.process.stderr else "ended")

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[Any, dict[str, str]]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = Request(self.url + path, data, {name.replace("_", "-"): v for name, v in headers.items()})
        with urlopen(request, timeout=60) as answer:
            raw = answer.read()
            is_json = answer.headers["content-type"].startswith("application/json")
            return (json.loads(raw) if is_json else raw), dict(answer.headers)

    def stop(self) -> str:
        """Ctrl-C; what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=60)
        return said


@contextmanager
def serving(data_dir: Path, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(data_dir), "serve", "--json"]
    command += ["--port", "0", *arguments]
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


def worker_pids(server: Running) -> list[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def linear_onnx(path: Path) -> np.ndarray[Any, Any]:
    """``logits = x @ w``, x (batch, 3), two outputs; returns w."""
    w = np.arange(6, dtype=np.float32).reshape(3, 2)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("logits", "shares")
    ]
    write_onnx(path, helper.make_graph(nodes, "linear", [x], ends, [numpy_helper.from_array(w, "w")]))
    return w


def write_onnx(path: Path, graph: Any) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    assert onnx.load_model_from_string(path.read_bytes()).graph.name == graph.name


def endless_onnx(path: Path) -> None:
    """A loop that ends only where ``x`` is not above zero, after as many rounds as there are numbers."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["keep_on"]), helper.make_node("Identity", ["v"], ["v_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_on", TensorProto.FLOAT, ["n", 1]),
        ],
    )
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["go"]),
        helper.make_node("Loop", ["", "go", "x"], ["y"], body=body),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    write_onnx(path, helper.make_graph(nodes, "endless", [x], [y], [zero]))


def greedy_onnx(path: Path) -> None:
    """Asks for as many floats as its input says."""
    nodes = [
        helper.make_node("Cast", ["x"], ["size"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["size"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    write_onnx(path, helper.make_graph(nodes, "greedy", [x], [y]))
