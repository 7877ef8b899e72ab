"""The arithmetic of Lambda: what it means, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.compiler import compile_graph
from backend.errors import ExpressionError
from backend.expression import MAX_CHARACTERS, MAX_PARTS, inputs_used, parse, parts
from tests.unit.backend.catalogue_cases import Case, graph_of

VALUES = {
    "x1 + x2 * 2": lambda a, b: a + b * 2,
    "(x1 + x2) * 2": lambda a, b: (a + b) * 2,
    "x - x2 - 1": lambda a, b: a - b - 1,
    "x / x2 / 2": lambda a, b: a / b / 2,
    "-x ^ 2 + x2": lambda a, b: -(a**2) + b,
    "x2 + 2 ^ x ^ 2": lambda a, b: b + 2 ** (a**2),
    "2 ^ -x + x2": lambda a, b: 2 ** (-a) + b,
    "1.5e1 * x + .5 * x2": lambda a, b: 15 * a + 0.5 * b,
    "max(x, x2) - min(x, x2) + pi * e": lambda a, b: (
        torch.maximum(a, b) - torch.minimum(a, b) + math.pi * math.e
    ),
    "relu(x) + sigmoid(x2) + tanh(x)": lambda a, b: torch.relu(a) + torch.sigmoid(b) + torch.tanh(a),
    "sqrt(abs(x)) * log(exp(x2)) + sin(x) - cos(x2)": lambda a, b: (
        a.abs().sqrt() * b.exp().log() + a.sin() - b.cos()
    ),
    "max(1, 2) + 0 * x + 0 * x2": lambda a, b: torch.full_like(a, 2.0),
}


@pytest.mark.parametrize("text", sorted(VALUES))
def test_an_expression_means_what_mathematics_says(text: str) -> None:
    module = compile_graph(graph_of(Case("Lambda", {"expression": text}, ((4,), (4,))))).module
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.allclose(module(a, b), VALUES[text](a, b), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end where a value is expected"),
        ("x +", "the end where a value is expected"),
        ("x ** 2", "a power is written ^"),
        ("(x", "the end where ) is expected"),
        ("x x", "x where the end is expected"),
        ("__import__('os')", "is no number, name or one of"),
        ("x.real", "is no number, name or one of"),
        ("open(x)", "open where a value is expected; known are numbers, abs"),
        ("x17", "x17 where a value"),
        ("max(x)", "max of 1 arguments, takes 2"),
        ("exp(x, x)", "exp of 2 arguments, takes 1"),
        ("1e999 * x", "out of range"),
        ("(" * 100 + "x" + ")" * 100, "nested more than 32 deep"),
        ("-" * 100 + "x", "nested more than 32 deep"),
        ("+".join(["x"] * 400), "more than 256 parts"),
        ("x" * (MAX_CHARACTERS + 1), "limit 1000"),
        ("x\n; y", "is no number, name"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "is no number, name"),
    ],
)
def test_what_is_no_arithmetic_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        parse(text)
    assert words in str(refusal.value)


@given(st.text(alphabet="x12+-*/^().,eE max", max_size=60) | st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ExpressionError:
        return
    assert len(parts(found)) <= MAX_PARTS
    assert all(index < 16 for index in inputs_used(found))
