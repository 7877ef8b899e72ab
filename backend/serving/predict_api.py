"""/v1/predict and /v1/model: JSON, raw tensors, .npy and safetensors in; the same or JSON out."""

from __future__ import annotations

import ast
import math
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from backend.errors import ArchiveError, InputError
from backend.formats.tensors import Array, pack_tensors, unpack_tensors
from backend.serving.bodies import PredictBody
from backend.serving.host import ModelHost, Prediction, Resident
from backend.serving.http import OCTETS, Call, Headers, Reply, decode_json, json_reply
from backend.serving.items import answer_items, form_of, is_raw, items_of
from backend.serving.items import from_json as from_json_items
from backend.serving.messages import TensorSpec
from backend.serving.tensor_body import KNOWN, MAX_DIMENSIONS, dtype_name, unpack_body
from backend.serving.tensors_in import all_fitted, from_body, from_json

NPY = b"application/x-npy"
SAFETENSORS = b"application/vnd.safetensors"
_NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER = 1 << 16
_UNREADABLE = (
    ValueError, LookupError, ArithmeticError, TypeError, SyntaxError, MemoryError, RecursionError,
)  # fmt: skip
"""What comes of a header that is no .npy's: it is parsed as Python."""


_PREDICT = msgspec.json.Decoder(PredictBody)
_BY_NAME = msgspec.json.Decoder(dict[str, msgspec.Raw])


class PredictApi:
    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def predict(self, call: Call) -> Reply:
        asked = self.direct(call)
        if asked is not None:
            return asked.answer(await self._host.predict(asked.name, asked.make, call.deadline))
        if is_raw(call.content_type):
            return await self._answer_items(call, _chosen(call), None)
        body = decode_json(call.body, _PREDICT)
        name = body.model or _chosen(call) or self._host.default
        if body.items is not None:
            return await self._answer_items(call, name, body.items)
        outputs = await self._host.predict(
            name, lambda resident: _given(body.inputs, resident), call.deadline
        )
        return _lists_reply(call, name, outputs)

    def direct(self, call: Call) -> Prediction | None:
        """A body of tensors, or of nothing but lists; None for any other."""
        kind, name = call.content_type, _chosen(call) or self._host.default
        if kind in (OCTETS, NPY, SAFETENSORS):
            return Prediction(
                name,
                lambda resident: _tensors_of(call, kind, resident.runtime.inputs),
                lambda outputs: _binary_reply(outputs, kind),
            )
        array = None if is_raw(kind) else _lists_of(call, self._host.only_input(name))
        if array is None:
            return None
        return Prediction(name, lambda resident: array, lambda outputs: _lists_reply(call, name, outputs))

    async def _answer_items(self, call: Call, name: str | None, items: list[Any] | None) -> Reply:
        """``items`` None: they are the body."""
        name = name or self._host.default
        async with self._host.use(name, call.deadline) as resident:

            def given() -> list[Any]:
                return items_of(call) if items is None else from_json_items(items, form_of(resident))

            answers = await answer_items(resident, given, call.deadline)
        return json_reply({"model": name, "answers": answers})

    async def describe(self, call: Call) -> Reply:
        name = call.parameters.get("model") or _chosen(call) or self._host.default
        async with self._host.use(name, call.deadline, counts=False) as resident:
            return json_reply(description(name, resident))


def description(name: str, resident: Resident) -> dict[str, Any]:
    facts = resident.runtime.facts
    return {
        "name": name,
        "format": facts.format,
        "runtime": facts.runtime,
        "devices": facts.devices,
        "size_bytes": facts.size_bytes,
        "context_tokens": facts.context_tokens,
        "inputs": resident.runtime.inputs,
        "outputs": resident.runtime.outputs,
        "can": abilities(resident),
        "takes": _takes(resident),
    }


def _takes(resident: Resident) -> dict[str, Any] | None:
    """What may be sent instead of arrays."""
    form = form_of(resident)
    if form is None:
        return None
    notes = form.notes
    return {
        "kind": form.kind,
        "class_names": notes.class_names,
        "input_names": notes.input_names,
        "white": notes.white,
    }


def abilities(resident: Resident) -> list[str]:
    can = []
    if resident.runtime.inputs:
        can.append("predict")
    if resident.encoder is not None:
        can.append("embed")
    if resident.generations is not None:
        can.append("complete")
        if getattr(resident.generations.generator, "has_chat", False):
            can.append("chat")
    return can


def _chosen(call: Call) -> str | None:
    name = call.headers.get(b"x-model")
    return None if name is None else name.decode("latin-1")


def _tensors_of(call: Call, kind: bytes, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Raises InputError."""
    if kind == OCTETS and (array := _rows_of(call, _only(specs))) is not None:
        return {specs[0].name: array}
    return all_fitted(_read_body(call, kind, specs), specs)


def _lists_of(call: Call, spec: TensorSpec | None) -> dict[str, Array] | None:
    """What a body of nothing but nested lists holds, read in one go, as deep as the model's one input is.

    None for any other body, also a wrong one: the long way says what is wrong. No list outlives this call:
    those of all requests that wait would be more than a processor's cache holds.
    """
    if spec is None:
        return None
    try:
        return {spec.name: from_body(call.body, spec)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError):
        return None


def _given(inputs: msgspec.Raw | msgspec.UnsetType, resident: Resident) -> dict[str, Array]:
    """Raises InputError."""
    specs = resident.runtime.inputs
    if isinstance(inputs, msgspec.UnsetType):
        raise InputError("the body has neither inputs nor items")
    if bytes(memoryview(inputs)[:1]) != b"{":
        return {_only(specs).name: from_json(inputs, _only(specs))}
    try:
        parts = _BY_NAME.decode(inputs)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"inputs: {error}") from error
    by_name = {spec.name: spec for spec in specs}
    if parts.keys() != by_name.keys():
        found = ", ".join(parts)[:200] or "missing"
        raise InputError(f"inputs {found}, the model takes {', '.join(by_name) or 'no tensors'}")
    return {name: from_json(parts[name], spec) for name, spec in by_name.items()}


def _only(specs: tuple[TensorSpec, ...]) -> TensorSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs) or "no tensors"
        raise InputError(f"the model takes {names}: give an object with each of them")
    return specs[0]


def _read_body(call: Call, kind: bytes, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Raises InputError."""
    if kind == SAFETENSORS:
        try:
            return dict(unpack_tensors(call.body))
        except ArchiveError as error:
            raise InputError(str(error)) from error
    spec = _only(specs)
    if kind == NPY:
        return {spec.name: read_npy(call.body)}
    dtype = call.headers.get(b"x-dtype", spec.dtype.encode()).decode("latin-1")
    shape = _shape(call.headers.get(b"x-shape"), spec, len(call.body), dtype)
    return unpack_body((TensorSpec(spec.name, dtype, shape),), call.body)


def _rows_of(call: Call, spec: TensorSpec) -> Array | None:
    """As many whole rows as the body has, in the dtype of the spec; None where headers say otherwise."""
    row_bytes, dtype, shape = _row_of(spec.dtype, spec.shape)
    headers = call.headers
    if not row_bytes or b"x-shape" in headers or b"x-dtype" in headers:
        return None
    rows, rest = divmod(len(call.body), row_bytes)
    return np.frombuffer(call.body, dtype).reshape(rows, *shape) if rows and not rest else None


@lru_cache(maxsize=256)
def _row_of(dtype: str, shape: tuple[int, ...]) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    """Its size in bytes, 0 where that is not fixed; its dtype and shape."""
    known = KNOWN[dtype]
    is_fixed = shape[:1] == (-1,) and all(size > 0 for size in shape[1:])
    return math.prod(shape[1:]) * known.itemsize if is_fixed else 0, known, shape[1:]


def _shape(header: bytes | None, spec: TensorSpec, size: int, dtype: str) -> tuple[int, ...]:
    """As X-Shape says; without it as many rows as there are. Raises InputError."""
    if header is not None:
        try:
            shape = tuple(int(part) for part in header.split(b","))
        except ValueError:
            raise InputError(f"X-Shape {header[:80]!r}, allowed is such as 1,28,28") from None
        if len(shape) > MAX_DIMENSIONS:
            raise InputError(f"X-Shape of {len(shape)} dimensions, limit {MAX_DIMENSIONS}")
        return shape
    row = 1
    for length in spec.shape[1:]:
        row *= length
    if row <= 0 or spec.shape[:1] != (-1,) or dtype != spec.dtype:
        raise InputError("the shape of this input is not fixed: give it as X-Shape")
    return (size // (row * np.dtype(dtype).itemsize), *spec.shape[1:])


def read_npy(data: bytes) -> Array:
    """An array of a .npy file: numbers only, never an object. Raises InputError."""
    if not data.startswith(_NPY_MAGIC) or len(data) < 12 or data[6] not in (1, 2, 3):
        raise InputError("the body is no .npy file")
    wide = data[6] >= 2
    begin = 12 if wide else 10
    length = int.from_bytes(data[8:begin], "little")
    if length > min(_MAX_NPY_HEADER, len(data) - begin):
        raise InputError(f".npy header of {length} bytes, limit {min(_MAX_NPY_HEADER, len(data) - begin)}")
    try:
        header = ast.literal_eval(data[begin : begin + length].decode("latin-1"))
        descriptor, in_columns, shape = header["descr"], header["fortran_order"], header["shape"]
        dtype = np.dtype(descriptor) if isinstance(descriptor, str) and len(descriptor) < 16 else None
        shape = tuple(int(size) for size in shape)
    except _UNREADABLE as error:
        raise InputError(f".npy header: {str(error)[:200]}") from error
    if dtype is None or dtype.kind not in "biuf":
        raise InputError(f".npy of {str(descriptor)[:40]}, allowed are numbers")
    flat = shape[::-1] if in_columns else shape
    spec = TensorSpec("array", dtype.name, flat)
    array = unpack_body((spec,), memoryview(data)[begin + length :])["array"]
    if dtype.byteorder == ">":
        array = array.view(array.dtype.newbyteorder(">")).astype(dtype.newbyteorder("<"))
    return array.T if in_columns else array


def write_npy(array: Array) -> bytes:
    header = repr({"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}).encode()
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return _NPY_MAGIC + b"\x01\x00" + len(padded).to_bytes(2, "little") + padded + array.tobytes()


def _lists_reply(call: Call, name: str, outputs: dict[str, Array]) -> Reply:
    """As JSON, unless something else was asked for."""
    accepted = call.headers.get(b"accept", b"")
    if accepted in (NPY, SAFETENSORS, OCTETS):
        return _binary_reply(outputs, accepted)
    lists = {output: array.tolist() for output, array in outputs.items()}
    return json_reply({"model": name, "outputs": lists})


def _binary_reply(outputs: dict[str, Array], kind: bytes) -> Reply:
    """Of several outputs, raw and .npy hold the first; safetensors holds all."""
    if kind == SAFETENSORS:
        return Reply(pack_tensors(outputs), SAFETENSORS)
    name, array = next(iter(outputs.items()))
    if kind == NPY:
        return Reply(write_npy(array), NPY)
    return Reply(array.tobytes(), OCTETS, headers=_about(name, dtype_name(array.dtype), array.shape))


@lru_cache(maxsize=256)
def _about(name: str, dtype: str, shape: tuple[int, ...]) -> Headers:
    joined = ",".join(map(str, shape)).encode()
    return ((b"x-shape", joined), (b"x-dtype", dtype.encode()), (b"x-output", _safe(name)))


def _safe(name: str) -> bytes:
    return "".join(char if " " <= char <= "~" else "?" for char in name).encode()
