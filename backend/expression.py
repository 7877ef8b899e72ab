"""Arithmetic that a Lambda node applies to each element: a closed grammar with its own parser. Pure.

    expression = term {("+" | "-") term}
    term       = factor {("*" | "/") factor}
    factor     = ("-" | "+") factor | atom ["^" factor]
    atom       = number | name | name "(" expression {"," expression} ")" | "(" expression ")"

Names are ``x1``, ``x2`` ... for the inputs (``x`` is the first), ``pi`` and ``e``. Never Python code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from backend.errors import ExpressionError

MAX_CHARACTERS = 1000
MAX_PARTS = 256
MAX_DEPTH = 32
MAX_INPUTS = 16

FUNCTIONS: Mapping[str, int] = {
    "abs": 1,
    "cos": 1,
    "exp": 1,
    "log": 1,
    "max": 2,
    "min": 2,
    "relu": 1,
    "sigmoid": 1,
    "sin": 1,
    "sqrt": 1,
    "tanh": 1,
}
"""How many arguments each takes."""
CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e}
VARIABLES: Mapping[str, int] = {"x": 0, **{f"x{number}": number - 1 for number in range(1, MAX_INPUTS + 1)}}
_TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z]\w*)|([-+*/^(),]))", re.A
)


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Variable:
    index: int
    """Of the input, from 0."""


@dataclass(frozen=True, slots=True)
class Call:
    """``name`` is a function or one of ``+ - * / ^ neg``."""

    name: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Number | Variable | Call


def parse(text: str) -> Expression:
    """Raises ExpressionError, saying where and what is allowed."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"expression of {len(text)} characters, limit {MAX_CHARACTERS}")
    if "**" in text:
        raise ExpressionError("** is no operator: a power is written ^")
    parser = _Parser(_tokens(text))
    expression = parser.sum(0)
    parser.expect("")
    return expression


def parts(expression: Expression) -> tuple[Expression, ...]:
    """The expression and all in it; at most MAX_PARTS."""
    if isinstance(expression, Call):
        return (expression, *(part for argument in expression.arguments for part in parts(argument)))
    return (expression,)


def inputs_used(expression: Expression) -> frozenset[int]:
    return frozenset(part.index for part in parts(expression) if isinstance(part, Variable))


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise ExpressionError(
                f"{stripped[at : at + 20].strip()!r} is no number, name or one of + - * / ^ ( ) ,"
            )
        found.append(match.group().strip())
        at = match.end()
    return found


class _Parser:
    """Recursive descent; ``depth`` bounds the recursion and ``MAX_PARTS`` the result."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._at = 0
        self._parts = 0

    def sum(self, depth: int) -> Expression:
        return self._chain(("+", "-"), depth)

    def expect(self, wanted: str) -> None:
        found = self._next()
        if found != wanted:
            raise ExpressionError(f"{found or 'the end'!s} where {wanted or 'the end'!s} is expected")

    def _chain(self, operators: tuple[str, ...], depth: int) -> Expression:
        inner = self._product if "+" in operators else self._factor
        left = inner(depth)
        while self._tokens[self._at] in operators:
            operator = self._next()
            left = self._call(operator, left, inner(depth))
        return left

    def _product(self, depth: int) -> Expression:
        return self._chain(("*", "/"), depth)

    def _factor(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"expression nested more than {MAX_DEPTH} deep")
        match self._tokens[self._at]:
            case "-":
                self._next()
                return self._call("neg", self._factor(depth + 1))
            case "+":
                self._next()
                return self._factor(depth + 1)
        base = self._atom(depth)
        if self._tokens[self._at] == "^":
            self._next()
            return self._call("^", base, self._factor(depth + 1))
        return base

    def _atom(self, depth: int) -> Expression:
        token = self._next()
        if token == "(":
            inner = self.sum(depth + 1)
            self.expect(")")
            return inner
        if token in FUNCTIONS:
            return self._function(token, depth)
        if token in VARIABLES:
            return self._part(Variable(VARIABLES[token]))
        if token in CONSTANTS:
            return self._part(Number(CONSTANTS[token]))
        return self._part(_number(token))

    def _function(self, name: str, depth: int) -> Expression:
        self.expect("(")
        arguments = [self.sum(depth + 1)]
        while self._tokens[self._at] == ",":
            self._next()
            arguments.append(self.sum(depth + 1))
        self.expect(")")
        if len(arguments) != FUNCTIONS[name]:
            raise ExpressionError(f"{name} of {len(arguments)} arguments, takes {FUNCTIONS[name]}")
        return self._call(name, *arguments)

    def _call(self, name: str, *arguments: Expression) -> Expression:
        return self._part(Call(name, arguments))

    def _part(self, part: Expression) -> Expression:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ExpressionError(f"expression of more than {MAX_PARTS} parts")
        return part

    def _next(self) -> str:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token


def _number(token: str) -> Number:
    if not token or not (token[0].isdecimal() or token[0] == "."):
        names = ", ".join(sorted({*FUNCTIONS, *CONSTANTS, "x", "x1", "x2"}))
        raise ExpressionError(
            f"{token or 'the end'!s} where a value is expected; known are numbers, {names} ..."
        )
    value = float(token)
    if not math.isfinite(value):
        raise ExpressionError(f"number {token[:20]} is out of range")
    return Number(value)
