"""What the self-check shows: answers, certificates, peers and offers are made up, nothing runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backend.exporting.messages import Exported
from backend.graph import Graph
from backend.parity import Certificate, InputFacts, OutputParity
from backend.serving.asked import Asked
from backend.serving.http import Headers
from engine_app.exporting import Order
from engine_app.gateway.endpoint import EndpointStatus
from engine_app.ui.exporter import Done
from engine_app.ui.network import Network
from engine_app.ui.readings import Reading
from engine_app.ui.servers import LocalServer, ServeWish

DIGITS_MODEL = {
    "name": "digits",
    "format": "cyxmodel",
    "inputs": [{"name": "input", "dtype": "float32", "shape": [-1, 1, 8, 8]}],
    "can": ["predict"],
    "takes": {"kind": "image", "white": 16.0},
}
CHAT_MODEL = {"name": "smollm2", "format": "gguf", "can": ["complete", "chat"]}
SHARES = (0.934, 0.031, 0.018, 0.009, 0.004)
SAID = (
    "A peer trains your graph one segment at a time. ",
    "You sign a voucher for each segment that checks out, so neither side risks more than one.",
)
THREE = (
    ((0.3, 0.8), (0.5, 0.88), (0.66, 0.8), (0.66, 0.66), (0.5, 0.54)),
    ((0.5, 0.54), (0.68, 0.46), (0.7, 0.28), (0.5, 0.14), (0.3, 0.22)),
)
"""Strokes of a digit."""


@dataclass(frozen=True, slots=True)
class _Answer:
    chunks: tuple[bytes, ...]
    status: int = 200
    content_type: str = "application/json"
    headers: Headers = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


class ShownModel:
    """Stands where a model server does."""

    name = "shown"

    def __init__(self, about: Mapping[str, object]) -> None:
        self._about = about

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[_Answer]:
        if asked.path == "/v1/model":
            yield _Answer((msgspec.json.encode(self._about),))
        elif asked.path.startswith("/v1/chat"):
            deltas = [{"choices": [{"delta": {"content": text}}]} for text in SAID]
            yield _Answer(tuple(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in deltas))
        else:
            top = [
                {"class": n, "name": str(n), "probability": p}
                for n, p in zip((3, 8, 5, 9, 2), SHARES, strict=True)
            ]
            yield _Answer((msgspec.json.encode({"answers": [{"top": top}]}),))

    async def status(self) -> EndpointStatus:
        return EndpointStatus(True)


def shown_servers(folder: Path) -> list[LocalServer]:
    digits = LocalServer("here-1", "digits", ServeWish(folder / "digits.cyxmodel"), state="ready")
    digits.url = "http://127.0.0.1:8080"
    digits.about = ("digits: cyxmodel on cpu, 1 × 8 × 8, 5,354 parameters",)
    digits.reading = Reading(1284, 3, 0, 0.42, 1.9)
    digits.model = ShownModel(DIGITS_MODEL)
    chat = LocalServer("here-2", "smollm2", ServeWish(folder / "smollm2.gguf", "0.0.0.0"), state="ready")
    chat.url, chat.needs_key, chat.restarts = "http://studio:8081", True, 1
    chat.about = ("smollm2: gguf on cpu, context of 2048 tokens",)
    chat.reading = Reading(37, 0, 2, 812.0, 2350.0, 41.7, 9120)
    chat.model = ShownModel(CHAT_MODEL)
    return [digits, chat]


def shown_export(folder: Path) -> Done:
    order = Order(folder / "digits.cyxmodel", "onnx", folder / "digits.onnx")
    parity = OutputParity("output", (256, 10), 9.5e-07, 8.1e-08, 14.2, 1.0)
    certificate = Certificate(
        format_version=1,
        format="onnx",
        about="an ONNX of opset 20, with any size of batch",
        runtime="ONNX Runtime",
        versions={"onnxruntime": "1.31.0", "onnx": "1.20.0"},
        model_blake3="5c1d" * 16,
        file_blake3="af0e" * 16,
        inputs=InputFacts("bundled:digits", 256, "77aa" * 16),
        batches=(1, 3, 252),
        outputs=(parity,),
        max_difference=9.5e-07,
        mean_difference=8.1e-08,
        argmax_agreement=1.0,
        tolerance=1e-4,
        verdict="within tolerance",
    )
    return Done(order, Exported("out.onnx", certificate.about), certificate)


def show_network(network: Network, graph: Graph, data: str) -> None:
    """Peers, an estimate and a job that runs."""
    names = (
        "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X",
        "12D3KooWBmUoJSPmqpfnNPbMTrwTEeH6NbGJ2ZcKgg",
    )
    hardware = (("RTX 4090", 24 << 30, 82e12), ("Ryzen 9 7950X", 64 << 30, 1.2e12))
    network.address, network.state = "/ip4/203.0.113.7/tcp/4400/p2p/12D3KooW", "online"
    network.text = "Connected to the coordinator's peers"
    network.peers = [
        {
            "peer_id": name,
            "devices": [{"name": device, "kind": "cpu", "memory_bytes": memory, "flops_per_s": speed}],
            "free": 1,
            "price_per_hour": price * 10**8,
            "reputation": reputation,
            "online": True,
        }
        for name, (device, memory, speed), price, reputation in zip(
            names, hardware, (9, 3), (0.98, 0.71), strict=True
        )
    ]
    quotes = [
        {"peer_id": name, "amount": amount, "duration_ms": took, "price_per_hour": price, "reputation": known}
        for name, amount, took, price, known in (
            (names[1], 18_400_000, 21_800, 3 * 10**8, 0.71),
            (names[0], 21_000_000, 4_100, 9 * 10**8, 0.98),
        )
    ]
    network.estimate = {
        "parameters": 10_090,
        "samples": 1797,
        "training_flops": 31 * 10**9,
        "memory_bytes": 48 * 10**6,
        "quotes": quotes,
        "rejected": [{"peer_id": "12D3KooWQx7", "reason": "needs 48 MB, has 32 MB free"}],
    }
    network.estimate_for = (graph, data, 4)
    network.jobs = [
        {
            "job_id": "7f3a" * 8,
            "name": graph.name,
            "state": "running",
            "text": "",
            "unpaid": False,
            "paused": False,
            "segments": 4,
            "segments_done": 2,
            "escrows": [{"earned": 9_200_000}],
            "budget": 5 * 10**9,
            "peer_id": names[1],
            "learning_rate": None,
            "metrics": {"loss": 0.214, "accuracy": 0.934, "learning_rate": 0.01, "samples_per_s": 3100.0},
            "result": None,
            "settle_signature": None,
        }
    ]


def show_deployment(network: Network) -> None:
    """A model at one of the peers."""
    peer = network.peers[0]["peer_id"]
    network.deployments = [
        {
            "id": "b41c" * 8,
            "name": "summaries",
            "format": "gguf",
            "state": "running",
            "is_running": True,
            "peer_id": peer,
            "given_to": [peer],
            "served_s": 1260,
            "left_s": 2340,
            "ends_at": 1_790_000_000.0,
            "paid": 315_000_000,
            "budget": 900_000_000,
            "text": "",
            "continues": None,
        }
    ]
    network.statuses = {
        "b41c" * 8: {
            "state": "ready",
            "restarts": 0,
            "requests": 96,
            "queue_depth": 1,
            "p50_ms": 640.0,
            "p95_ms": 1900.0,
            "tokens_per_s": 58.2,
        }
    }
