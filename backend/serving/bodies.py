"""The bodies of the model server's own protocol and of the Open Inference Protocol, as JSON. Pure."""

from __future__ import annotations

from typing import Any

import msgspec


class PredictBody(msgspec.Struct, frozen=True):
    """Either ``inputs``: nested lists for a model with one input, else an object of them by name; or
    ``items``: texts, rows of a table as objects, images in base64, where the model knows what it takes."""

    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    items: list[Any] | None = None
    model: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct, frozen=True):
    inputs: list[InputTensor]
    outputs: list[WantedOutput] = []
    id: str | None = None
    parameters: dict[str, Any] = {}
