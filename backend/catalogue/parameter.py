"""The typed parameters of a node: what they allow, and values made complete. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

Parameters: TypeAlias = Mapping[str, Any]
"""Complete and checked: every parameter of the type is there and in range."""

MAX_AXES = 8
MAX_ENTRIES = 4096
"""Of a list of numbers."""


class ParameterType(Enum):
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    INTEGERS = "integers"
    """A list of integers."""
    NUMBERS = "numbers"
    """A list of numbers."""
    TEXT = "text"
    SIZE = "size"
    """An integer for every axis, or a list with one for each."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """``minimum`` and ``maximum`` are inclusive and, for lists, hold for each entry.

    For a TEXT, ``maximum`` is that of its length.
    """

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


def integer(name: str, default: int | None, help: str, minimum: int = 1, maximum: int = 1 << 20) -> Parameter:
    """A default of None makes it optional."""
    return Parameter(name, ParameterType.INTEGER, default, help, minimum, maximum, optional=default is None)


def text(name: str, default: str, help: str, maximum: int) -> Parameter:
    return Parameter(name, ParameterType.TEXT, default, help, 0, maximum)


def number(name: str, default: float, help: str, minimum: float = 0.0, maximum: float = 1e9) -> Parameter:
    return Parameter(name, ParameterType.NUMBER, default, help, minimum, maximum)


def boolean(name: str, default: bool, help: str) -> Parameter:
    return Parameter(name, ParameterType.BOOLEAN, default, help)


def choice(name: str, default: str, help: str, choices: tuple[str, ...]) -> Parameter:
    return Parameter(name, ParameterType.CHOICE, default, help, choices=choices)


def numbers(
    name: str, help: str, minimum: float, maximum: float, default: tuple[float, ...] = ()
) -> Parameter:
    return Parameter(name, ParameterType.NUMBERS, default, help, minimum, maximum)


def integers(
    name: str, default: tuple[int, ...] | None, help: str, minimum: int = 1, maximum: int = 1 << 20
) -> Parameter:
    """A default of None makes it optional."""
    return Parameter(name, ParameterType.INTEGERS, default, help, minimum, maximum, optional=default is None)


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
        case ParameterType.TEXT:
            words = f"a text of at most {high:g} characters"
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
        case ParameterType.TEXT:
            return isinstance(value, str) and len(value) <= (parameter.maximum or 0)
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
