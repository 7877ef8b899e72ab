"""Looks through an ONNX model before any runtime sees it, and refuses what reaches outside of it.

Pure: bytes in, facts out, within a budget of fields, depth and nodes. Refused are data in other
files (also of sparse tensors and of tensors in attributes), operators that are not the runtime's
own, functions that call each other in circles or unfold into too much, and fields that are unknown.
Accepting says that nothing outside the bytes is touched, not that the model is cheap to run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backend.errors import ArchiveError
from backend.formats import onnx_schema as schema
from backend.formats.protobuf import Budget, Fields, Span, read_fields, read_ints, signed

MAX_MODEL_BYTES = (1 << 31) - 1
"""What protobuf can hold."""
MAX_FIELDS = 2_000_000
MAX_DEPTH = 16
"""Of graphs inside the attributes of nodes."""
MAX_NODES = 1_000_000
"""With all functions unfolded."""
MAX_RANK = 32
MAX_ELEMENTS = 1 << 40
"""Of a tensor."""
MAX_DENSE_BYTES = 1 << 30
"""What a sparse tensor may become when it is made dense."""
_MAX_TEXT_BYTES = 1 << 16
_IR_VERSIONS = range(3, 20)


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """An input or output. ``dtype`` and ``shape`` are None where the model leaves them open."""

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None
    """A number, the name of a size, or None for each axis."""


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """What a model says of itself."""

    ir_version: int
    opsets: Mapping[str, int]
    """Version by domain; "" is that of ONNX itself."""
    producer: str
    producer_version: str
    name: str
    inputs: tuple[OnnxValue, ...]
    """Without those that have an initializer."""
    outputs: tuple[OnnxValue, ...]
    initializers: tuple[OnnxTensor, ...]
    operators: Mapping[str, int]
    """How often each is used, with functions and inner graphs once."""
    functions: int
    metadata: Mapping[str, str]
    size_bytes: int

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.initializers)


def check_onnx(data: bytes) -> OnnxFacts:
    """Raises ArchiveError."""
    if len(data) > MAX_MODEL_BYTES:
        raise ArchiveError(f"ONNX model of {len(data)} bytes, limit {MAX_MODEL_BYTES}")
    try:
        return _Check(data).model()
    except ArchiveError as error:
        raise ArchiveError(f"ONNX model: {error}") from error


_FunctionKey = tuple[str, str, str]
"""Domain, name, overload."""


@dataclass(slots=True)
class _Scope:
    """What the nodes of one graph, with those inside it, or of one function use."""

    operators: Counter[str] = field(default_factory=Counter)
    calls: Counter[_FunctionKey] = field(default_factory=Counter)
    nodes: int = 0


class _Check:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = Budget(MAX_FIELDS)
        self._functions: dict[_FunctionKey, _Scope] = {}

    def model(self) -> OnnxFacts:
        model = self._read(Span(0, len(self._data)), schema.MODEL, "model")
        version = self._int(model, 1)
        if version not in _IR_VERSIONS:
            raise ArchiveError(
                f"format version {version}, readable are {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]}"
            )
        if 20 in model:
            raise ArchiveError("carries training graphs, which are not run")
        if 7 not in model:
            raise ArchiveError("holds no graph")
        metadata = self._pairs(model.get(14, []))
        if "ort_config" in metadata:
            raise ArchiveError("carries settings for the runtime (ort_config)")
        self._read_functions(model)
        (span,) = _spans(model[7])
        graph, scope = self._read(span, schema.GRAPH, "graph"), _Scope()
        tensors = self._graph(graph, scope, 0)
        self._check_unfolding(scope)
        used = scope.operators.copy()
        for function in self._functions.values():
            used.update(function.operators)
        named = {tensor.name for tensor in tensors}
        return OnnxFacts(
            ir_version=version,
            opsets=dict(map(self._opset, _spans(model.get(8, [])))),
            producer=self._text(model, 2),
            producer_version=self._text(model, 3),
            name=self._text(graph, 2),
            inputs=tuple(value for value in self._values(graph, 11) if value.name not in named),
            outputs=self._values(graph, 12),
            initializers=tensors,
            operators=dict(sorted(used.items())),
            functions=len(self._functions),
            metadata=metadata,
            size_bytes=len(self._data),
        )

    # -- functions -----------------------------------------------------------------------------------

    def _read_functions(self, model: Fields) -> None:
        functions = [self._read(span, schema.FUNCTION, "function") for span in _spans(model.get(25, []))]
        for function in functions:
            key = (self._text(function, 10), self._text(function, 1), self._text(function, 13))
            if key[0] in schema.STANDARD_DOMAINS or key[0] == schema.MICROSOFT:
                raise ArchiveError(f"function {key[1]!r} in domain {key[0]!r}, which is the runtime's own")
            if key in self._functions:
                raise ArchiveError(f"function {key[1]!r} twice")
            self._functions[key] = _Scope()
        for function, scope in zip(functions, self._functions.values(), strict=True):
            for node in _spans(function.get(7, [])):
                self._node(node, scope, 0)
            for attribute in _spans(function.get(11, [])):
                self._attribute(attribute, scope, 0, "of a function")

    def _check_unfolding(self, main: _Scope) -> None:
        """Functions are unfolded where they are called: that must end, and at a size that fits."""
        sizes: dict[_FunctionKey, int] = {}
        for key in _callees_first(self._functions):
            scope = self._functions[key]
            size = scope.nodes + sum(sizes[called] * count for called, count in scope.calls.items())
            sizes[key] = min(size, MAX_NODES + 1)
        total = main.nodes + sum(sizes[called] * count for called, count in main.calls.items())
        if total > MAX_NODES:
            raise ArchiveError(f"over {MAX_NODES} nodes once its functions are unfolded")

    # -- graphs --------------------------------------------------------------------------------------

    def _graph(self, graph: Fields, scope: _Scope, depth: int) -> tuple[OnnxTensor, ...]:
        if depth > MAX_DEPTH:
            raise ArchiveError(f"graphs inside each other more than {MAX_DEPTH} deep")
        for node in _spans(graph.get(1, [])):
            self._node(node, scope, depth)
        for sparse in _spans(graph.get(15, [])):
            self._sparse(sparse, "initializer")
        return tuple([self._tensor(span, "initializer") for span in _spans(graph.get(5, []))])

    def _node(self, span: Span, scope: _Scope, depth: int) -> None:
        node = self._read(span, schema.NODE, "node")
        operator, domain = self._text(node, 4), self._text(node, 7)
        scope.nodes += 1
        scope.operators[operator if domain in schema.STANDARD_DOMAINS else f"{domain}::{operator}"] += 1
        key = (domain, operator, self._text(node, 8))
        if key in self._functions:
            scope.calls[key] += 1
        elif not schema.is_built_in(domain, operator):
            name = self._text(node, 3)
            raise ArchiveError(f"node {name[:80]!r}: operator {domain[:80]}::{operator[:80]} is not built in")
        for attribute in _spans(node.get(5, [])):
            self._attribute(attribute, scope, depth, f"of {operator[:80]}")

    def _attribute(self, span: Span, scope: _Scope, depth: int, where: str) -> None:
        found = self._read(span, schema.ATTRIBUTE, f"attribute {where}")
        for tensor in _spans(found.get(5, []) + found.get(10, [])):
            self._tensor(tensor, f"attribute {where}")
        for sparse in _spans(found.get(22, []) + found.get(23, [])):
            self._sparse(sparse, f"attribute {where}")
        for graph in _spans(found.get(6, []) + found.get(11, [])):
            self._graph(self._read(graph, schema.GRAPH, "inner graph"), scope, depth + 1)

    # -- tensors -------------------------------------------------------------------------------------

    def _tensor(self, span: Span, where: str) -> OnnxTensor:
        tensor = self._read(span, schema.TENSOR, f"tensor, {where}")
        name = self._text(tensor, 8)
        what = f"tensor {name[:80]!r}, {where}"
        if 13 in tensor or self._int(tensor, 14):
            raise ArchiveError(
                f"{what}: its data is in another file, allowed is only data in the model, where "
                "onnx.save(onnx.load(FILE), NEW_FILE) puts it"
            )
        if 3 in tensor:
            raise ArchiveError(f"{what}: is one segment of several, allowed are whole tensors")
        dtype, item_bytes = schema.ELEMENT_TYPES.get(self._int(tensor, 2), ("", 0))
        if not dtype:
            raise ArchiveError(f"{what}: element type {self._int(tensor, 2)} is unknown")
        shape = self._shape(tensor.get(1, []), what)
        self._check_data(tensor, math.prod(shape), item_bytes, what)
        return OnnxTensor(name, dtype, shape)

    def _check_data(self, tensor: Fields, count: int, item_bytes: float, what: str) -> None:
        """That there is as much data as the shape says, as far as that can be told without reading it."""
        if 9 in tensor:
            (raw,) = _spans(tensor[9])
            needed = math.ceil(count * item_bytes)
            if raw.size != needed or not item_bytes:
                raise ArchiveError(f"{what}: {raw.size} bytes of data, its shape needs {needed}")
            return
        lists = [value for number in (4, 5, 7, 10, 11) for value in tensor.get(number, [])]
        held = sum(value.size if isinstance(value, Span) else 1 for value in lists)
        # A byte of a packed list holds at most one number, and a number at most four elements.
        if count > max(4 * held, len(tensor.get(6, []))):
            raise ArchiveError(f"{what}: its shape has {count:.4g} elements, its data cannot hold them")

    def _sparse(self, span: Span, where: str) -> None:
        sparse = self._read(span, schema.SPARSE, f"sparse tensor, {where}")
        for part in (1, 2):
            for tensor in _spans(sparse.get(part, [])):
                self._tensor(tensor, f"sparse, {where}")
        dense = 8 * math.prod(self._shape(sparse.get(3, []), f"sparse tensor, {where}"))
        if dense > MAX_DENSE_BYTES:
            raise ArchiveError(
                f"sparse tensor, {where}: {dense:.4g} bytes as a whole, limit {MAX_DENSE_BYTES}"
            )

    def _shape(self, values: list[int | Span], what: str) -> tuple[int, ...]:
        shape = read_ints(self._data, values, MAX_RANK)
        if min(shape, default=0) < 0 or math.prod(shape) > MAX_ELEMENTS:
            raise ArchiveError(f"{what}: shape {shape}, allowed are counts of {MAX_ELEMENTS} elements in all")
        return tuple(shape)

    # -- what a model says of itself -----------------------------------------------------------------

    def _values(self, graph: Fields, number: int) -> tuple[OnnxValue, ...]:
        return tuple([self._value(span) for span in _spans(graph.get(number, []))])

    def _value(self, span: Span) -> OnnxValue:
        value = self._read(span, schema.VALUE, "value")
        name, kind = self._text(value, 1), self._inside(value, 2, schema.TYPE, "type")
        if 1 not in kind:
            return OnnxValue(name, None, None)
        tensor = self._inside(kind, 1, schema.TENSOR_TYPE, "tensor type")
        dtype, _ = schema.ELEMENT_TYPES.get(self._int(tensor, 1), (None, 0))
        if 2 not in tensor:
            return OnnxValue(name, dtype, None)
        axes = _spans(self._inside(tensor, 2, schema.SHAPE, "shape").get(1, []))
        if len(axes) > MAX_RANK:
            raise ArchiveError(f"value {name[:80]!r} of {len(axes)} axes, limit {MAX_RANK}")
        return OnnxValue(name, dtype, tuple([self._axis(axis) for axis in axes]))

    def _axis(self, span: Span) -> int | str | None:
        axis = self._read(span, schema.DIMENSION, "axis")
        if 1 in axis:
            return self._int(axis, 1)
        return self._text(axis, 2) or None

    def _opset(self, span: Span) -> tuple[str, int]:
        opset = self._read(span, schema.OPSET, "operator set")
        domain = self._text(opset, 1)
        return schema.STANDARD_DOMAINS.get(domain, domain), self._int(opset, 2)

    def _pairs(self, values: list[int | Span]) -> dict[str, str]:
        pairs = [self._read(span, schema.PAIR, "metadata") for span in _spans(values)]
        return {self._text(pair, 1): self._long_text(pair, 2) for pair in pairs}

    # -- reading -------------------------------------------------------------------------------------

    def _read(self, span: Span, fields: schema.Schema, what: str) -> Fields:
        return read_fields(self._data, span, fields, what, self._budget)

    def _inside(self, outer: Fields, number: int, fields: schema.Schema, what: str) -> Fields:
        spans = _spans(outer.get(number, []))
        return self._read(spans[0], fields, what) if spans else {}

    def _int(self, fields: Fields, number: int) -> int:
        value = fields.get(number, [0])[0]
        return signed(value) if isinstance(value, int) else 0

    def _text(self, fields: Fields, number: int) -> str:
        spans = _spans(fields.get(number, []))
        if spans and spans[0].size > _MAX_TEXT_BYTES:
            raise ArchiveError(f"a name of {spans[0].size} bytes, limit {_MAX_TEXT_BYTES}")
        return self._long_text(fields, number)

    def _long_text(self, fields: Fields, number: int) -> str:
        spans = _spans(fields.get(number, []))
        if not spans:
            return ""
        try:
            return self._data[spans[0].begin : spans[0].end].decode()
        except UnicodeDecodeError as error:
            raise ArchiveError(f"a text that is not UTF-8: {error.reason}") from error


def _spans(values: Iterable[int | Span]) -> list[Span]:
    return [value for value in values if isinstance(value, Span)]


def _callees_first(functions: Mapping[_FunctionKey, _Scope]) -> list[_FunctionKey]:
    """Raises ArchiveError where functions call each other in a circle."""
    callers: dict[_FunctionKey, list[_FunctionKey]] = {key: [] for key in functions}
    waiting = {key: len(scope.calls) for key, scope in functions.items()}
    for key, scope in functions.items():
        for called in scope.calls:
            callers[called].append(key)
    ready = [key for key, count in waiting.items() if count == 0]
    ordered: list[_FunctionKey] = []
    while ready:
        key = ready.pop()
        ordered.append(key)
        for caller in callers[key]:
            waiting[caller] -= 1
            if waiting[caller] == 0:
                ready.append(caller)
    if len(ordered) < len(functions):
        raise ArchiveError("its functions call each other in a circle")
    return ordered
