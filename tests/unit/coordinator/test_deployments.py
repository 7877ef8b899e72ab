"""A deployment is admitted without a graph, priced by time, and offered to who serves such models."""

from __future__ import annotations

from dataclasses import replace as with_fields
from typing import Any

import pytest
from blake3 import blake3
from msgspec.structs import replace

from coordinator.admission import admit
from coordinator.matcher import match
from coordinator.matching import first_need
from p2p.codec import Codec
from p2p.errors import MessageInvalidError, RemoteFailureError
from p2p.jobs import DataSummary, Delivery, FileRef, JobSpec, ServingSpec
from p2p.pricing import price_of

MODEL = FileRef("a" * 64, "b" * 64, 1000)
SERVING = ServingSpec("digits", "onnx", 1 << 30)


def deployment(make: Any, serving: ServingSpec = SERVING, **changes: Any) -> JobSpec:
    data = DataSummary(MODEL, 1, (), "model")
    spec: JobSpec = make.spec(graph_hash=blake3(b"").hexdigest(), data=data, served=serving, segments=10)
    return replace(spec, **changes)


def refusal(spec: JobSpec, body: bytes = b"") -> str:
    with pytest.raises(RemoteFailureError) as refused:
        admit(spec, body)
    assert refused.value.code == "invalid"
    return refused.value.message


def test_it_costs_the_time_that_it_is_served_whatever_the_device(make: Any) -> None:
    spec = deployment(make)
    cost = admit(spec, b"")
    assert (cost.training_flops, cost.memory_bytes, cost.served_ms) == (0, 1 << 30, 600_000)
    fast = make.candidate("fast", serves=("onnx",), price_per_hour=6 * 10**9)
    offer = match(first_need(cost, spec), [fast], make.now).offers[0]
    assert offer.amount == price_of(600_000, 6 * 10**9) == 10**9
    assert offer.quote.duration_ms == 600_000


def test_a_graph_an_unknown_format_and_too_little_memory_are_refused(make: Any) -> None:
    assert refusal(deployment(make), b"{}").startswith("graph of 2 bytes with a deployment")
    assert refusal(deployment(make, graph_hash="c" * 64)).startswith("graph of 0 bytes")
    assert refusal(deployment(make, replace(SERVING, format="pickle"))) == (
        "model format 'pickle', allowed cyxmodel, onnx, gguf"
    )
    tokenizer = FileRef("d" * 64, "e" * 64, 5000)
    small = deployment(make, replace(SERVING, memory_bytes=4000, tokenizer=tokenizer))
    assert refusal(small) == "memory of 4000 bytes for a model of 6000 bytes, which is less"


def test_only_who_serves_the_format_and_has_the_memory_is_asked(make: Any) -> None:
    spec = deployment(make)
    need = first_need(admit(spec, b""), spec)
    none = make.candidate("none")
    other = make.candidate("other", serves=("gguf",))
    small = make.candidate("small", serves=("onnx",), ram_bytes=1 << 20)
    right = make.candidate("right", serves=("cyxmodel", "onnx"))
    found = match(need, [none, other, small, right], make.now)
    assert [offer.candidate.peer_id for offer in found.offers] == [right.peer_id]
    assert sorted(entry.reason for entry in found.rejected) == [
        "1048576 bytes of RAM, the job needs 1073741824",
        "serves gguf, the deployment's is onnx",
        "serves no models, the deployment's is onnx",
    ]


def test_a_training_is_not_kept_from_who_serves_nothing(make: Any) -> None:
    need = with_fields(first_need(make.cost, make.spec()), serves="")
    assert match(need, [make.candidate()], make.now).offers


def test_a_model_that_stays_with_its_owner_cannot_be_served(make: Any) -> None:
    codec = Codec(JobSpec)
    good = deployment(make)
    assert codec.decode(codec.encode(good)) == good
    with pytest.raises(ValueError, match="allowed is file"):
        deployment(make, data=replace(good.data, delivery=Delivery.STREAM))
    with pytest.raises(MessageInvalidError):
        codec.decode(codec.encode(good).replace(b"digits", b"dig ts"))
