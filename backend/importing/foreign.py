"""ONNX operators that no node stands for: kept as they are, tried in onnxruntime. Worker processes only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from backend.catalogue.record import MAX_ELEMENTS
from backend.code_import.building import Building, Ref, UnsupportedError
from backend.code_import.modules import need
from backend.errors import DeadlineError, InputError, ShapeMismatchError
from backend.formats.onnx_choices import choices
from backend.formats.onnx_schema import ELEMENT_TYPES
from backend.formats.tensors import Array
from backend.importing.onnx_kept import KINDS, Entering, Foreign, check_operators, described
from backend.onnx_node import TYPE, OnnxNode, OnnxTensor, read_node
from backend.runtime.deadlines import running_until
from backend.runtime.onnx_operator import OnnxOperation, torch_type
from backend.runtime.onnx_runtime import ELEMENT_KINDS, open_session, run_until

_BATCH = 3
_MAX_FOLDED_BYTES = 1 << 30
_RTOL, _ATOL = 1e-4, 1e-5
LONGEST_TRIAL_S = 30.0
"""Of a program, which may hold loops without end."""
_TRUTH = "cyxwiz.truth"


class NotApartError(UnsupportedError):
    """Samples are not in front and apart, as what follows may put right."""


class NoNumbersError(NotApartError):
    """Gives texts, lists or maps, of which what follows may make numbers."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Values of the ONNX by their names: those that the node gives, and why it does not give the others."""

    values: Mapping[str, Ref]
    left: Mapping[str, NotApartError]


def keep(foreign: Foreign, made: Building, wanted: str, *, may_be_alone: bool = False) -> Kept:
    """Adds the node that stands for it. ``may_be_alone``: the model takes one sample at a time anyhow.

    Raises UnsupportedError for operators that are refused, that onnxruntime does not run on this, or of which
    no value has a fixed shape behind the batch and keeps samples apart.
    """
    check_operators(foreign)
    try:
        return _kept(foreign, made, wanted)
    except UnsupportedError:
        if not may_be_alone:
            raise
    return _kept(replace(foreign, alone=True), made, wanted)


def _kept(foreign: Foreign, made: Building, wanted: str) -> Kept:
    """Raises UnsupportedError."""
    flowing = {name for name, each in foreign.entering.items() if isinstance(each.value, Ref)}
    if (chosen := choices(foreign.protos, flowing)) and not foreign.alone:
        raise UnsupportedError(f"{' and '.join(chosen)} decide by the values of all samples of a batch")
    types, left = _numeric(foreign)
    foreign = _asked_for(foreign, types)
    node, entering, weights = described(foreign, _in_order(foreign, types))
    tried = dict(zip(types, _tried(node, weights), strict=True))
    left |= {name: each for name, each in tried.items() if isinstance(each, NotApartError)}
    given = {name: each for name, each in tried.items() if isinstance(each, OnnxTensor)}
    if not given:
        raise next(iter(left.values()))
    foreign = _asked_for(foreign, given)
    _check_branches(foreign, given)
    node, entering, weights = described(foreign, _in_order(foreign, given))
    try:
        read_node(node.parameters)
    except ShapeMismatchError as error:
        raise UnsupportedError(str(error)) from error
    node_id = made.add(wanted, TYPE, node.parameters, entering, weights)
    values = {
        name: Ref(
            node_id, "output" if place == 0 else f"output{place + 1}", each.shape, each.type != "float32"
        )
        for place, (name, each) in enumerate(given.items())
    }
    return Kept(values, left)


def _asked_for(foreign: Foreign, names: Mapping[str, Any]) -> Foreign:
    """With its other outputs left out."""
    return replace(foreign, outputs=tuple([name if name in names else "" for name in foreign.outputs]))


def folded(foreign: Foreign) -> dict[str, Array]:
    """The values of nodes all of whose inputs are constants, worked out once. Raises UnsupportedError."""
    check_operators(foreign)
    proto = foreign.last
    if proto.op_type == "Constant" and proto.attribute and proto.attribute[0].name == "value":
        return {proto.output[0]: numpy_helper.to_array(proto.attribute[0].t)}
    model = _alone(foreign)
    size = sum(_bytes_of(value.type.tensor_type) for value in model.graph.output)
    need(size <= _MAX_FOLDED_BYTES, f"a constant of {size:.3g} bytes, limit {_MAX_FOLDED_BYTES}")
    try:
        session = open_session(model.SerializeToString(), 1)
        found = run_until(session, {}, time.monotonic() + LONGEST_TRIAL_S)
    except DeadlineError as error:
        raise UnsupportedError(f"did not end within {LONGEST_TRIAL_S:g} s") from error
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise UnsupportedError(f"onnxruntime does not run it: {str(error)[:200]}") from error
    if not all(isinstance(each, np.ndarray) for each in found):
        raise NoNumbersError("gives something else than tensors")
    return dict(zip([value.name for value in model.graph.output], found, strict=True))


# -- what comes out of it --------------------------------------------------------------------------


def _alone(foreign: Foreign) -> onnx.ModelProto:
    """A model of these nodes alone, for a batch of a few samples, with the types of its outputs."""
    doors, constants, batch = [], [], 1 if foreign.alone else _BATCH
    for name, each in foreign.entering.items():
        if isinstance(each.value, Ref):
            number = next((n for n, (kind, _) in ELEMENT_TYPES.items() if kind == each.kind), 0)
            doors.append(helper.make_tensor_value_info(name, number, (batch, *each.value.shape)))
        else:
            constants.append(numpy_helper.from_array(each.value, name))
    ends = [onnx.ValueInfoProto(name=name) for name in foreign.outputs if name]
    graph = helper.make_graph(list(foreign.protos), "alone", doors, ends, constants)
    versions = {"": foreign.opset} | foreign.domains_used
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    # Of other domains' operators onnx knows nothing, which it takes for an error where it is strict.
    strict = not foreign.domains_used
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    except Exception as error:  # onnx raises errors of its own and of protobuf's
        raise UnsupportedError(f"its shapes cannot be worked out: {str(error)[:200]}") from error


def _bytes_of(tensor: onnx.TypeProto.Tensor) -> int:
    """As far as shape inference knows; 0 for what it does not."""
    _, item = ELEMENT_TYPES.get(tensor.elem_type, ("", 0))
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    size = int(item)
    for each in sizes:
        size *= each
    return size


def _numeric(foreign: Foreign) -> tuple[dict[str, OnnxTensor], dict[str, NotApartError]]:
    """Those of its outputs that are numbers, whose shapes are not yet known, and why others are none.

    Raises UnsupportedError.
    """
    model = _alone(foreign)
    kinds = {value.name: _kind_of(value) for value in model.graph.output}
    if "" in kinds.values():
        kinds = _told_by_runtime(model)
    found: dict[str, OnnxTensor] = {}
    left: dict[str, NotApartError] = {}
    for name, kind in kinds.items():
        if kind in KINDS:
            found[name] = OnnxTensor(kind, ())  # type: ignore[arg-type]
        else:
            left[name] = NoNumbersError(f"gives {kind}, supported are {', '.join(sorted(KINDS))}")
    if not found:
        raise next(iter(left.values()))
    for value in model.graph.output:
        size = _bytes_of(value.type.tensor_type)
        need(size <= MAX_ELEMENTS, f"gives {size:.3g} bytes, limit {MAX_ELEMENTS}")
    return found, left


def _kind_of(value: onnx.ValueInfoProto) -> str:
    """Empty where onnx knows it not."""
    if value.type.WhichOneof("value") not in (None, "tensor_type"):
        return "no tensor"
    number = value.type.tensor_type.elem_type
    return ELEMENT_TYPES[number][0] if number in ELEMENT_TYPES else ""


def _told_by_runtime(model: onnx.ModelProto) -> dict[str, str]:
    try:
        ends = open_session(model.SerializeToString(), 1).get_outputs()
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise UnsupportedError(f"onnxruntime does not run it: {str(error)[:200]}") from error
    return {end.name: ELEMENT_KINDS.get(end.type, end.type) for end in ends}


def _in_order(foreign: Foreign, types: Mapping[str, OnnxTensor]) -> tuple[OnnxTensor | None, ...]:
    return tuple([types[name] if name else None for name in foreign.outputs])


def _check_branches(foreign: Foreign, given: Mapping[str, OnnxTensor]) -> None:
    """Whichever branch an If takes, what comes out must be of one shape, as the trial alone does not show.

    Raises UnsupportedError.
    """
    for place, proto in enumerate(foreign.protos):
        for truth in (False, True) if proto.op_type == "If" else ():
            forced = onnx.NodeProto()
            forced.CopyFrom(proto)
            forced.input[0] = _TRUTH
            protos = (*foreign.protos[:place], forced, *foreign.protos[place + 1 :])
            entering = {**foreign.entering, _TRUTH: Entering(np.array(truth))}
            changed = replace(foreign, protos=protos, entering=entering)
            node, _, weights = described(changed, _in_order(changed, given))
            found = _tried(node, weights)
            wrong = next((each for each in found if isinstance(each, NotApartError)), None)
            if wrong is not None:
                raise wrong
            wanted = [*given.values()]
            need(found == wanted, f"one branch gives {_shapes(found)}, the other one {_shapes(wanted)}")


def _shapes(given: Sequence[OnnxTensor | NotApartError]) -> str:
    return ", ".join([f"{each.type} {each.shape}" for each in given if isinstance(each, OnnxTensor)])


def _tried(node: OnnxNode, weights: Mapping[str, torch.Tensor]) -> list[OnnxTensor | NotApartError]:
    """Runs it on a few samples together, and on each alone; says what comes out of one, or what is wrong."""
    module = _module(node, weights)
    samples = [_drawn(tensor, number) for number, tensor in enumerate(node.flowing)]
    together = [] if node.alone else _run(module, samples)
    alone = [_run(module, [each[place : place + 1] for each in samples]) for place in range(_BATCH)]
    return [
        _of_one(tensor, together[number] if together else None, [each[number] for each in alone])
        for number, tensor in enumerate(node.given)
    ]


def _of_one(tensor: OnnxTensor, whole: Array | None, alone: list[Array]) -> OnnxTensor | NotApartError:
    """``whole``: of all together, where that may be."""
    if whole is None:
        if any(one.ndim == 0 or len(one) != 1 for one in alone):
            return NotApartError("moves the batch from the front")
        whole = alone[0] if len({one.shape for one in alone}) > 1 else np.concatenate(alone)
        if len(whole) != _BATCH:
            return NotApartError("gives shapes that depend on values")
    for place, one in enumerate(alone):
        if whole.ndim == 0 or len(whole) != _BATCH or one.ndim == 0 or len(one) != 1:
            return NotApartError("moves the batch from the front")
        if whole.shape[1:] != one.shape[1:]:
            return NotApartError("gives shapes that depend on values or on the batch")
        if not np.allclose(whole[place], one[0], _RTOL, _ATOL, equal_nan=True):
            return NotApartError("mixes the samples of a batch")
    return OnnxTensor(tensor.type, tuple(whole.shape[1:]))


def sizes(foreign: Foreign) -> Array | None:
    """A list of sizes that begins with the batch, for which there is 0; None for anything else."""
    node, _, weights = described(foreign, _in_order(foreign, _numeric(foreign)[0]))
    module = _module(node, weights)
    samples = [_drawn(tensor, number) for number, tensor in enumerate(node.flowing)]
    (several,), (one,) = _run(module, samples), _run(module, [each[:1] for each in samples])
    if several.dtype != np.int64 or several.ndim != 1 or several.shape != one.shape or not several.size:
        return None
    if (several[0], one[0]) != (_BATCH, 1) or not np.array_equal(several[1:], one[1:]):
        return None
    return np.array([0, *several[1:]], np.int64)


def _module(node: OnnxNode, weights: Mapping[str, torch.Tensor]) -> OnnxOperation:
    module = OnnxOperation(node)
    for name, tensor in weights.items():
        module.get_buffer(name).copy_(tensor)
    return module


def _run(module: OnnxOperation, samples: list[torch.Tensor]) -> list[Array]:
    try:
        with running_until(time.monotonic() + LONGEST_TRIAL_S):
            return module.run(samples)
    except DeadlineError as error:
        raise UnsupportedError(f"did not end within {LONGEST_TRIAL_S:g} s") from error
    except InputError as error:
        raise UnsupportedError(f"onnxruntime does not run it: {error}") from error


def _drawn(tensor: OnnxTensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (_BATCH, *tensor.shape)
    if tensor.type.startswith("float"):
        return torch.randn(shape, generator=generator).to(torch_type(tensor))
    return torch.randint(0, 2, shape, generator=generator).to(torch_type(tensor))
