"""The expression of a Lambda as Python over tensors, from its parsed form. Pure."""

from __future__ import annotations

from backend.expression import Call, Expression, Number, Variable, parse
from backend.pytorch_code.text import Code

_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
_WHOLE = 4
_FUNCTIONS = {"max": "torch.maximum", "min": "torch.minimum", "^": "torch.pow"}


def arithmetic(expression: str, inputs: tuple[Code, ...]) -> Code:
    """Raises ExpressionError."""
    text, _ = _written(parse(expression), inputs)
    return Code(text)


def _written(expression: Expression, inputs: tuple[Code, ...]) -> tuple[str, int]:
    """Text, and how strongly it holds together."""
    match expression:
        case Number(value):
            return f"torch.full_like({inputs[0]}, {value!r})", _WHOLE
        case Variable(index):
            return inputs[index], _WHOLE
        case Call("neg", (argument,)):
            return f"-{_held(argument, inputs, 3)}", 3
        case Call(("+" | "-" | "*" | "/") as operator, (left, right)):
            strength = _STRENGTH[operator]
            second = _right_side(right, inputs, strength + 1)
            return f"{_held(left, inputs, strength)} {operator} {second}", strength
        case Call("^", (left, right)):
            return f"torch.pow({_written(left, inputs)[0]}, {_right_side(right, inputs, 0)})", _WHOLE
        case Call(name, arguments):
            parts = ", ".join(_written(each, inputs)[0] for each in arguments)
            return f"{_FUNCTIONS.get(name, f'torch.{name}')}({parts})", _WHOLE


def _right_side(expression: Expression, inputs: tuple[Code, ...], strength: int) -> str:
    """Operators take a number as it is."""
    if isinstance(expression, Number):
        return repr(expression.value)
    return _held(expression, inputs, strength)


def _held(expression: Expression, inputs: tuple[Code, ...], strength: int) -> str:
    text, own = _written(expression, inputs)
    return text if own >= strength else f"({text})"
