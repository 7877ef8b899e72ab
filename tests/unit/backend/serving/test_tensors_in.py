"""Bodies of nothing but lists, read the short way: the same arrays as the long way, or a refusal."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from backend.errors import InputError
from backend.serving.messages import TensorSpec
from backend.serving.tensor_body import DTYPES
from backend.serving.tensors_in import from_body, from_json

VALUES: dict[str, list[Any]] = {"f": [0, -1.5, 1e-3, 3.3333333333], "b": [True, False, False, True]}
SHAPES = [(-1,), (-1, 4), (-1, 2, 2), (1, -1, 2), (2, 2), (-1, 2, 1, 2)]


def body_of(lists: Any) -> bytes:
    return json.dumps({"inputs": lists}).encode()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_of_lists_is_the_array_that_the_long_way_makes_of_it(
    dtype: str, shape: tuple[int, ...]
) -> None:
    spec = TensorSpec("x", dtype, shape)
    values = VALUES.get(np.dtype(dtype).kind, [0, 1, 100, 127])
    lists = np.array(values, object).reshape(shape).tolist()
    expected = from_json(msgspec.Raw(json.dumps(lists).encode()), spec)
    found = from_body(body_of(lists), spec)
    assert found.dtype == expected.dtype == np.dtype(dtype)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "lists"),
    [
        ("float32", []),
        ("float32", [[]]),
        ("float32", [[1, 2], [3]]),
        ("float32", [[1, 2, 3]]),
        ("float32", [[[1, 2]]]),
        ("float32", [1, 2]),
        ("float32", [["1", "2"]]),
        ("float16", [[1e300, 0]]),
        ("uint8", [[256, 0]]),
        ("uint8", [[-1, 0]]),
        ("int64", [[1 << 63, 0]]),
        ("int32", [[1.5, 0]]),
        ("bool", [[1, 0]]),
    ],
)
def test_lists_that_do_not_fit_are_left_to_the_long_way(dtype: str, lists: Any) -> None:
    with pytest.raises((InputError, msgspec.DecodeError)):
        from_body(body_of(lists), TensorSpec("x", dtype, (-1, 2)))
