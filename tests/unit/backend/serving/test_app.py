"""The endpoints, without a socket: what they answer, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from backend.errors import DeadlineError
from backend.formats.tensors import Array
from backend.serving.app import Route
from backend.serving.http import Call, HttpError, Reply, fields_of
from backend.serving.keys import make_key
from backend.serving.messages import ServerLimits, TensorSpec
from backend.serving.predict_api import read_npy, write_npy
from backend.serving.stats import ModelReading, ModelStats, prometheus
from tests.unit.backend.serving.server import Doubler, Server, Single, talk, until

ROWS = {"x": [[1, 2, 3]], "y": [[1, 1, 1]]}


def test_all_outputs_are_answered_by_name() -> None:
    answer = talk(lambda server: server.ask("POST", "/v1/predict", {"inputs": ROWS}))
    assert answer.json == {"model": "m", "outputs": {"double": [[2, 4, 6]], "sum": [9]}}


def test_a_model_with_one_input_takes_it_without_a_name() -> None:
    answer = talk(lambda server: server.ask("POST", "/v1/predict", {"inputs": [[1, 2, 3]]}), {"m": Single()})
    assert answer.json["outputs"] == {"double": [[2, 4, 6]]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no such JSON"),
        (b"[" * 100_000, "no such JSON"),
        (b"\xff", "no such JSON"),
        (b"{}", "neither inputs nor items"),
        ({"inputs": [[1, 2, 3]]}, "give an object"),
        ({"inputs": {"x": [[1, 2, 3]]}}, "the model takes x, y"),
        ({"inputs": {"x": [[1, 2]], "y": [[1, 1, 1]]}}, "is shaped (1, 2), allowed is (any, 3)"),
        ({"inputs": {"x": [[1, 2], [3]], "y": [[1, 1, 1]]}}, "rows of different lengths"),
        ({"inputs": {"x": [["a", "b", "c"]], "y": [[1, 1, 1]]}}, "Expected `float`, got `str`"),
        ({"inputs": {"x": [], "y": []}}, "is shaped (0,)"),
        ({"inputs": {"x": None, "y": None}}, "Expected `array`, got `null`"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(body: Any, says: str) -> None:
    answer = talk(lambda server: server.ask("POST", "/v1/predict", body))
    assert answer.status == 400
    assert says in answer.json["error"]["text"]


def test_a_binary_body_is_answered_in_kind() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    async def work(server: Server) -> None:
        raw = await server.ask("POST", "/v1/predict", x.tobytes(), content_type="application/octet-stream")
        assert np.array_equal(np.frombuffer(raw.body, np.float32).reshape(2, 3), 2 * x)
        assert (raw.headers["x-shape"], raw.headers["x-dtype"], raw.headers["x-output"]) == (
            "2,3",
            "float32",
            "double",
        )
        npy = await server.ask("POST", "/v1/predict", write_npy(x), content_type="application/x-npy")
        assert np.array_equal(read_npy(npy.body), 2 * x)
        kind = "application/vnd.safetensors"
        packed = await server.ask("POST", "/v1/predict", save_safetensors({"x": x}), content_type=kind)
        assert np.array_equal(load_safetensors(packed.body)["double"], 2 * x)

    talk(work, {"m": Single()})


def test_npy_is_what_numpy_reads_and_writes(tmp_path: Any) -> None:
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.ones((3, 4), ">i4") * 7),
        np.zeros(2, bool),
    ):
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_npy((tmp_path / "a.npy").read_bytes()), array)
        (tmp_path / "b.npy").write_bytes(write_npy(np.ascontiguousarray(array)))
        assert np.array_equal(np.load(tmp_path / "b.npy", allow_pickle=False), array)


@pytest.mark.parametrize(
    ("kind", "body", "headers"),
    [
        ("application/octet-stream", b"\0" * 12, {"x_shape": "1,4"}),
        ("application/octet-stream", b"\0" * 12, {"x_shape": "-1,-3"}),
        ("application/octet-stream", b"\0" * 12, {"x_shape": "1" * 5000}),
        ("application/octet-stream", b"\0" * 12, {"x_shape": "4611686018427387904,4611686018427387904"}),
        ("application/octet-stream", b"\0" * 13, {}),
        ("application/octet-stream", b"", {}),
        ("application/octet-stream", b"\0" * 12, {"x_dtype": "object", "x_shape": "1,3"}),
        ("application/x-npy", b"\x93NUMPY\x01\x00\xff\xff{}", {}),
        ("application/x-npy", b"\x93NUMPY\x01\x00\x26\x00{'descr': '|O', 'fortran_order': False}", {}),
        ("application/x-npy", write_npy(np.ones((1, 3), np.float32)).replace(b"(1, 3)", b"(9, 9)"), {}),
        ("application/x-npy", write_npy(np.ones((1, 3), np.float32)).replace(b"<f4", b"|O8"), {}),
        ("application/x-npy", write_npy(np.ones((1, 3), np.float32)).replace(b"(1, 3)", b"(1e999,)"), {}),
        ("application/x-npy", b"PK\x03\x04", {}),
        ("application/vnd.safetensors", struct.pack("<Q", 1 << 60) + b"{}", {}),
    ],
)
def test_a_lying_binary_body_is_refused(kind: str, body: bytes, headers: dict[str, str]) -> None:
    answer = talk(lambda s: s.ask("POST", "/v1/predict", body, content_type=kind, **headers), {"m": Single()})
    assert answer.status == 400, answer


def test_requests_that_arrive_together_share_a_batch() -> None:
    model = Doubler()

    async def work(server: Server) -> None:
        await server.ask("POST", "/v1/predict", {"inputs": ROWS})
        del model.batches[:]
        asks = [
            server.ask("POST", "/v1/predict", {"inputs": {"x": [[i] * 3], "y": [[0] * 3]}}) for i in range(20)
        ]
        answers = await asyncio.gather(*asks)
        assert [answer.json["outputs"]["sum"] for answer in answers] == [[3.0 * i] for i in range(20)]

    talk(work, {"m": model})
    assert sum(model.batches) == 20
    assert max(model.batches) > 10


def test_one_bad_row_does_not_fail_its_neighbours() -> None:
    async def work(server: Server) -> None:
        await server.ask("GET", "/v1/model")
        good = {"inputs": ROWS}
        bad = (
            json.dumps({"inputs": {"x": [[1e999, 0, 0]], "y": [[0, 0, 0]]}})
            .replace("Infinity", "NaN")
            .encode()
        )
        npz = save_safetensors({"x": np.full((1, 3), np.nan, np.float32), "y": np.zeros((1, 3), np.float32)})
        answers = await asyncio.gather(
            server.ask("POST", "/v1/predict", good),
            server.ask("POST", "/v1/predict", bad),
            server.ask("POST", "/v1/predict", npz, content_type="application/vnd.safetensors"),
            server.ask("POST", "/v1/predict", good),
        )
        assert [answer.status for answer in answers] == [200, 400, 500, 200]

    talk(work)


class Held(Doubler):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Event(), threading.Event()
        self.held = False

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        if self.held:
            self.entered.set()
            assert self.let_go.wait(20)
        return super().run(inputs)


async def _hold(server: Server, model: Held) -> asyncio.Task[Any]:
    """A request that the model is busy with."""
    await server.ask("GET", "/v1/model")
    resident = server.host._entries["m"].resident
    assert resident is not None
    for _ in range(3):
        resident.batcher.pace.note(1.0)
    model.held = True
    first = asyncio.ensure_future(server.ask("POST", "/v1/predict", {"inputs": ROWS}))
    await asyncio.to_thread(model.entered.wait, 20)
    return first


def test_one_more_than_may_wait_is_told_when_to_come_back() -> None:
    model = Held()

    async def work(server: Server) -> None:
        first = await _hold(server, model)
        waiting = [
            asyncio.ensure_future(server.ask("POST", "/v1/predict", {"inputs": ROWS})) for _ in range(2)
        ]
        await until(lambda: server.host.readings()[0].queue_depth == 2)
        refused = await server.ask("POST", "/v1/predict", {"inputs": ROWS})
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        model.let_go.set()
        assert [answer.status for answer in await asyncio.gather(first, *waiting)] == [200, 200, 200]

    talk(work, {"m": model}, ServerLimits(waiting=2))


def test_whoever_waits_is_answered_by_the_deadline_whatever_the_model_does() -> None:
    model = Held()

    async def work(server: Server) -> None:
        first = await _hold(server, model)
        waiting = asyncio.ensure_future(server.ask("POST", "/v1/predict", {"inputs": ROWS}))
        await until(lambda: server.host.readings()[0].queue_depth == 1)
        server.host.sweep(float("inf"))
        assert [answer.status for answer in await asyncio.gather(first, waiting)] == [504, 504]
        model.let_go.set()

    talk(work, {"m": model})


def test_unloading_waits_for_requests_in_flight_and_refuses_new_ones() -> None:
    model = Held()

    async def work(server: Server) -> None:
        first = await _hold(server, model)
        unloading = asyncio.ensure_future(server.ask("POST", "/v2/repository/models/m/unload"))
        await until(lambda: server.host._entries["m"].withdrawn)
        assert (await server.ask("POST", "/v1/predict", {"inputs": ROWS})).status == 404
        assert not unloading.done()
        model.let_go.set()
        assert [answer.status for answer in await asyncio.gather(first, unloading)] == [200, 200]
        assert not server.host.is_loaded("m")
        assert (await server.ask("POST", "/v2/repository/models/m/load")).status == 200
        assert (await server.ask("POST", "/v1/predict", {"inputs": ROWS})).status == 200
        assert server.loads == ["m", "m"]

    talk(work, {"m": model})


def test_models_beyond_the_memory_budget_take_turns() -> None:
    async def work(server: Server) -> None:
        for name in ("a", "b", "a"):
            answer = await server.ask("POST", "/v1/predict", {"inputs": ROWS, "model": name})
            assert answer.json["model"] == name
        assert server.loads == ["a", "b", "a"]
        states = {
            each["name"]: each["state"] for each in (await server.ask("POST", "/v2/repository/index")).json
        }
        assert states == {"a": "READY", "b": "UNAVAILABLE"}

    talk(work, {"a": Doubler(), "b": Doubler()}, ServerLimits(memory_bytes=1500))


class Late(Doubler):
    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        raise DeadlineError("stopped")


class Greedy(Doubler):
    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        raise MemoryError


@pytest.mark.parametrize(("model", "status"), [(Late(), 504), (Greedy(), 507)])
def test_what_a_model_cannot_do_has_a_status_of_its_own(model: Doubler, status: int) -> None:
    assert talk(lambda s: s.ask("POST", "/v1/predict", {"inputs": ROWS}), {"m": model}).status == status


@pytest.mark.parametrize("cut", [0, 7])
def test_a_body_above_the_limit_is_refused_whatever_it_declares(cut: int) -> None:
    limits = ServerLimits(body_bytes=100)

    async def work(server: Server) -> None:
        declared = await server.ask("POST", "/v1/predict", b" ", content_length="101")
        assert (declared.status, declared.headers["connection"]) == (413, "close")
        sent = await server.ask("POST", "/v1/predict", b" " * 101, cut=7)
        assert sent.status == 413
        assert (await server.ask("POST", "/v1/predict", b" " * 99, cut=cut)).status == 400

    talk(work, limits=limits)


def test_no_answer_invites_other_sites() -> None:
    async def work(server: Server) -> None:
        for path in ("/", "/health", "/v1/model", "/nowhere"):
            answer = await server.ask("GET", path, origin="http://127.0.0.1")
            assert not any(name.startswith("access-control") for name in answer.headers)
        assert (await server.ask("OPTIONS", "/v1/predict", origin="http://evil.example")).status == 403
        assert (await server.ask("GET", "/health", host="evil.example")).status == 421

    talk(work)


def test_keys_are_asked_for_everywhere_but_health_and_page() -> None:
    text, kept = make_key("k", ("predict",), 0, ("id", "secret"), "")

    async def work(server: Server) -> None:
        for path in ("/health", "/", "/page.js", "/openapi.json", "/v2/health/ready"):
            assert (await server.ask("GET", path)).status == 200
        for method, path in (
            ("GET", "/v1/model"),
            ("POST", "/v1/predict"),
            ("GET", "/metrics"),
            ("GET", "/v1/models"),
        ):
            assert (await server.ask(method, path)).status == 401
        allowed = f"Bearer {text}"
        assert (await server.ask("GET", "/v1/model", authorization=allowed)).status == 200
        assert (await server.ask("GET", "/metrics", authorization=allowed)).status == 403
        assert (
            await server.ask("POST", "/v2/repository/models/m/unload", authorization=allowed)
        ).status == 403

    talk(work, keys=(kept,))


def test_wrong_paths_and_methods_are_told_apart() -> None:
    async def work(server: Server) -> None:
        assert (await server.ask("GET", "/nowhere")).status == 404
        wrong = await server.ask("GET", "/v1/predict")
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
        assert (await server.ask("POST", "/v2/models/other/infer", {"inputs": []})).json == {
            "error": "no model 'other' here, but m"
        }
        assert (await server.ask("POST", "/v1/embeddings", {"model": "m", "input": "a"})).json["error"][
            "type"
        ] == ("invalid_request_error")

    talk(work)


def test_what_no_route_is_known_for_is_refused_as_its_client_understands() -> None:
    async def work(server: Server) -> None:
        async def refused(path: str, host: str = "127.0.0.1") -> Any:
            return (await server.ask("GET", path, host=host)).json["error"]

        assert "no such path" in await refused("/v2/models/m/config")
        assert "is not this server" in await refused("/v2/models/m", host="evil.example")
        assert (await refused("/v1/audio"))["message"].startswith("no such path")
        assert (await refused("/v1/predict"))["text"] == "GET, allowed is POST"
        assert (await refused("/nowhere"))["code"] == "not_found"

    talk(work)


def test_a_compressed_body_is_not_taken_for_what_it_is_not() -> None:
    async def work(server: Server) -> None:
        body = {"inputs": {"x": [[1, 2, 3]], "y": [[0, 0, 0]]}}
        answer = await server.ask("POST", "/v2/models/m/infer", body, content_encoding="gzip")
        assert (answer.status, answer.json["error"]) == (415, "content-encoding 'gzip', allowed is none")
        assert (await server.ask("POST", "/v1/predict", body, content_encoding="identity")).status == 200

    talk(work)


def test_a_header_that_decides_something_is_there_once() -> None:
    fields = [(b"host", b"a"), (b"accept", b"x"), (b"accept", b"y")]
    assert fields_of(fields) == {b"host": b"a", b"accept": b"y"}
    for name in (b"host", b"origin", b"authorization"):
        with pytest.raises(HttpError, match="2 times, allowed is once"):
            fields_of([(name, b"a"), (b"x", b"y"), (name, b"b")])


def test_metrics_count_what_happened() -> None:
    async def work(server: Server) -> None:
        await server.ask("POST", "/v1/predict", {"inputs": ROWS})
        await server.ask("POST", "/v1/predict", b"{")
        await server.ask("POST", "/v1/predict", {"inputs": {}})
        for path in ("/v1/model", "/v2/models/m", "/v1/models/m"):  # no requests to the model
            assert (await server.ask("GET", path)).status == 200
        lines = (await server.ask("GET", "/metrics")).body.decode().splitlines()
        assert 'cyxwiz_requests_total{model="m",outcome="ok"} 1' in lines
        assert 'cyxwiz_requests_total{model="m",outcome="refused"} 1' in lines
        assert 'cyxwiz_refused_total{reason="invalid"} 2' in lines
        assert 'cyxwiz_latency_seconds_bucket{model="m",le="+Inf"} 2' in lines
        assert 'cyxwiz_rows_total{model="m"} 1' in lines

    talk(work)


def test_large_counts_are_told_to_the_last_digit() -> None:
    stats = ModelStats(rows=123_456_789, latency_sum_s=98_765.4321)
    text = prometheus([ModelReading("m", stats, 0, 0, True, 0, 0.0)], Counter())
    assert 'cyxwiz_rows_total{model="m"} 123456789\n' in text
    assert 'cyxwiz_latency_seconds_sum{model="m"} 98765.4321\n' in text


def test_the_openapi_document_names_every_path() -> None:
    async def work(server: Server) -> None:
        document = (await server.ask("GET", "/openapi.json")).json
        assert document["openapi"].startswith("3.")
        assert {"/v1/predict", "/v2/models/{model}/infer", "/v1/chat/completions", "/metrics"} <= document[
            "paths"
        ].keys()
        schema = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        assert schema["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]

    talk(work)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    async def work(server: Server) -> None:
        page = await server.ask("GET", "/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        script = await server.ask("GET", "/page.js")
        style = await server.ask("GET", "/page.css")
        for text in (page.body, script.body, style.body):
            assert b"http://" not in text
            assert b"https://" not in text
            assert b"@import" not in text
        assert b"<script>" not in page.body
        assert b"style=" not in page.body
        assert b"innerHTML" not in script.body

    talk(work)


def test_v2_takes_and_gives_binary_tensors() -> None:
    x, y = np.arange(3, dtype=np.float32)[None], np.ones((1, 3), np.float32)
    head = {
        "id": "7",
        "inputs": [
            {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
            {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": y.ravel().tolist()},
        ],
        "outputs": [{"name": "double", "parameters": {"binary_data": True}}, {"name": "sum"}],
    }
    raw = json.dumps(head).encode()

    async def work(server: Server) -> None:
        length = {"inference_header_content_length": str(len(raw))}
        answer = await server.ask("POST", "/v2/models/m/infer", raw + x.tobytes(), **length)
        size = int(answer.headers["inference-header-content-length"])
        about = json.loads(answer.body[:size])
        assert np.array_equal(np.frombuffer(answer.body[size:], np.float32), 2 * x[0])
        assert (about["id"], about["outputs"][1]["data"]) == ("7", [6.0])
        for wrong in (str(len(raw) + 99), "-1", "x", "9" * 30):
            refused = await server.ask(
                "POST", "/v2/models/m/infer", raw, inference_header_content_length=wrong
            )
            assert refused.status == 400
        cut = await server.ask("POST", "/v2/models/m/infer", raw + x.tobytes()[:-1], **length)
        more = await server.ask("POST", "/v2/models/m/infer", raw + x.tobytes() + b"?", **length)
        assert (cut.status, more.status) == (400, 400)
        head["outputs"] = [{"name": "double"}] * 2
        raw_twice = json.dumps(head).encode()
        length = {"inference_header_content_length": str(len(raw_twice))}
        twice = await server.ask("POST", "/v2/models/m/infer", raw_twice + x.tobytes(), **length)
        assert (twice.status, "twice" in twice.json["error"]) == (400, True)

    talk(work)


def test_who_needs_no_key_sends_no_large_body() -> None:
    async def work(server: Server) -> None:
        assert (await server.ask("GET", "/health", b" " * 70_000, cut=7000)).status == 413
        assert (await server.ask("GET", "/health", content_length="70000")).status == 413

    talk(work)


def test_large_bodies_of_all_requests_together_are_bounded_and_small_ones_pass() -> None:
    model, limits = Held(), ServerLimits(body_bytes=100_000, bodies_bytes=150_000)
    small = json.dumps({"inputs": ROWS}).encode()
    large = small + b" " * 70_000

    async def work(server: Server) -> None:
        held = [await _hold(server, model)]
        held += [asyncio.ensure_future(server.ask("POST", "/v1/predict", large)) for _ in range(2)]
        await until(lambda: server.host.readings()[0].queue_depth == 2)
        refused = await server.ask("POST", "/v1/predict", large, cut=30_000)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert int(refused.headers["retry-after"]) >= 1
        held.append(asyncio.ensure_future(server.ask("POST", "/v1/predict", small)))
        await until(lambda: server.host.readings()[0].queue_depth == 3)
        model.let_go.set()
        assert [(await answer).status for answer in held] == [200] * 4
        # What was held is free again, also what a refused request had brought.
        again = await asyncio.gather(*(server.ask("POST", "/v1/predict", large, cut=9000) for _ in range(2)))
        assert [answer.status for answer in again] == [200] * 2

    talk(work, {"m": model}, limits)


class Indiscreet(Single):
    """Has no fixed shape, so that nothing warms it up."""

    inputs = (TensorSpec("x", "float32", (-1, -1)),)

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        raise KeyError("/home/somebody/secret")


def test_what_fails_inside_is_told_to_nobody_outside(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(call: Call) -> Reply:
        raise KeyError("/home/somebody/secret")

    async def work(server: Server) -> None:
        server.app.route((Route("GET", "/broken", broken, "Fails"),))
        for method, path in (("POST", "/v1/predict"), ("GET", "/broken")):
            answer = await server.ask(method, path, {"inputs": [[1.0]]})
            assert answer.status == 500
            assert answer.json["error"]["text"] == "the server failed on this request"

    talk(work, {"m": Indiscreet()})
    assert capsys.readouterr().err.count("KeyError at test_app.py:") == 2


@pytest.mark.parametrize(
    ("datatype", "data", "status"),
    [
        ("INT32", [1, 2, 3], 200),
        ("INT64", [[1], [2], [3]], 200),
        ("INT32", [1, 2, 1.5], 400),
        ("INT32", [1, 2, 3.0], 400),
        ("INT8", [1, 2, 300], 400),
        ("UINT8", [1, 2, -1], 400),
        ("INT64", [1, 2, 1 << 70], 400),
        ("BOOL", [True, False, 1], 200),
        ("BOOL", [True, False, 2], 400),
        ("FP32", [1, 2, 3.5], 200),
        ("FP32", ["1", "2", "3"], 400),
        ("FP32", [None, 1, 2], 400),
        ("FP32", [[1], [2, 3]], 400),
        ("FP32", {"1": 2}, 400),
        ("INT32", None, 400),
    ],
)
def test_v2_lists_hold_what_their_datatype_says(datatype: str, data: Any, status: int) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": datatype, "data": data}
    body = {"inputs": [tensor]}
    assert talk(lambda s: s.ask("POST", "/v2/models/m/infer", body), {"m": Single()}).status == status
