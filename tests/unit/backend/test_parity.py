from __future__ import annotations

import numpy as np
import pytest

from backend.parity import compare, hash_inputs, lowest_agreement, verdict_of

A = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)


def test_equal_answers_are_equal_bit_for_bit() -> None:
    found = compare("y", A, A.copy())
    assert (found.max_difference, found.mean_difference, found.argmax_agreement) == (0.0, 0.0, 1.0)
    assert found.largest_value == 4.0
    assert verdict_of((found,), 0.0) == "equal"


def test_differences_are_measured_against_the_largest_value() -> None:
    found = compare("y", A, A + np.array([[0, 0.02], [0, 0]], np.float32))
    assert found.max_difference == pytest.approx(0.02, rel=1e-4)
    assert found.mean_difference == pytest.approx(0.005, rel=1e-4)
    assert verdict_of((found,), 0.006) == "within tolerance"
    assert verdict_of((found,), 0.004) == "differs"


def test_another_shape_or_no_number_differs_at_any_tolerance() -> None:
    broken = A.copy()
    broken[0, 0] = np.nan
    for theirs in (A[:1], broken):
        assert verdict_of((compare("y", A, theirs),), 1e9) == "differs"
    assert verdict_of((compare("y", broken, broken.copy()),), 0.0) == "equal"


def test_agreement_is_that_of_the_worst_output() -> None:
    other = A[:, ::-1].copy()
    half = A.copy()
    half[0] = half[0, ::-1]
    outputs = (compare("a", A, A), compare("b", A, half), compare("c", A[:, :1], A[:, :1]))
    assert [output.argmax_agreement for output in outputs] == [1.0, 0.5, None]
    assert lowest_agreement(outputs) == 0.5
    assert compare("d", A, other).argmax_agreement == 0.0
    assert lowest_agreement(outputs[2:]) is None


def test_the_hash_of_inputs_covers_names_types_and_shapes() -> None:
    hashes = {
        hash_inputs(each)
        for each in ({"x": A}, {"y": A}, {"x": A.reshape(4)}, {"x": A.astype(np.float64)}, {"x": A + 1})
    }
    assert len(hashes) == 5
    assert hash_inputs({"x": A}) == hash_inputs({"x": np.asfortranarray(A)})
