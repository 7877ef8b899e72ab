"""/v1/models and /v1/embeddings of the OpenAI API."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import msgspec
import numpy as np

from backend.formats.tensors import Array
from backend.runtime.base import TextEmbedder
from backend.runtime.deadlines import check_deadline
from backend.serving.host import ModelHost, Resident
from backend.serving.http import Call, HttpError, Reply, decode_json, invalid, json_reply
from backend.serving.openai_wire import EmbeddingsBody, inputs_of
from backend.serving.predict_api import abilities

_AT_ONCE = 32
"""Inputs of one request that wait at a time: they must not fill the queue."""
_INLINE_CHARACTERS = 1000
"""Fewer are tokenized in less time than another thread would take to begin."""
_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)


class OpenAiApi:
    def __init__(self, host: ModelHost) -> None:
        self._host = host
        self._created = int(time.time())

    async def models(self, call: Call) -> Reply:
        return json_reply({"object": "list", "data": [self._model(name) for name in self._host.names]})

    async def model(self, call: Call) -> Reply:
        name = call.parameters["model"]
        if not self._host.knows(name):
            raise HttpError(404, "model_not_found", f"no model {name[:80]!r} here")
        async with self._host.use(name, call.deadline, counts=False) as resident:
            return json_reply(self._model(name) | {"can": abilities(resident)})

    async def embeddings(self, call: Call) -> Reply:
        body: EmbeddingsBody = decode_json(call.body, _EMBEDDINGS)
        inputs = inputs_of(body)
        async with self._host.use(body.model, call.deadline) as resident:
            if resident.encoder is None:
                raise invalid(f"model {body.model!r} makes no embeddings: {_why_none(resident)}")
            encoded = await _encoded(resident, resident.encoder, inputs, call.deadline)
            results: list[Array] = []
            for first in range(0, len(encoded), _AT_ONCE):
                results += await _embedded(resident, encoded[first : first + _AT_ONCE], call.deadline)
        tokens = sum(count for _, count in encoded)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _worded(_shortened(vector, body.dimensions), body.encoding_format),
            }
            for index, vector in enumerate(results)
        ]
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_reply({"object": "list", "data": data, "model": body.model, "usage": used})

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "cyxwiz"}


def _why_none(resident: Resident) -> str:
    if resident.generations is not None:
        return "it generates text; a GGUF with pooling does"
    return "it was served without a tokenizer"


async def _encoded(
    resident: Resident, encoder: TextEmbedder, inputs: list[str | list[int]], deadline: float
) -> list[tuple[dict[str, Array], int]]:
    """Rows for the model, and how many tokens each holds. Raises InputError, TimeoutError."""

    def encode() -> list[tuple[dict[str, Array], int]]:
        found = []
        for each in inputs:
            check_deadline()
            found.append(encoder.encode(each) if isinstance(each, str) else encoder.from_ids(each))
        return found

    if sum(map(len, inputs)) <= _INLINE_CHARACTERS:
        return encode()
    return await resident.decode(encode, deadline)


async def _embedded(
    resident: Resident, encoded: list[tuple[dict[str, Array], int]], deadline: float
) -> list[Array]:
    """All that may run together. Raises what a batch can."""
    encoder = resident.encoder
    assert encoder is not None
    step = encoder.shares_within

    async def one(inputs: dict[str, Array], tokens: int) -> Array:
        kin = None if step is None else -(-tokens // step)
        return encoder.pool(inputs, await resident.batcher.ask(inputs, deadline, kin))

    if len(encoded) == 1:  # nearly all
        return [await one(*encoded[0])]
    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(one(*each)) for each in encoded]
    return [job.result() for job in jobs]


def _shortened(vector: Array, dimensions: int | None) -> Array:
    """Raises HttpError for more numbers than there are."""
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise invalid(f"dimensions is {dimensions}, the model gives {len(vector)}")
    first = vector[:dimensions]
    return first / max(float(np.linalg.norm(first)), float(np.finfo(np.float32).tiny))


def _worded(vector: Array, encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return np.asarray(vector, np.float64).tolist()
