"""A gateway in front of a model that a peer hosts: HTTP on this side, the wire on the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trio

from engine_app.gateway.endpoint import Place
from engine_app.gateway.remote import RemoteModel
from tests.simulation.peer.test_hosted_calls import JOB, deployed
from tests.unit.backend.serving.server import Counter, Doubler
from tests.unit.engine_app.gateway.gateways import gateway

CHAT = "/v1/chat/completions"


def hosted_at_peer(found: object) -> tuple[RemoteModel, Place]:
    return RemoteModel("m@peer", found.model), Place("m", "m", "peer", JOB)  # type: ignore[attr-defined]


async def test_json_and_binary_predictions_go_to_the_peer_and_back(tmp_path: Path) -> None:
    async with deployed(tmp_path, Doubler()) as found, gateway(hosted_at_peer(found)) as tested:
        rows = {"model": "m", "inputs": {"x": [[1, 2, 3]], "y": [[1, 1, 1]]}}
        assert (await tested.ask("/v1/predict", rows)).json["outputs"]["sum"] == [9]
        ones = np.ones((1, 3), "<f4").tobytes()
        inputs = [
            {"name": name, "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
            for name in ("x", "y")
        ]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        got = await tested.ask(
            "/v2/models/m/infer",
            head + ones + ones,
            content_type="application/octet-stream",
            inference_header_content_length=str(len(head)),
        )
        told = int(got.headers["inference-header-content-length"])
        assert [each["name"] for each in json.loads(got.body[:told])["outputs"]] == ["double", "sum"]
        assert np.frombuffer(got.body[told:], "<f4").tolist() == [2, 2, 2, 6]
        assert (await tested.ask("/v1/model", x_model="m")).json["can"] == ["predict"]
        assert (await tested.ask("/v1/predict", {"model": "m", "inputs": {}})).status == 400


async def test_tokens_stream_and_whoever_leaves_stops_the_model_at_the_peer(tmp_path: Path) -> None:
    counter = Counter(free=2)
    order = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 40, "stream": True}
    async with deployed(tmp_path, counter) as found, gateway(hosted_at_peer(found)) as tested:
        body = json.dumps(order).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        stream = await tested.open()
        await stream.send_all(head + body)
        seen = b""
        while b'"1 "' not in seen:
            seen += await stream.receive_some(1 << 16)
        assert b'"2 "' not in seen, "they come as they are made"
        await stream.aclose()
        await trio.to_thread.run_sync(counter.ended.wait, 30)
        assert counter.ended.is_set()
