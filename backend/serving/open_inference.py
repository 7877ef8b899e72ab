"""The Open Inference Protocol v2 (KServe, Triton), with its binary extension.

A binary body is the JSON header, whose length a header field tells, and then the tensors one after
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.raw_inputs import to_arrays
from backend.serving.bodies import InferBody, InputTensor, WantedOutput
from backend.serving.bytes_tensor import BYTES, classes_of, pack_texts, unpack_texts
from backend.serving.host import ModelHost, Prediction, Resident
from backend.serving.http import JSON, OCTETS, Call, HttpError, Reply, decode_json, invalid, json_reply
from backend.serving.items import form_of
from backend.serving.messages import TensorSpec
from backend.serving.tensor_body import MAX_DIMENSIONS, unpack_body
from backend.serving.tensors_in import all_fitted

HEADER_LENGTH = b"inference-header-content-length"
_EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_HELD = {"f": "fiu", "i": "iu", "u": "iu", "b": "biu"}
"""What lists may hold, as numpy's kinds, for datatypes of a kind."""
_NAMES = {name: datatype for datatype, name in _DTYPES.items()} | {"object": BYTES}
_PLATFORMS = {"onnx": "onnxruntime_onnx", "cyxmodel": "cyxwiz_torch", "gguf": "llama_cpp"}
_INFER = msgspec.json.Decoder(InferBody)


class OpenInference:
    def __init__(self, host: ModelHost, version: str) -> None:
        self._host = host
        self._version = version

    async def about(self, call: Call) -> Reply:
        return json_reply({"name": "cyxwiz", "version": self._version, "extensions": _EXTENSIONS})

    async def live(self, call: Call) -> Reply:
        return json_reply({"live": True})

    async def ready(self, call: Call) -> Reply:
        return json_reply({"ready": True})

    async def model_ready(self, call: Call) -> Reply:
        """Ready: it answers when asked, loading itself if need be."""
        name = call.parameters["model"]
        if not self._host.knows(name):
            raise HttpError(404, "not_found", f"no model {name[:80]!r} here")
        return json_reply({"name": name, "ready": True})

    async def metadata(self, call: Call) -> Reply:
        name = call.parameters["model"]
        async with self._host.use(name, call.deadline, counts=False) as resident:
            runtime = resident.runtime
            return json_reply(
                {
                    "name": name,
                    "versions": ["1"],
                    "platform": _PLATFORMS.get(runtime.facts.format, runtime.facts.format),
                    "inputs": [_described(spec) for spec in runtime.inputs],
                    "outputs": [_described(spec) for spec in runtime.outputs],
                }
            )

    async def repository(self, call: Call) -> Reply:
        states = ((name, self._host.is_loaded(name)) for name in self._host.names)
        return json_reply(
            [
                {"name": name, "version": "1", "state": "READY" if loaded else "UNAVAILABLE", "reason": ""}
                for name, loaded in states
            ]
        )

    async def load(self, call: Call) -> Reply:
        await self._host.load(call.parameters["model"], call.deadline)
        return json_reply({})

    async def unload(self, call: Call) -> Reply:
        await self._host.unload(call.parameters["model"], call.deadline)
        return json_reply({})

    async def infer(self, call: Call) -> Reply:
        head, rest = _split(call)
        request = decode_json(head, _INFER)
        if any(tensor.datatype == BYTES for tensor in request.inputs):
            return await self._infer_texts(call, request, rest)
        asked = _prediction(call.parameters["model"], request, rest)
        return asked.answer(await self._host.predict(asked.name, asked.make, call.deadline))

    def direct(self, call: Call) -> Prediction:
        """Raises HttpError. What it makes of texts is an InputError: they are decoded aside, by ``infer``."""
        head, rest = _split(call)
        return _prediction(call.parameters["model"], decode_json(head, _INFER), rest)

    async def _infer_texts(self, call: Call, request: InferBody, rest: memoryview) -> Reply:
        """Of a model whose preprocessing takes texts. Raises HttpError."""
        name = call.parameters["model"]
        async with self._host.use(name, call.deadline) as resident:
            form = form_of(resident)
            if form is None or form.kind != "text":
                raise InputError("this model takes no texts, which BYTES are: send numbers")
            texts = _texts(request.inputs, rest, form.inputs[0].name)
            ready = await resident.decode(lambda: to_arrays(form, texts), call.deadline)
            outputs = await resident.batcher.ask(dict(ready.arrays), call.deadline)
        return _answer(name, request, outputs, form.notes.class_names)


def _prediction(name: str, request: InferBody, rest: memoryview) -> Prediction:
    class_names: list[str] = []

    def make(resident: Resident) -> dict[str, Array]:
        form = form_of(resident)
        class_names[:] = form.notes.class_names if form is not None else ()
        return all_fitted(_arrays(request.inputs, rest), resident.runtime.inputs)

    return Prediction(name, make, lambda outputs: _answer(name, request, outputs, class_names))


def _split(call: Call) -> tuple[bytes, memoryview]:
    """JSON and binary part of a body. Raises HttpError."""
    length = call.headers.get(HEADER_LENGTH)
    if length is None:
        return call.body, memoryview(b"")
    if not length.isdigit() or len(length) > 12 or int(length) > len(call.body):
        raise invalid(f"Inference-Header-Content-Length {length[:20]!r}, the body has {len(call.body)} bytes")
    return call.body[: int(length)], memoryview(call.body)[int(length) :]


def _arrays(tensors: list[InputTensor], rest: memoryview) -> dict[str, Array]:
    """Raises InputError."""
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name in arrays:
            raise InputError(f"input {tensor.name[:80]!r} is given twice")
        dtype = _DTYPES.get(tensor.datatype)
        if dtype is None:
            raise InputError(f"datatype {tensor.datatype[:40]!r}, allowed are {', '.join(_DTYPES)}")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            arrays[tensor.name] = _from_list(tensor, dtype)
            continue
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise InputError(f"binary_data_size {size!r}, {len(rest)} bytes are left")
        spec = TensorSpec(tensor.name, dtype, tuple(tensor.shape))
        arrays |= unpack_body((spec,), rest[:size])
        rest = rest[size:]
    if len(rest):
        raise InputError(f"{len(rest)} bytes after the last tensor")
    return arrays


def _texts(tensors: list[InputTensor], rest: memoryview, wanted: str) -> list[str]:
    """Raises InputError."""
    if len(tensors) != 1 or tensors[0].name != wanted or tensors[0].datatype != BYTES:
        names = ", ".join(tensor.name[:80] for tensor in tensors[:8])
        raise InputError(f"inputs {names}, a model of texts takes {wanted!r} alone")
    (tensor,) = tensors
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return unpack_texts(wanted, tensor.shape, tensor.data)
    if size != len(rest):
        raise InputError(f"binary_data_size {size!r}, {len(rest)} bytes are there")
    return unpack_texts(wanted, tensor.shape, rest)


def _from_list(tensor: InputTensor, dtype: str) -> Array:
    """Flat or nested, row by row. Raises InputError, also for numbers that the datatype does not hold."""
    name = tensor.name[:80]
    try:
        found = np.asarray(tensor.data)
        if min(tensor.shape, default=1) < 1 or len(tensor.shape) > MAX_DIMENSIONS:
            raise InputError(f"input {name!r} is shaped {tensor.shape}, allowed are sizes above 0")
        found = found.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"input {name!r}: {str(error)[:200]}") from error
    wanted = np.dtype(dtype)
    if found.dtype.kind not in _HELD[wanted.kind]:
        raise InputError(f"input {name!r} holds what is no {tensor.datatype}")
    with np.errstate(over="ignore", invalid="ignore"):
        array = found.astype(wanted)
    if wanted.kind != "f" and not np.array_equal(array, found):
        raise InputError(f"input {name!r} holds numbers that are no {tensor.datatype}")
    return array


def _answer(name: str, request: InferBody, outputs: dict[str, Array], class_names: Sequence[str]) -> Reply:
    """In the form that was asked for, output by output. Raises HttpError."""
    binary_by_default = bool(request.parameters.get("binary_data_output", False))
    wanted = request.outputs or [WantedOutput(output) for output in outputs]
    if len({want.name for want in wanted}) < len(wanted):
        raise invalid("an output is asked for twice")
    described, bodies = [], []
    for want in wanted:
        array = outputs.get(want.name)
        if array is None:
            raise invalid(f"output {want.name[:80]!r}, the model gives {', '.join(outputs)}")
        if count := want.parameters.get("classification"):
            array = _classes(array, count, class_names)
        about: dict[str, Any] = {
            "name": want.name,
            "shape": array.shape,
            "datatype": _NAMES.get(array.dtype.name, "FP32"),
        }
        if want.parameters.get("binary_data", binary_by_default):
            data = pack_texts(array.flat) if array.dtype == object else array.tobytes()
            about["parameters"] = {"binary_data_size": len(data)}
            bodies.append(data)
        else:
            about["data"] = array.ravel().tolist()
        described.append(about)
    answer: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": described}
    if request.id is not None:
        answer["id"] = request.id
    head = msgspec.json.encode(answer)
    if not bodies:
        return Reply(head, JSON)
    return Reply(b"".join((head, *bodies)), OCTETS, headers=((HEADER_LENGTH, str(len(head)).encode()),))


def _classes(values: Array, count: object, names: Sequence[str]) -> Array:
    """Raises HttpError."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise invalid(f"classification {str(count)[:20]!r}, must be a number of classes")
    try:
        return classes_of(values, count, names)
    except InputError as error:
        raise invalid(str(error)) from error


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": _NAMES.get(spec.dtype, "FP32"), "shape": spec.shape}
