"""Jobs whose data stays with its owner, over real processes: nothing private leaves, nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from local_network import LocalNetwork
from safetensors.numpy import load_file, save_file

from backend.pipeline import read_pipeline
from backend.sample_plan import TEST, TRAIN, VALIDATION
from backend.samples import open_samples
from backend.serialize import load_graph
from p2p.api import open_engine, tokens
from p2p.identifiers import PeerId
from p2p.network import Network, Stream, StreamHandler

AMOUNT = "5"
MARKS = {
    part: np.array([value, -value, value, -value], "<f4").tobytes()
    for part, value in ((TRAIN, 0.1234567), (VALIDATION, 0.2345678), (TEST, 0.3456789))
}
pytestmark = [pytest.mark.e2e]


@pytest.fixture
def peer(network: LocalNetwork) -> dict[str, Any]:
    return network.start_peer("peer", "10", "--gpus", "none")


@pytest.fixture
def marked(graph: Path, stripes: Path) -> Path:
    """The stripes, each of which says in its corner which part it belongs to."""
    samples = open_samples(stripes, read_pipeline(load_graph(graph.read_bytes())))
    data = load_file(stripes)
    for part, mark in MARKS.items():
        data["x"][samples.order(part, 0), 0, 0, :4] = np.frombuffer(mark, "<f4")
    save_file(data, stripes)
    return stripes


def submit_words(graph: Path, data: Path, *options: str) -> tuple[str, ...]:
    return ("submit", str(graph), "--data", str(data), "--budget", AMOUNT, "--follow", *options)


@pytest.fixture
def expected(network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path) -> str:
    """The model that comes of the same training on the whole file."""
    summary = network.follow(*submit_words(graph, stripes)).finish()
    model: str = summary["result"]["blake3"]
    return model


class Tap:
    """A network, and everything that leaves through it, before it is encrypted."""

    def __init__(self, network: Network, sent: dict[str, bytearray]) -> None:
        self._network = network
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        async def tapped(stream: Stream) -> None:
            await handler(TappedStream(stream, self._log(protocol)))

        self._network.set_handler(protocol, tapped)

    async def open_stream(self, peer_id: PeerId, protocol: str, timeout_s: float = 10.0) -> Stream:
        stream = await self._network.open_stream(peer_id, protocol, timeout_s)
        return TappedStream(stream, self._log(protocol))

    def _log(self, protocol: str) -> bytearray:
        return self._sent.setdefault(protocol, bytearray())


class TappedStream:
    def __init__(self, stream: Stream, sent: bytearray) -> None:
        self._stream = stream
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def remote_peer_id(self) -> PeerId:
        return self._stream.remote_peer_id

    async def send_all(self, data: bytes) -> None:
        self._sent += data
        await self._stream.send_all(data)

    def send_now(self, data: bytes) -> bool:
        return False

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def reset(self) -> None:
        await self._stream.reset()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytearray]]:
    """What an Engine in this process sends, by protocol."""
    from p2p.host import open_host

    found: dict[str, bytearray] = {}

    @asynccontextmanager
    async def tapped(identity: Any, listen: Sequence[str], **options: Any) -> AsyncIterator[Tap]:
        async with open_host(identity, listen, **options) as network:
            yield Tap(network, found)

    monkeypatch.setattr("p2p.api.open_host", tapped)
    yield found


async def test_no_private_row_leaves_the_engine_whatever_protocol_it_speaks(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, marked: Path, sent: dict[str, bytearray]
) -> None:
    with trio.fail_after(240):
        async with open_engine(network.engine_home, coordinator=network.address) as engine:
            job = await engine.submit(
                graph, marked, tokens(AMOUNT), stream=True, private=("test", "validation")
            )
            story = [news.text async for news in engine.follow(job)]
            summary = engine.job(job)
    assert summary["state"] == "settled"
    assert set(summary["evaluated_by_owner"]) == {"test", "validation"}
    assert any("evaluated here on private validation samples" in line for line in story)
    assert "/cyxwiz/data/1" in sent and "/cyxwiz/job/1" in sent and "/cyxwiz/coordinator/1" in sent
    everything = b"".join(bytes(data) for data in sent.values())
    assert everything.count(MARKS[TRAIN]) > 40 * 400
    assert MARKS[TEST] not in everything
    assert MARKS[VALIDATION] not in everything


@pytest.mark.slow
def test_a_killed_engine_is_waited_for_and_the_model_is_that_of_the_file(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path, expected: str
) -> None:
    received = network.ask("peer", "status")["bytes_received"]
    run = network.follow(*submit_words(graph, stripes, "--stream", "--private", "none"))
    job_id = ""
    for news in run.news():
        job_id = news["job_id"]
        if news["kind"] == "progress":
            break
    run.kill()
    summary = network.follow("follow", job_id).finish()
    assert (summary["state"], summary["job_id"]) == ("settled", job_id)
    assert summary["delivery"] == "stream"
    assert summary["result"]["blake3"] == expected
    assert summary["metrics"]["sample_wait_s"] is not None
    assert network.ask("peer", "status")["bytes_received"] == received


@pytest.mark.slow
def test_a_killed_peers_training_goes_on_elsewhere_bit_by_bit(
    network: LocalNetwork, peer: dict[str, Any], graph: Path, stripes: Path, expected: str
) -> None:
    other = network.start_peer("other", "10", "--gpus", "none")
    names = {peer["peer_id"]: "peer", other["peer_id"]: "other"}
    run = network.follow(*submit_words(graph, stripes, "--stream", "--private", "none"))
    victim = ""
    for news in run.news():
        victim = victim or next((names[key] for key in names if key in news.get("text", "")), "")
        if news["kind"] == "checkpoint" and "voucher" in news["text"]:
            network.programs[victim].kill()
            break
    summary = run.finish()
    assert summary["state"] == "settled"
    assert names[summary["peer_id"]] != victim
    assert summary["result"]["blake3"] == expected
