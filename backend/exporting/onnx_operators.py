"""Operators that came from an ONNX model, put back into the ONNX that is written. Worker processes only.

torch's exporter is shown a stand-in of each; in the file the original takes its place. One of another
operator set than the file's is brought to that by onnx's own converter, where it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backend.formats.onnx_names import all_nodes, read_by, rename
from backend.formats.onnx_schema import MICROSOFT, STANDARD_DOMAINS
from backend.formats.onnx_write import one_node_model, pack
from backend.onnx_node import OnnxNode, OnnxTensor, weight_place
from backend.runtime.onnx_operator import OnnxOperation, torch_type

_DOMAIN, _NUMBER = "cyxwiz.operator", "number"


class OperatorSetError(Exception):
    """An operator that the file's operator set does not have."""


@dataclass(frozen=True, slots=True)
class Original:
    """An operator, and its program where it has one."""

    node: OnnxNode
    program: bytes

    @classmethod
    def of(cls, operation: OnnxOperation) -> Original:
        return cls(operation.node, operation.program_bytes())


class StandIn(nn.Module):
    """What torch's exporter makes a node of, with the constants of the original as its inputs."""

    def __init__(self, original: OnnxOperation, number: int) -> None:
        super().__init__()
        self.node = original.node
        self.number = number
        held = dict(original.named_buffers(recurse=False))
        for place, tensor in enumerate(self.node.inputs):
            if tensor is not None and tensor.kind != "flows":
                name = weight_place(place)
                self.register_buffer(name, held[name] if tensor.kind == "weights" else _values(tensor))

    def forward(self, *values: torch.Tensor) -> Any:
        flowing = iter(values)
        inputs = [
            None if tensor is None else next(flowing) if tensor.kind == "flows" else self.get_buffer(name)
            for name, tensor in ((weight_place(n), each) for n, each in enumerate(self.node.inputs))
        ]
        given = self.node.given
        found = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{self.node.operator}",
            inputs,
            {_NUMBER: self.number},
            dtypes=[torch_type(each) for each in given],
            shapes=[(values[0].shape[0], *each.shape) for each in given],
            version=1,
        )
        return found[0] if len(found) == 1 else tuple(found)


def _values(tensor: OnnxTensor) -> torch.Tensor:
    return torch.tensor(tensor.values, dtype=torch_type(tensor)).reshape(tensor.shape)


def put_back(model: Any, operators: list[Original]) -> None:
    """Replaces the stand-ins of an ``onnx.ModelProto``. Raises OperatorSetError."""
    if not operators:
        return
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    domains: dict[str, int] = {}
    for each in operators:
        domains |= {name: max(version, domains.get(name, 0)) for name, version in each.node.domains.items()}
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.domain != _DOMAIN:
            nodes.append(node)
            continue
        (number,) = [each.i for each in node.attribute if each.name == _NUMBER]
        operator = operators[number].node
        if operator.program:
            nodes += _from_program(node, operators[number], opset, domains)
        elif operator.steps:
            nodes += _unfolded(node, operator, opset)
        else:
            nodes.append(node)
            _restore(model.graph, node, operator, opset)
    # Nodes of a message are copied into it, so that the old ones may go.
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [each for each in model.opset_import if each.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    for name, version in domains.items():
        model.opset_import.add(domain=name, version=version)


def _restore(graph: Any, node: Any, operator: OnnxNode, opset: int) -> None:
    """Raises OperatorSetError."""
    original = _alone(operator)
    if _since(operator.operator, operator.opset) != _since(operator.operator, opset):
        original = _converted(original, operator, opset)
    (found,) = [each for each in original.graph.node if each.op_type != "Constant"]
    node.op_type, node.domain, node.overload = found.op_type, "", ""
    del node.attribute[:]
    node.attribute.extend(found.attribute)
    outputs = iter(node.output)
    node.output[:] = [next(outputs) if tensor is not None else "" for tensor in operator.outputs]
    constants = _constants(original.graph)
    for name in found.input[len(operator.inputs) :]:
        # What was an attribute, and is an input of the newer operator.
        tensor = constants[name]
        tensor.name = f"{node.output[0]}.{name}"
        graph.initializer.append(tensor)
        node.input.append(tensor.name)


def _unfolded(node: Any, operator: OnnxNode, opset: int) -> list[Any]:
    """The steps, between the values of the one node that stands for them. Raises OperatorSetError."""
    original = _alone(operator)
    if any(_since(s.operator, operator.opset) != _since(s.operator, opset) for s in operator.steps):
        original = _converted_steps(original, operator, opset)
    names = _names(node, operator)
    found = [*original.graph.node]
    for each in found:
        each.input[:] = [names.get(name, f"{node.output[0]}.{name}") for name in each.input]
        each.output[:] = [names.get(name, f"{node.output[0]}.{name}") for name in each.output]
    return found


def _from_program(node: Any, original: Original, opset: int, domains: Mapping[str, int]) -> list[Any]:
    """The nodes of a program, between the values of the one node that stands for it.

    Raises OperatorSetError.
    """
    found = [*_alone(original.node, original.program).graph.node]
    before = {"": original.node.opset, **original.node.domains}
    for each in all_nodes(found):
        domain = STANDARD_DOMAINS.get(each.domain, each.domain)
        _check_meaning(each.op_type, domain, before[domain], {"": opset, **domains}[domain])
    names = _names(node, original.node)
    for each in found:
        for name in (*each.output, *read_by(each)):
            names.setdefault(name, f"{node.output[0]}.{name}")
        rename(each, names)
    return found


def _names(node: Any, operator: OnnxNode) -> dict[str, str]:
    """What the values at the ends of a node of ours are called in the file."""
    names = {f"in{number}": name for number, name in enumerate(node.input)} | {"": ""}
    places = [number for number, tensor in enumerate(operator.outputs) if tensor is not None]
    return names | {f"out{number}": name for number, name in zip(places, node.output, strict=True)}


def _check_meaning(operator: str, domain: str, before: int, after: int) -> None:
    """That an operator is the same in both operator sets but for types that it takes and attributes that
    one may leave out: whether its answers are, the comparison of what is exported shows.

    Raises OperatorSetError.
    """
    import onnx

    if domain == MICROSOFT or before == after:
        return
    try:
        old, new = (onnx.defs.get_schema(operator, version, domain) for version in (before, after))
    except onnx.defs.SchemaError as error:
        raise OperatorSetError(f"operator {operator} is none of operator set {after}") from error
    fewer, more = sorted((_attributes(old), _attributes(new)), key=len)
    inputs = [[(each.name, each.option) for each in schema.inputs] for schema in (old, new)]
    if inputs[0] != inputs[1] or any(more.get(name) != default for name, default in fewer.items()):
        raise OperatorSetError(
            f"operator {operator} of operator set {before} means something else in {after}, the file's"
        )


def _attributes(schema: Any) -> dict[str, bytes]:
    """Defaults by name."""
    return {name: each.default_value.SerializeToString() for name, each in schema.attributes.items()}


def _converted_steps(model: Any, operator: OnnxNode, opset: int) -> Any:
    """Raises OperatorSetError unless the converter changes nothing but what the operators mean."""
    found = _convert(model, opset, f"operators of operator set {operator.opset}")
    before, after = model.graph.node, found.graph.node
    same = len(before) == len(after) and all(
        (a.op_type, list(a.input), list(a.output)) == (b.op_type, list(b.input), list(b.output))
        for a, b in zip(before, after, strict=True)
    )
    if not same:
        what = f"operators of operator set {operator.opset}"
        raise OperatorSetError(f"{what} have no counterparts in {opset}, of which the file is")
    return found


def _convert(model: Any, opset: int, what: str) -> Any:
    """Raises OperatorSetError."""
    import onnx

    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises whatever its adapters raise
        raise OperatorSetError(f"{what}, and the file is of {opset}: {str(error)[:200]}") from error


def _constants(graph: Any) -> dict[str, Any]:
    found = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    return found


def _since(operator: str, opset: int) -> int:
    """The operator set in which it became what it is. Raises OperatorSetError."""
    import onnx

    try:
        return int(onnx.defs.get_schema(operator, opset).since_version)
    except onnx.defs.SchemaError as error:
        raise OperatorSetError(f"operator {operator} is none of operator set {opset}") from error


def _alone(operator: OnnxNode, program: bytes = b"") -> Any:
    import onnx

    weights = {
        place: pack(tensor.type, (0,) * tensor.elements)
        for place, tensor in enumerate(operator.inputs)
        if tensor is not None and tensor.kind == "weights"
    }
    return onnx.load_from_string(one_node_model(operator, weights, program))


def _converted(model: Any, operator: OnnxNode, opset: int) -> Any:
    """Raises OperatorSetError."""
    what = f"operator {operator.operator} of operator set {operator.opset}"
    found = _convert(model, opset, what)
    before, after = model.graph.node[0], [each for each in found.graph.node if each.op_type != "Constant"]
    kept = len(before.input)
    if (
        len(after) != 1
        or list(after[0].input[:kept]) != list(before.input)
        or not set(after[0].input[kept:]) <= _constants(found.graph).keys()
    ):
        raise OperatorSetError(
            f"{what} has no counterpart of the same inputs in {opset}, of which the file is"
        )
    return found
