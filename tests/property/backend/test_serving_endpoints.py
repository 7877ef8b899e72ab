"""Whatever is sent to a model server is answered: with a status of its own, never with 500."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.serving.messages import ServerLimits
from backend.serving.predict_api import write_npy
from tests.property.effort import examples
from tests.unit.backend.serving.server import Answer, Doubler, Server, Single

CORPUS = Path(__file__).parent / "serving_corpus"
QUIET = settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ENDPOINTS = (
    "/v1/predict",
    "/v2/models/m/infer",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v2/repository/index",
)
FINE = {200, 400, 403, 404, 405, 413, 421}


class Loop:
    """A server on a loop that outlives the examples of a test."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._server = self._runner.run(self._make())

    async def _make(self) -> Server:
        return Server({"m": Doubler(), "s": Single()}, ServerLimits(body_bytes=1 << 16))

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self._runner.run(self._server.ask(method, path, body, **headers))

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def is_told(answer: Answer) -> bool:
    """A refusal says why, in JSON."""
    return answer.status == 200 or bool(answer.json["error"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["inputs", "items", "model", "input", "messages", "prompt", "outputs", "parameters", "stop", "n", "id"]
)
NUMBER = st.floats(width=32) | st.integers()
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y", "z"]),
        "shape": st.lists(st.integers(-2, 4) | st.just(1 << 62), max_size=4),
        "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BOOL", "BYTES", "?"]),
    },
    optional={
        "data": JSON | st.lists(NUMBER, max_size=9),
        "parameters": st.dictionaries(st.just("binary_data_size"), JSON, max_size=1),
    },
)
BODIES = (
    st.binary(max_size=200)
    | st.dictionaries(FIELDS, JSON, max_size=5).map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"inputs": st.lists(TENSOR, max_size=3)}).map(lambda v: json.dumps(v).encode())
    | st.fixed_dictionaries({"inputs": st.fixed_dictionaries({"x": JSON, "y": JSON})}).map(
        lambda value: json.dumps(value).encode()
    )
)


@given(path=st.sampled_from(ENDPOINTS), body=BODIES, length=st.none() | st.integers(-1, 300))
@QUIET
def test_any_body_is_answered_or_refused(server: Loop, path: str, body: bytes, length: int | None) -> None:
    headers = {} if length is None else {"inference_header_content_length": str(length)}
    answer = server.ask("POST", path, body, **headers)
    assert answer.status in FINE, answer
    assert is_told(answer)


@given(
    kind=st.sampled_from(
        [
            "application/octet-stream",
            "application/x-npy",
            "application/vnd.safetensors",
            "image/png",
            "text/csv",
            "text/plain",
        ]
    ),
    body=st.binary(max_size=200),
    shape=st.none() | st.text("0123456789,-x", max_size=20),
    dtype=st.none() | st.sampled_from(["float32", "int64", "object", "float32 ", "bool"]),
)
@QUIET
def test_any_binary_body_is_answered_or_refused(
    server: Loop, kind: str, body: bytes, shape: str | None, dtype: str | None
) -> None:
    headers = {"content_type": kind, "x_model": "s"}
    headers |= {} if shape is None else {"x_shape": shape}
    headers |= {} if dtype is None else {"x_dtype": dtype}
    answer = server.ask("POST", "/v1/predict", body, **headers)
    assert answer.status in FINE, answer
    assert is_told(answer)


@given(
    head=st.binary(max_size=60),
    flips=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=4),
)
@QUIET
def test_a_damaged_npy_is_answered_or_refused(
    server: Loop, head: bytes, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(write_npy(np.ones((2, 3), np.float32)))
    for at, value in flips:
        data[at] = value
    body = bytes(data) if flips else b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    answer = server.ask("POST", "/v1/predict", body, content_type="application/x-npy", x_model="s")
    assert answer.status in FINE, answer


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", ""]),
    path=st.text(max_size=30)
    | st.sampled_from(["/", "//", "/v2/models//infer", "/v2/models/%2e%2e/ready", "/page/../"]),
    headers=st.dictionaries(
        st.sampled_from(
            ["host", "origin", "authorization", "content_length", "accept", "content_type", "x_model"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
)
@QUIET
def test_any_path_and_head_is_answered_or_refused(
    server: Loop, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = server.ask(method, path, b"{}", **headers)
    assert answer.status in FINE, answer


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_once_was_found_stays_refused(server: Loop, file: Path) -> None:
    """``METHOD path``, headers, an empty line, the body."""
    head, _, body = file.read_bytes().partition(b"\n\n")
    first, *lines = head.decode().splitlines()
    method, path = first.split(" ")
    headers: dict[str, Any] = dict(line.split(": ", 1) for line in lines)
    answer = server.ask(
        method, path, body, **{name.replace("-", "_"): value for name, value in headers.items()}
    )
    assert answer.status in FINE - {200}, answer
    assert is_told(answer)
