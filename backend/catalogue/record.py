"""What a catalogue record is made of: ports, parameters, rules. Pure; knows no single node type.

Shapes are those of one sample: the batch dimension is never written down. A rule raises
ShapeMismatchError where a layer cannot take what it is given; the caller makes a diagnostic of it.
One multiply-add counts as two floating-point operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from backend.errors import ShapeMismatchError

Shape: TypeAlias = tuple[int, ...]
Parameters: TypeAlias = Mapping[str, Any]
"""Complete and checked: every parameter of the type is there and in range."""

MAX_ELEMENTS = 2**32
"""Of one tensor of one sample, and of one layer's parameters."""
MAX_AXES = 8
MAX_ENTRIES = 4096
"""Of a list of numbers."""


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
    ACTIVATION = "Activations"
    SHAPE = "Shape"
    MERGE = "Merge"
    STRUCTURE = "Input and output"
    LOSS = "Losses"
    OPTIMIZER = "Optimizers"
    DATA = "Data"


@dataclass(frozen=True, slots=True)
class TensorType:
    shape: Shape


@dataclass(frozen=True, slots=True)
class LabelsType:
    """``classes`` above 0: class numbers below it. 0: real numbers to come close to."""

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


PortType: TypeAlias = TensorType | LabelsType | DatasetType | LossType | OptimizerType
"""What is known of the value at a port."""

KIND_OF: Mapping[type[PortType], PortKind] = {
    TensorType: PortKind.TENSOR,
    LabelsType: PortKind.LABELS,
    DatasetType: PortKind.DATASET,
    LossType: PortKind.LOSS,
    OptimizerType: PortKind.OPTIMIZER,
}


@dataclass(frozen=True, slots=True)
class Port:
    """A variadic input takes one or more links."""

    name: str
    kind: PortKind
    variadic: bool = False
    required: bool = True


class ParameterType(Enum):
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    INTEGERS = "integers"
    """A list of integers."""
    NUMBERS = "numbers"
    """A list of numbers."""
    SIZE = "size"
    """An integer for every axis, or a list with one for each."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """``minimum`` and ``maximum`` are inclusive and, for lists, hold for each entry."""

    name: str
    type: ParameterType
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    """All values of a CHOICE; for a SIZE, words allowed instead of numbers."""
    optional: bool = False
    """May be null."""
    axes: int = 0
    """Of a SIZE: how many there are."""


@dataclass(frozen=True, slots=True)
class Counts:
    parameters: int = 0
    """Numbers that training changes."""
    flops: int = 0
    """Forward, one sample."""
    buffers: int = 0
    """Numbers that are saved but not trained, such as running averages."""


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
    formats: frozenset[str] = frozenset({"cyxmodel"})
    """The file formats that can hold it."""
    keywords: tuple[str, ...] = ()
    limitation: str = ""
    """What it cannot do, and why; empty for nothing."""

    def input(self, name: str) -> Port | None:
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Port | None:
        return next((port for port in self.outputs if port.name == name), None)


# -- parameters ----------------------------------------------------------------------------------


def integer(name: str, default: int | None, help: str, minimum: int = 1, maximum: int = 1 << 20) -> Parameter:
    """A default of None makes it optional."""
    return Parameter(name, ParameterType.INTEGER, default, help, minimum, maximum, optional=default is None)


def number(name: str, default: float, help: str, minimum: float = 0.0, maximum: float = 1e9) -> Parameter:
    return Parameter(name, ParameterType.NUMBER, default, help, minimum, maximum)


def boolean(name: str, default: bool, help: str) -> Parameter:
    return Parameter(name, ParameterType.BOOLEAN, default, help)


def choice(name: str, default: str, help: str, choices: tuple[str, ...]) -> Parameter:
    return Parameter(name, ParameterType.CHOICE, default, help, choices=choices)


def numbers(name: str, help: str, minimum: float, maximum: float) -> Parameter:
    return Parameter(name, ParameterType.NUMBERS, (), help, minimum, maximum)


def integers(
    name: str, default: tuple[int, ...], help: str, minimum: int = 1, maximum: int = 1 << 20
) -> Parameter:
    return Parameter(name, ParameterType.INTEGERS, default, help, minimum, maximum)


def size(
    name: str,
    default: int | None,
    help: str,
    axes: int,
    minimum: int = 1,
    maximum: int = 1 << 16,
    choices: tuple[str, ...] = (),
) -> Parameter:
    """A default of None makes it optional."""
    return Parameter(
        name, ParameterType.SIZE, default, help, minimum, maximum, choices, default is None, axes
    )


def problem_of(parameter: Parameter, value: object) -> str | None:
    """Why the value will not do, naming what was found and what is allowed; None if it will."""
    if value is None and parameter.optional:
        return None
    if _fits(parameter, value):
        return None
    return f"{parameter.name} is {_shown(value)}, must be {allowed_values(parameter)}"


def allowed_values(parameter: Parameter) -> str:
    """In words: ``an integer from 1 to 64``."""
    low, high = parameter.minimum, parameter.maximum
    span = f" from {low:g} to {high:g}" if low is not None and high is not None else ""
    match parameter.type:
        case ParameterType.INTEGER:
            words = f"an integer{span}"
        case ParameterType.NUMBER:
            words = f"a number{span}"
        case ParameterType.BOOLEAN:
            words = "true or false"
        case ParameterType.CHOICE:
            words = "one of " + ", ".join(parameter.choices)
        case ParameterType.INTEGERS:
            words = f"a list of at most {MAX_AXES} integers{span}"
        case ParameterType.NUMBERS:
            words = f"a list of at most {MAX_ENTRIES} numbers{span}"
        case ParameterType.SIZE:
            words = f"an integer{span} or a list of {parameter.axes} such integers"
            words += "".join(f' or "{word}"' for word in parameter.choices)
    return words + (" or null" if parameter.optional else "")


def _fits(parameter: Parameter, value: object) -> bool:
    match parameter.type:
        case ParameterType.INTEGER:
            return _is_integer(value, parameter)
        case ParameterType.NUMBER:
            return _is_number(value, parameter)
        case ParameterType.BOOLEAN:
            return isinstance(value, bool)
        case ParameterType.CHOICE:
            return isinstance(value, str) and value in parameter.choices
        case ParameterType.INTEGERS:
            return _is_list(value, parameter, _is_integer, MAX_AXES)
        case ParameterType.NUMBERS:
            return _is_list(value, parameter, _is_number, MAX_ENTRIES)
        case ParameterType.SIZE:
            if isinstance(value, str):
                return value in parameter.choices
            if isinstance(value, list | tuple):
                return (
                    _is_list(value, parameter, _is_integer, parameter.axes) and len(value) == parameter.axes
                )
            return _is_integer(value, parameter)


def _is_integer(value: object, parameter: Parameter) -> bool:
    return isinstance(value, int) and _is_number(value, parameter)


def _is_number(value: object, parameter: Parameter) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    low, high = parameter.minimum, parameter.maximum
    return (low is None or value >= low) and (high is None or value <= high)


def _is_list(
    value: object, parameter: Parameter, fits: Callable[[object, Parameter], bool], limit: int
) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= limit
        and all(fits(entry, parameter) for entry in value)
    )


def completed(parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults filled in, lists as tuples, a SIZE as one integer for each axis.

    The values must have passed ``problem_of``.
    """
    return {parameter.name: _normal(parameter, given) for parameter in parameters}


def _normal(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    value = given.get(parameter.name, parameter.default)
    match parameter.type:
        case ParameterType.SIZE if isinstance(value, int):
            return (value,) * parameter.axes
        case ParameterType.NUMBER if value is not None:
            return float(value)
        case ParameterType.NUMBERS:
            return tuple(map(float, value))
        case _:
            return tuple(value) if isinstance(value, list) else value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- layers --------------------------------------------------------------------------------------

LayerRule: TypeAlias = Callable[[Parameters, tuple[Shape, ...]], Shape]
LayerCount: TypeAlias = Callable[[Parameters, tuple[Shape, ...], Shape], Counts]

INPUT = (Port("input", PortKind.TENSOR),)
OUTPUT = (Port("output", PortKind.TENSOR),)


def layer(
    name: str,
    category: Category,
    help: str,
    rule: LayerRule,
    count: LayerCount,
    parameters: tuple[Parameter, ...] = (),
    keywords: tuple[str, ...] = (),
    inputs: tuple[Port, ...] = INPUT,
) -> NodeType:
    """A type that turns tensors into one tensor; its rules see shapes alone."""

    def whole_rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
        return (TensorType(rule(given, tensor_shapes(types))),)

    def whole_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
        return count(given, tensor_shapes(types), tensor_shapes(out)[0])

    return NodeType(
        name, category, help, inputs, OUTPUT, parameters, whole_rule, whole_count, keywords=keywords
    )


def tensor_shapes(types: tuple[PortType, ...]) -> tuple[Shape, ...]:
    return tuple(found.shape for found in types if isinstance(found, TensorType))


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
        raise ShapeMismatchError(f"takes {what}, got {described(shape)}")


def axis_of(axis: int, shape: Shape) -> int:
    """The axis counted from the front; raises ShapeMismatchError where there is none."""
    if not -len(shape) <= axis < len(shape):
        raise ShapeMismatchError(f"axis {axis} of {described(shape)}, which has {len(shape)} axes")
    return axis % len(shape)
