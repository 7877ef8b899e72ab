"""What an ONNX operator that is kept is made of: words where these do, else a program. In workers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from backend.code_import.building import Ref
from backend.code_import.modules import need
from backend.errors import ShapeMismatchError
from backend.formats.onnx_names import all_nodes, read_by, rename
from backend.formats.onnx_schema import MICROSOFT, STANDARD_DOMAINS
from backend.formats.onnx_write import input_name, output_name, program_of
from backend.formats.tensors import Array
from backend.onnx_node import (
    MAX_PROGRAM_BYTES,
    MAX_TEXT,
    MAX_VALUES,
    PROGRAM_PLACE,
    RANDOM_OPERATORS,
    REFUSED_OPERATORS,
    Attribute,
    AttributeTensor,
    DataType,
    EmptyList,
    OnnxNode,
    OnnxStep,
    OnnxTensor,
    load_attributes,
    load_steps,
    weight_place,
)

KINDS = frozenset(get_args(DataType))
_EMPTY = {onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOATS: "floats",
          onnx.AttributeProto.STRINGS: "strings"}  # fmt: skip


class _NoWordsError(Exception):
    """Only a program can say it."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Nodes of an ONNX model in their order, what enters them by name, and what is asked of them."""

    protos: tuple[onnx.NodeProto, ...]
    opset: int
    entering: Mapping[str, Entering]
    outputs: tuple[str, ...]
    """Empty names: what is left out."""
    domains: Mapping[str, int] = field(default_factory=dict)
    """Versions of other operator sets of the model."""
    alone: bool = False
    """To be given one sample at a time."""

    @property
    def last(self) -> onnx.NodeProto:
        return self.protos[-1]

    @property
    def domains_used(self) -> dict[str, int]:
        used = {STANDARD_DOMAINS.get(node.domain, node.domain) for node in all_nodes(self.protos)}
        return {name: self.domains.get(name, 1) for name in sorted(used - {""})}


@dataclass(frozen=True, slots=True)
class Entering:
    """A constant, or what flows; ``kind`` is then the type of its elements."""

    value: Ref | Array
    kind: str = ""


def check_operators(foreign: Foreign) -> None:
    """Raises UnsupportedError."""
    for node in all_nodes(foreign.protos):
        domain = STANDARD_DOMAINS.get(node.domain, node.domain)
        need(
            domain in ("", "ai.onnx.ml", MICROSOFT),
            f"is of domain {domain[:60]!r}, kept are those that onnxruntime has",
        )
        need(node.op_type not in RANDOM_OPERATORS, f"draws at random, by {node.op_type}")


def described(
    foreign: Foreign, types: tuple[OnnxTensor | None, ...]
) -> tuple[OnnxNode, tuple[Ref, ...], dict[str, torch.Tensor]]:
    """The node, whose outputs are of these types; what flows into it; and its weights."""
    try:
        return _in_words(foreign, types)
    except _NoWordsError:
        return _as_program(foreign, types)


_Described = tuple[OnnxNode, tuple[Ref, ...], dict[str, torch.Tensor]]


def _in_words(foreign: Foreign, types: tuple[OnnxTensor | None, ...]) -> _Described:
    """Raises _NoWordsError."""
    if foreign.domains_used or any(node.op_type in REFUSED_OPERATORS for node in all_nodes(foreign.protos)):
        raise _NoWordsError
    if _texts(foreign):
        raise _NoWordsError
    is_whole = foreign.outputs == tuple(foreign.last.output)
    single = foreign.last if len(foreign.protos) == 1 and is_whole else None
    names = [*single.input] if single is not None else [*foreign.entering]
    attributes = {} if single is None else {each.name: _attribute(each) for each in single.attribute}
    steps = () if single is not None else _steps(foreign, names)
    tensors, flowing, weights = _inputs(foreign, names)
    node = OnnxNode(
        foreign.last.op_type, foreign.opset, attributes, tensors, types, steps, alone=foreign.alone
    )
    try:
        given = node.parameters
        load_attributes(given["attributes"])
        if steps:
            load_steps(given["steps"])
    except (ShapeMismatchError, ValueError) as error:
        raise _NoWordsError from error
    if max(len(given["attributes"]), len(given["steps"])) > MAX_TEXT:
        raise _NoWordsError
    return node, flowing, weights


def _as_program(foreign: Foreign, types: tuple[OnnxTensor | None, ...]) -> _Described:
    """Raises UnsupportedError."""
    texts = _texts(foreign)
    names = [name for name in foreign.entering if name not in texts]
    tensors, flowing, weights = _inputs(foreign, names)
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in texts.items()
    ]
    program = program_of(_renamed([*constants, *foreign.protos], foreign, names))
    need(len(program) <= MAX_PROGRAM_BYTES, f"is {len(program)} bytes, limit {MAX_PROGRAM_BYTES}")
    held = {PROGRAM_PLACE: torch.frombuffer(bytearray(program), dtype=torch.uint8)}
    operator, size = foreign.last.op_type, len(program)
    node = OnnxNode(
        operator, foreign.opset, {}, tensors, types, (), size, foreign.domains_used, foreign.alone
    )
    return node, flowing, weights | held


def _texts(foreign: Foreign) -> dict[str, Array]:
    """The constants that are texts."""
    values = {name: each.value for name, each in foreign.entering.items()}
    return {name: each for name, each in values.items() if isinstance(each, np.ndarray) and is_text(each)}


def is_text(values: Array) -> bool:
    return values.dtype.kind in "OSU"


def _renamed(protos: list[onnx.NodeProto], foreign: Foreign, names: list[str]) -> Iterator[bytes]:
    """With values named as a program names them, and without what only told of the file."""
    known = _values(foreign, names)
    for proto in protos:
        for name in (*proto.output, *read_by(proto)):
            known.setdefault(name, f"v{len(known)}")
        copied = onnx.NodeProto()
        copied.CopyFrom(proto)
        rename(copied, known)
        for node in all_nodes([copied]):
            for told in ("name", "metadata_props", "doc_string"):
                node.ClearField(told)
        yield copied.SerializeToString(deterministic=True)


def _values(foreign: Foreign, names: list[str]) -> dict[str, str]:
    """What values at the ends are called inside a node."""
    known = {name: input_name(number) for number, name in enumerate(names)} | {"": ""}
    return known | {name: output_name(number) for number, name in enumerate(foreign.outputs) if name}


def _inputs(
    foreign: Foreign, names: list[str]
) -> tuple[tuple[OnnxTensor | None, ...], tuple[Ref, ...], dict[str, torch.Tensor]]:
    tensors: list[OnnxTensor | None] = []
    weights: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        tensor, held = _entering(foreign.entering[name]) if name else (None, None)
        tensors.append(tensor)
        if held is not None:
            weights[weight_place(number)] = held
    values = [foreign.entering[name].value for name in names if name]
    return tuple(tensors), tuple([each for each in values if isinstance(each, Ref)]), weights


def plain_value(proto: onnx.AttributeProto) -> Any:
    """Numbers of single precision as the shortest decimals that mean them: 1e-12, not 9.99999996e-13."""
    value = helper.get_attribute_value(proto)
    match proto.type:
        case onnx.AttributeProto.FLOAT:
            return float(str(np.float32(value)))
        case onnx.AttributeProto.FLOATS:
            return [float(str(np.float32(each))) for each in value]
    return value


def _attribute(proto: onnx.AttributeProto) -> Attribute:
    value = plain_value(proto)
    match proto.type:
        case onnx.AttributeProto.FLOAT | onnx.AttributeProto.INT:
            return value  # type: ignore[no-any-return]
        case onnx.AttributeProto.STRING:
            return _text(value)
        case onnx.AttributeProto.TENSOR:
            array = numpy_helper.to_array(value)
            if str(array.dtype) not in KINDS:
                raise _NoWordsError
            return AttributeTensor(str(array.dtype), array.shape, _numbers(array))
        case onnx.AttributeProto.INTS | onnx.AttributeProto.FLOATS | onnx.AttributeProto.STRINGS:
            entries = [_text(each) if isinstance(each, bytes) else each for each in value]
            return entries or EmptyList(_EMPTY[proto.type])
    raise _NoWordsError


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _NoWordsError from error


def _steps(foreign: Foreign, names: list[str]) -> tuple[OnnxStep, ...]:
    """The nodes, with values named as a node of several steps names them."""
    known = _values(foreign, names)
    found = []
    for proto in foreign.protos:
        for name in proto.output:
            known.setdefault(name, f"v{len(known)}")
        attributes = {each.name: _attribute(each) for each in proto.attribute}
        entering, leaving = (tuple(known[name] for name in side) for side in (proto.input, proto.output))
        found.append(OnnxStep(proto.op_type, attributes, entering, leaving))
    return tuple(found)


def _entering(entering: Entering) -> tuple[OnnxTensor, torch.Tensor | None]:
    """An input as the node says it, and its numbers where they are too many for the document."""
    value = entering.value
    if isinstance(value, Ref):
        return OnnxTensor(_kind(entering.kind), value.shape), None
    kind = _kind(str(value.dtype))
    if value.size <= MAX_VALUES:
        return OnnxTensor(kind, value.shape, "values", _numbers(value)), None
    return OnnxTensor(kind, value.shape, "weights"), torch.from_numpy(np.array(value, order="C"))


def _numbers(values: Array) -> tuple[int | float, ...]:
    plain = values.astype(np.uint8) if values.dtype == np.bool_ else values
    return tuple(plain.reshape(-1).tolist())


def _kind(name: str) -> Any:
    need(name in KINDS, f"an input is {name}, supported are {', '.join(sorted(KINDS))}")
    return name
