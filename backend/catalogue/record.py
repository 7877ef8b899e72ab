"""What a catalogue record is made of: ports, parameters, rules. Pure; knows no single node type.

Shapes are those of one sample: the batch dimension is never written down. A rule raises
ShapeMismatchError where a layer cannot take what it is given; the caller makes a diagnostic of it.
One multiply-add counts as two floating-point operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from backend.catalogue.parameter import Parameter, Parameters
from backend.errors import InsertBefore, SetParameter, ShapeMismatchError

Shape: TypeAlias = tuple[int, ...]
MAX_ELEMENTS = 2**32
"""Of one tensor of one sample, and of one layer's parameters."""
MAX_IDS = 1 << 20
"""Largest vocabulary: float32 holds such numbers exactly."""


class PortKind(Enum):
    TENSOR = "Tensor"
    LABELS = "Labels"
    PARAMETERS = "Parameters"
    LOSS = "Loss"
    OPTIMIZER = "Optimizer"
    DATASET = "Dataset"


class Category(Enum):
    DENSE = "Dense and convolution"
    POOLING = "Pooling and resampling"
    NORMALIZATION = "Normalization"
    REGULARIZATION = "Regularization"
    RECURRENT = "Recurrent"
    ATTENTION = "Embedding, attention, transformer"
    ACTIVATION = "Activations"
    SHAPE = "Shape"
    MERGE = "Merge"
    STRUCTURE = "Input and output"
    LOSS = "Losses"
    OPTIMIZER = "Optimizers"
    SCHEDULE = "Learning-rate schedules"
    PENALTY = "Penalties"
    UTILITY = "Utility"
    DATA = "Data"
    COMPOSITE = "Composite"


TRAINING_CATEGORIES = frozenset({Category.LOSS, Category.OPTIMIZER, Category.SCHEDULE, Category.PENALTY})
MODEL_CATEGORIES = frozenset(Category) - TRAINING_CATEGORIES - {Category.DATA}


@dataclass(frozen=True, slots=True)
class TensorType:
    """``ids`` above 0: whole numbers from 0 to below it, which name things, such as tokens."""

    shape: Shape
    ids: int = 0


@dataclass(frozen=True, slots=True)
class LabelsType:
    """``classes`` above 0: class numbers from 0 to below it. 0: real numbers to come close to."""

    shape: Shape
    classes: int = 0


@dataclass(frozen=True, slots=True)
class DatasetType:
    samples: TensorType
    labels: LabelsType


@dataclass(frozen=True, slots=True)
class LossType:
    pass


@dataclass(frozen=True, slots=True)
class OptimizerType:
    pass


@dataclass(frozen=True, slots=True)
class ParametersType:
    """The weights of a node."""


PortType: TypeAlias = TensorType | LabelsType | DatasetType | LossType | OptimizerType | ParametersType
"""What is known of the value at a port."""

KIND_OF: Mapping[type[PortType], PortKind] = {
    TensorType: PortKind.TENSOR,
    LabelsType: PortKind.LABELS,
    DatasetType: PortKind.DATASET,
    LossType: PortKind.LOSS,
    OptimizerType: PortKind.OPTIMIZER,
    ParametersType: PortKind.PARAMETERS,
}
_DATA_KINDS = frozenset({PortKind.TENSOR, PortKind.LABELS})


def may_link(source: PortKind, target: PortKind) -> bool:
    """Labels are tensors to a node, and a tensor can be what a loss compares with."""
    return source is target or {source, target} <= _DATA_KINDS


def converted(value: PortType, kind: PortKind) -> PortType | None:
    """The value as a port of this kind takes it; None if it does not."""
    match value, kind:
        case TensorType(shape, ids), PortKind.LABELS:
            return LabelsType(shape, ids)
        case LabelsType(shape, classes), PortKind.TENSOR:
            return TensorType(shape, classes)
        case _:
            return value if KIND_OF[type(value)] is kind else None


@dataclass(frozen=True, slots=True)
class Port:
    """A variadic input takes one or more links. A variadic output, at most one in a type, is as many

    ports as there are values: ``output``, ``output2``, ``output3`` ...
    """

    name: str
    kind: PortKind
    variadic: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    parameters: int = 0
    """Numbers that training changes."""
    flops: int = 0
    """Forward, one sample."""
    buffers: int = 0
    """Numbers that are saved but not trained, such as running averages."""
    activations: int = 0
    """Numbers that a sample leaves behind for the backward pass; 0: as many as the outputs have."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.buffers + other.buffers,
            self.activations + other.activations,
        )

    def times(self, weights: int, passes: int) -> Counts:
        """Of so many copies, each of which is passed so many times."""
        return Counts(
            self.parameters * weights,
            self.flops * passes,
            self.buffers * weights,
            self.activations * passes,
        )


@dataclass(frozen=True, slots=True)
class BodyTypes:
    """What is known of the graph inside a node: its rules find it in ``given["body"]``."""

    outputs: tuple[TensorType, ...]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Wrapping:
    """How a type wraps other nodes."""

    takes: Callable[[Parameters, tuple[TensorType, ...]], tuple[TensorType, ...]]
    """What enters the body."""
    copies: Callable[[Parameters], int]
    """How often the body is built."""
    one_node: bool = False
    """Wraps a node, not a graph."""
    allowed: frozenset[str] = frozenset()
    """The types that it can wrap; empty for all of a model."""


Rule: TypeAlias = Callable[[Parameters, tuple[PortType, ...]], tuple[PortType, ...]]
CountRule: TypeAlias = Callable[[Parameters, tuple[PortType, ...], tuple[PortType, ...]], Counts]


@dataclass(frozen=True, slots=True)
class NodeType:
    """Everything there is to know about a type without a numeric runtime."""

    name: str
    category: Category
    help: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: tuple[Parameter, ...]
    rule: Rule
    count: CountRule
    version: int = 1
    formats: frozenset[str] = frozenset()
    """The file formats that can hold it; the catalogue fills it in, as it does the notes."""
    format_notes: Mapping[str, str] = field(default_factory=dict)
    """By format: how it holds the type, or why it cannot."""
    keywords: tuple[str, ...] = ()
    limitation: str = ""
    """What it cannot do, and why; empty for nothing."""
    shape_rule: str = ""
    """In words."""
    wrapping: Wrapping | None = None

    def input(self, name: str) -> Port | None:
        for port in self.inputs:
            if port.name == name:
                return port
        return None

    def output(self, name: str) -> Port | None:
        for port in self.outputs:
            if _names(port, name):
                return port
        return None

    def name_outputs(self, values: tuple[PortType, ...]) -> dict[str, PortType]:
        """The rule's values under the names of their ports."""
        if len(values) == 1 == len(self.outputs):
            return {self.outputs[0].name: values[0]}
        names: list[str] = []
        for port in self.outputs:
            several = len(values) - len(self.outputs) + 1
            names += variadic_names(port.name, several) if port.variadic else [port.name]
        return dict(zip(names, values, strict=True))


def variadic_names(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}{number}" for number in range(1, count + 1)]


def _names(port: Port, name: str) -> bool:
    if name == port.name or not port.variadic:
        return name == port.name
    number = name.removeprefix(port.name)
    is_number = number.isdecimal() and number.isascii() and len(number) <= 4 and number[0] != "0"
    return name.startswith(port.name) and is_number and int(number) > 1


# -- layers --------------------------------------------------------------------------------------

LayerRule: TypeAlias = Callable[[Parameters, tuple[Shape, ...]], Shape]
LayerCount: TypeAlias = Callable[[Parameters, tuple[Shape, ...], Shape], Counts]

INPUT = (Port("input", PortKind.TENSOR),)
OUTPUT = (Port("output", PortKind.TENSOR),)
WEIGHTS = (Port("parameters", PortKind.PARAMETERS, required=False),)


class Numbers(Enum):
    """What numbers a layer takes."""

    REAL = "real"
    ANY = "any"
    """Real numbers or ids, and gives the same."""
    IDS = "ids"
    """Ids, and gives real numbers."""


def layer(
    name: str,
    category: Category,
    help: str,
    rule: LayerRule,
    count: LayerCount,
    parameters: tuple[Parameter, ...] = (),
    keywords: tuple[str, ...] = (),
    inputs: tuple[Port, ...] = INPUT,
    *,
    shape_rule: str = "",
    numbers: Numbers = Numbers.REAL,
    weights: bool = False,
) -> NodeType:
    """A type that turns tensors into one tensor; its rules see shapes alone.

    With ``weights`` it has a second port, for penalties on its own weights.
    """

    def whole_rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
        ids = _ids_of(types, numbers)
        tensor = TensorType(rule(given, tensor_shapes(types)), ids if numbers is Numbers.ANY else 0)
        return (tensor, ParametersType()) if weights else (tensor,)

    def whole_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
        return count(given, tensor_shapes(types), tensor_shapes(out)[0])

    return NodeType(
        name,
        category,
        help,
        inputs,
        OUTPUT + WEIGHTS if weights else OUTPUT,
        parameters,
        whole_rule,
        whole_count,
        keywords=keywords,
        shape_rule=shape_rule,
    )


def _ids_of(types: tuple[PortType, ...], numbers: Numbers) -> int:
    """Raises ShapeMismatchError for numbers that the layer cannot take."""
    found = [value.ids for value in types if isinstance(value, TensorType)]
    ids = max(found, default=0)
    if numbers is Numbers.REAL and ids:
        raise ShapeMismatchError(
            f"takes real numbers, got ids below {ids}", InsertBefore("Embedding", {"vocabulary": ids})
        )
    if numbers is Numbers.ANY and ids and not all(found):
        raise ShapeMismatchError("takes either ids or real numbers, got both")
    if numbers is Numbers.IDS and not ids:
        raise ShapeMismatchError("takes ids, such as those of tokens, got real numbers")
    return ids


def tensor_shapes(types: tuple[PortType, ...]) -> tuple[Shape, ...]:
    return tuple([found.shape for found in types if isinstance(found, TensorType)])


def elements(shape: Shape) -> int:
    return math.prod(shape)


def free(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    """Counts of what only moves or renames data."""
    return Counts()


def per_element(flops: int) -> LayerCount:
    """Counts of what does the same to each element of its output."""

    def count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
        return Counts(flops=flops * elements(output))

    return count


def described(shape: Shape) -> str:
    """A shape as users read it: ``(3, 32, 32)``, ``a single number``."""
    return f"({', '.join(map(str, shape))})" if shape else "a single number"


def need_axes(shape: Shape, count: int, what: str) -> None:
    """Raises ShapeMismatchError unless the shape has so many axes."""
    if len(shape) != count:
        remedies = [InsertBefore("Unsqueeze", {"axis": 0})] if len(shape) == count - 1 else []
        raise ShapeMismatchError(f"takes {what}, got {described(shape)}", *remedies)


def axis_of(axis: int, shape: Shape) -> int:
    """The axis counted from the front; raises ShapeMismatchError where there is none."""
    if not -len(shape) <= axis < len(shape):
        remedies = [SetParameter("axis", -1)] if shape else []
        raise ShapeMismatchError(f"axis {axis} of {described(shape)}, which has {len(shape)} axes", *remedies)
    return axis % len(shape)
