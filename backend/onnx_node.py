"""One operator of an ONNX model as the parameters of a node: read strictly, and within bounds. Pure.

An ``OnnxOperator`` stands for an operator that no other type does. It says all that its operator
is made of, so that onnxruntime can run it and an ONNX file get it back as it was: name, operator
set, attributes, and for each input and output what it is. Where words do not do, for an operator that
holds graphs, is of another domain or has thousands of numbers, it stands in a program: nodes of an
ONNX model as they were in its file, kept with the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from backend.errors import ShapeMismatchError
from backend.graph import Graph, Node, Wiring

TYPE = "OnnxOperator"
MAX_TEXT = 64 << 10
MAX_VALUES = 64
"""Numbers that an input may have in the document; more are kept with the weights."""
_MAX_ENTRIES, _MAX_NUMBERS = 64, 4096
_MAX_AXES, _MAX_ELEMENTS = 8, 1 << 32
_LARGEST = {"float64": 1.7976931348623157e308, "float32": 3.4028234663852886e38, "float16": 65504.0}
_OPERATOR = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_PARAMETERS = ("operator", "opset", "attributes", "inputs", "outputs", "steps", "program", "domains", "alone")
MAX_PROGRAM_BYTES = 1 << 30
_DOMAINS = ("ai.onnx.ml", "com.microsoft")
_MAX_STEPS = 64
_REMEMBERED = 8192
_VALUE = re.compile(r"(in|out|v)(0|[1-9][0-9]{0,3})")
REFUSED_OPERATORS = frozenset({
    "Bernoulli", "If", "Loop", "Multinomial", "Optional", "OptionalGetElement", "OptionalHasElement",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Scan", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap",
})  # fmt: skip
"""What holds graphs, draws at random, or takes and gives something else than tensors: not in words."""
RANDOM_OPERATORS = frozenset({op for op in REFUSED_OPERATORS if op.startswith("Random")}) | {
    "Bernoulli",
    "Multinomial",
}
"""Not in programs either."""

DataType: TypeAlias = Literal[
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool"
]
Attribute: TypeAlias = "int | float | str | list[int] | list[float] | list[str] | EmptyList | AttributeTensor"


class OnnxTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An input or output. Of what flows, ``shape`` is that of one sample, without the batch.

    ``kind``: it ``flows``; its numbers are with the ``weights``; or they are ``values`` here.
    """

    type: DataType
    shape: tuple[int, ...]
    kind: Literal["flows", "weights", "values"] = "flows"
    values: tuple[int | float, ...] = ()

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class EmptyList:
    """An attribute that is a list without entries: ``of`` is ints, floats or strings."""

    of: str


@dataclass(frozen=True, slots=True)
class AttributeTensor:
    type: str
    shape: tuple[int, ...]
    values: tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class OnnxStep:
    """One of several operators of a node. Values are named in0, in1 ..., out0 ..., or v0 ... between steps;

    an empty name is an input or output that is left out.
    """

    operator: str
    attributes: Mapping[str, Attribute]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """None among inputs and outputs is one that is left out.

    ``steps``: the operators that it stands for, where only several together keep samples apart and in
    front; ``operator`` is then the last of them, and the attributes are theirs.
    """

    operator: str
    opset: int
    attributes: Mapping[str, Attribute]
    inputs: tuple[OnnxTensor | None, ...]
    outputs: tuple[OnnxTensor | None, ...]
    steps: tuple[OnnxStep, ...] = ()
    program: int = 0
    """Bytes of the nodes of an ONNX graph that stand for attributes and steps; 0 for none."""
    domains: Mapping[str, int] = field(default_factory=dict)
    """Of a program: the versions of operator sets beside that of ONNX itself."""
    alone: bool = False
    """Takes one sample at a time, as its file did."""

    @property
    def flowing(self) -> tuple[OnnxTensor, ...]:
        """What is linked to the node, in order."""
        return tuple([each for each in self.inputs if each is not None and each.kind == "flows"])

    @property
    def given(self) -> tuple[OnnxTensor, ...]:
        """What comes out of it, in order."""
        return tuple([each for each in self.outputs if each is not None])

    @property
    def parameters(self) -> dict[str, Any]:
        """As a node of the document has them."""
        return {
            "operator": self.operator,
            "opset": self.opset,
            "attributes": dump_attributes(self.attributes),
            "inputs": msgspec.json.encode(self.inputs).decode(),
            "outputs": msgspec.json.encode(self.outputs).decode(),
            "steps": dump_steps(self.steps) if self.steps else "",
            "program": self.program,
            "domains": json.dumps(self.domains) if self.domains else "",
            "alone": self.alone,
        }


PROGRAM_PLACE = "program"
"""What the program is called among the weights of the node."""


def weight_place(number: int) -> str:
    """What the weights of this input are called in the node."""
    return f"input{number}"


def read_node(parameters: Mapping[str, Any]) -> OnnxNode:
    """Raises ShapeMismatchError, which says which parameter is wrong."""
    given = tuple([parameters[name] for name in _PARAMETERS])
    # Long ones are read again each time, rather than kept.
    is_short = sum(len(each) for each in given if isinstance(each, str)) <= _REMEMBERED
    found = _remembered(*given) if is_short else _read(*given)
    if isinstance(found, str):
        raise ShapeMismatchError(found)
    return found


def _read(
    operator: str,
    opset: int,
    attributes: str,
    inputs: str,
    outputs: str,
    steps: str,
    program: int,
    domains: str,
    alone: bool,
) -> OnnxNode | str:
    """The node, or what is wrong with it."""
    try:
        _check_operator(operator, in_words=not program)
        found = OnnxNode(
            operator,
            opset,
            load_attributes(attributes),
            _tensors("inputs", inputs),
            _tensors("outputs", outputs),
            load_steps(steps) if steps else (),
            program,
            _load_domains(domains) if domains else {},
            alone,
        )
        _check_wiring(found)
    except ShapeMismatchError as error:
        return str(error)
    if not found.flowing or not found.given:
        return "an operator needs an input that flows and an output"
    if any(each.kind != "flows" for each in found.given):
        return "outputs: what an operator gives flows"
    if program and (found.attributes or found.steps):
        return "a program stands for attributes and steps, beside it none are allowed"
    return found


_remembered = lru_cache(maxsize=256)(_read)
"""Graphs are checked again at every edit."""


def _load_domains(text: str) -> dict[str, int]:
    """Raises ShapeMismatchError."""
    try:
        found = msgspec.json.decode(text, type=dict[str, int])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ShapeMismatchError(f"domains: {error}") from error
    if not found.keys() <= {*_DOMAINS} or not all(1 <= version <= 64 for version in found.values()):
        raise ShapeMismatchError(f"domains: {ascii(found)[:100]}, allowed are {', '.join(_DOMAINS)}, 1 to 64")
    return found


def _check_operator(operator: object, *, in_words: bool = True) -> str:
    """Raises ShapeMismatchError."""
    if not isinstance(operator, str) or not _OPERATOR.fullmatch(operator):
        raise ShapeMismatchError(f"operator {ascii(operator)[:60]}, must be the name of an ONNX operator")
    if in_words and operator in REFUSED_OPERATORS:
        raise ShapeMismatchError(
            f"operator {operator} holds graphs, draws at random or gives no tensor, which only a program may"
        )
    return operator


def _check_wiring(node: OnnxNode) -> None:
    """That each step takes what there is by then, and that all outputs come of it.

    Raises ShapeMismatchError.
    """
    if not node.steps:
        return
    known = {f"in{number}" for number, each in enumerate(node.inputs) if each is not None}
    for number, step in enumerate(node.steps):
        missing = [name for name in step.inputs if name and name not in known]
        twice = [name for name in step.outputs if name in known]
        if missing or twice:
            raise ShapeMismatchError(f"steps: number {number} takes {missing} or gives {twice} again")
        known |= {name for name in step.outputs if name}
    wanted = {f"out{number}" for number, each in enumerate(node.outputs) if each is not None}
    if not wanted <= known:
        raise ShapeMismatchError(f"steps: nothing gives {sorted(wanted - known)[:4]}")


def _tensors(name: str, text: str) -> tuple[OnnxTensor | None, ...]:
    """Raises ShapeMismatchError."""
    try:
        found = msgspec.json.decode(text, type=tuple[OnnxTensor | None, ...])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ShapeMismatchError(f"{name}: {error}") from error
    if len(found) > _MAX_ENTRIES:
        raise ShapeMismatchError(f"{name}: {len(found)}, limit {_MAX_ENTRIES}")
    for number, each in enumerate(found):
        if each is not None and (wrong := _problem(each)):
            raise ShapeMismatchError(f"{name}: number {number} {wrong}")
    return found


def _problem(tensor: OnnxTensor) -> str:
    if len(tensor.shape) > _MAX_AXES or min(tensor.shape, default=0) < 0 or tensor.elements > _MAX_ELEMENTS:
        return (
            f"is shaped {tensor.shape[:_MAX_AXES]}, allowed are {_MAX_AXES} axes and {_MAX_ELEMENTS} elements"
        )
    wanted = tensor.elements if tensor.kind == "values" else 0
    if len(tensor.values) != wanted or wanted > MAX_VALUES:
        return f"has {len(tensor.values)} values, must have {wanted} and at most {MAX_VALUES}"
    return "" if _fits(tensor.type, tensor.values) else f"has values that are no {tensor.type}"


def _fits(kind: str, values: tuple[int | float, ...]) -> bool:
    if kind in _LARGEST:
        return all(abs(value) <= _LARGEST[kind] for value in values)
    if kind == "bool":
        return all(isinstance(value, int) and value in (0, 1) for value in values)
    bits, low = int(kind.lstrip("uint")), 0 if kind.startswith("u") else 1
    bound = 1 << (bits - low)
    return all(isinstance(value, int) and -bound * low <= value < bound for value in values)


# -- attributes ----------------------------------------------------------------------------------


def dump_attributes(attributes: Mapping[str, Attribute]) -> str:
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        match value:
            case EmptyList(of):
                plain[name] = {"empty": of}
            case AttributeTensor(kind, shape, values):
                plain[name] = {"tensor": kind, "shape": list(shape), "values": list(values)}
            case _:
                plain[name] = value
    return json.dumps(plain, allow_nan=False)


def load_attributes(text: str) -> dict[str, Attribute]:
    """Whole numbers are INT, numbers with a point FLOAT. Raises ShapeMismatchError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeMismatchError(f"attributes: {error}") from error
    if not isinstance(found, dict) or len(found) > _MAX_ENTRIES:
        raise ShapeMismatchError(f"attributes must be a JSON object of at most {_MAX_ENTRIES} entries")
    return _attributes(found)


def _attributes(found: Mapping[str, Any]) -> dict[str, Attribute]:
    """Raises ShapeMismatchError."""
    for name in found:
        if not _is_text(name):
            raise ShapeMismatchError(f"attribute {name[:60]!a} has a name that no file can hold")
    return {name: _attribute(name, value) for name, value in found.items()}


def _is_text(value: object) -> bool:
    """Half a surrogate pair, which JSON can hold, no ONNX file can."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _attribute(name: str, value: Any) -> Attribute:
    """Raises ShapeMismatchError."""
    match value:
        case bool() | None:
            pass
        case str() if _is_text(value):
            return value
        case int() | float() if _is_number(value):
            return value
        case [*entries] if entries and len(entries) <= _MAX_NUMBERS:
            if len({type(each) for each in entries}) == 1 and all(
                _is_text(each) or _is_number(each) for each in entries
            ):
                return entries
        case {"empty": "ints" | "floats" | "strings" as of, **rest} if not rest:
            return EmptyList(of)
        case {"tensor": str(kind), "shape": [*shape], "values": [*values], **rest} if not rest:
            tensor = _attribute_tensor(kind, shape, values)
            if tensor is not None:
                return tensor
    raise ShapeMismatchError(
        f"attribute {name[:60]!a} must be a number, a text, a list of one kind of these, or a tensor"
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -(1 << 63) <= value < 1 << 63 if isinstance(value, int) else abs(value) <= _LARGEST["float32"]


def _attribute_tensor(kind: str, shape: list[Any], values: list[Any]) -> AttributeTensor | None:
    sizes = all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape)
    if kind not in DataType.__args__ or not sizes or len(shape) > _MAX_AXES:  # type: ignore[attr-defined]
        return None
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    fitting = len(values) == math.prod(shape) <= _MAX_NUMBERS and plain
    if not fitting or not _fits(kind, tuple(values)):
        return None
    return AttributeTensor(kind, tuple(shape), tuple(values))


# -- steps -----------------------------------------------------------------------------------------


def dump_steps(steps: tuple[OnnxStep, ...]) -> str:
    """As a list of lists: operator, attributes, inputs, outputs."""
    return json.dumps(
        [[s.operator, json.loads(dump_attributes(s.attributes)), s.inputs, s.outputs] for s in steps]
    )


def load_steps(text: str) -> tuple[OnnxStep, ...]:
    """Raises ShapeMismatchError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeMismatchError(f"steps: {error}") from error
    if not isinstance(found, list) or not 1 <= len(found) <= _MAX_STEPS:
        raise ShapeMismatchError(f"steps must be a JSON list of at most {_MAX_STEPS} entries")
    return tuple([_step(number, entry) for number, entry in enumerate(found)])


def _step(number: int, entry: Any) -> OnnxStep:
    """Raises ShapeMismatchError."""
    match entry:
        case [operator, dict() as attributes, [*inputs], [*outputs]] if (
            len(attributes) <= _MAX_ENTRIES and _are_values(inputs) and _are_values(outputs)
        ):
            return OnnxStep(_check_operator(operator), _attributes(attributes), tuple(inputs), tuple(outputs))
    raise ShapeMismatchError(f"steps: number {number} must be [operator, attributes, inputs, outputs]")


def _are_values(names: list[Any]) -> bool:
    named = all(isinstance(name, str) and (not name or _VALUE.fullmatch(name)) for name in names)
    return len(names) <= _MAX_ENTRIES and named


# -- in graphs -----------------------------------------------------------------------------------


def operator_nodes(wiring: Wiring) -> list[Node]:
    """Those of a graph or body, at any depth."""
    found = [node for node in wiring.nodes if node.type == TYPE]
    for node in wiring.nodes:
        if node.body is not None:
            found += operator_nodes(node.body)
    return found


def why_not_at_a_peer(graph: Graph) -> str:
    """Peers train what they can compute a gradient of, and know the cost of; empty for such a graph."""
    found = operator_nodes(graph)
    if not found:
        return ""
    return (
        f"node {found[0].id[:60]!a} is an operator of an ONNX model, which peers do not train: "
        "on this machine: cyxwiz train"
    )
