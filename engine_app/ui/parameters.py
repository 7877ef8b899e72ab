"""How a declared parameter is edited: which control, and texts to values and back. Pure."""

from __future__ import annotations

import json
from enum import Enum

from backend.catalogue.parameter import Parameter, ParameterType, allowed_values, problem_of
from backend.graph import JsonValue

MAX_SEGMENTS = 3
MAX_SEGMENT_LETTERS = 24
"""Of all segments together."""
MAX_SLIDER_RANGE = 10.0
MIN_DEFAULT = 0.05
"""Of the range: what is smaller by default, such as a weight decay, is chosen by factors, not by place."""


class Control(Enum):
    STEPPER = "stepper"
    SLIDER = "slider"
    TOGGLE = "toggle"
    SEGMENTS = "segments"
    CHOICE = "choice"
    TEXT = "text"


def control_of(parameter: Parameter) -> Control:
    match parameter.type:
        case ParameterType.BOOLEAN:
            return Control.TOGGLE
        case ParameterType.CHOICE:
            letters = sum(map(len, parameter.choices))
            few = len(parameter.choices) <= MAX_SEGMENTS and letters <= MAX_SEGMENT_LETTERS
            return Control.SEGMENTS if few else Control.CHOICE
        case ParameterType.NUMBER if _is_narrow(parameter):
            return Control.SLIDER
        case ParameterType.NUMBER | ParameterType.INTEGER if not parameter.optional:
            return Control.STEPPER
        case _:
            return Control.TEXT


def _is_narrow(parameter: Parameter) -> bool:
    low, high = parameter.minimum, parameter.maximum
    if low is None or high is None or parameter.optional or high - low > MAX_SLIDER_RANGE:
        return False
    return parameter.default >= low + MIN_DEFAULT * (high - low)


def value_of(parameter: Parameter, text: str) -> JsonValue:
    """Raises ValueError, saying what was found and what is allowed."""
    value = _parsed(parameter, text.strip())
    problem = problem_of(parameter, value)
    if problem is not None:
        raise ValueError(problem)
    return value


def problem_in(parameter: Parameter, text: str) -> str | None:
    try:
        value_of(parameter, text)
    except ValueError as error:
        return str(error)
    return None


def _parsed(parameter: Parameter, text: str) -> JsonValue:
    if parameter.type is ParameterType.TEXT:
        return text
    if not text and parameter.optional:
        return None
    if text in parameter.choices:
        return text
    if parameter.type in (ParameterType.INTEGERS, ParameterType.NUMBERS) or "," in text:
        return [_number(parameter, each) for each in text.strip("[]()").split(",") if each.strip()]
    return _number(parameter, text)


def _number(parameter: Parameter, text: str) -> int | float:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{parameter.name} is {text[:40]!r}, must be {allowed_values(parameter)}")
    return value


def text_of(value: JsonValue) -> str:
    """As a field shows it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(text_of, value))
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def title_of(name: str) -> str:
    """``weight_decay`` as people read it."""
    return name.replace("_", " ").capitalize()


def whole_problem(text: str, low: int, high: int) -> str | None:
    if text.isdecimal() and len(text) < 12 and low <= int(text) <= high:
        return None
    return f"found {text[:20]!r}, must be an integer from {low} to {high}"
