"""What a deployed model is asked before it is paid for, and which answers pass."""

from __future__ import annotations

import math
import struct

import pytest

from p2p.protocols.inference import TensorInfo
from p2p.session.inference import Tensor
from p2p.session.trial import MAX_BYTES, NUDGE, UNTRIED, Trial, expected_from, fault, question

IMAGE = TensorInfo("x", "float32", (-1, 2, 3))
TOKENS = TensorInfo("ids", "int64", (-1, -1))


def floats(*values: float) -> Tensor:
    return Tensor("float32", (len(values),), struct.pack(f"<{len(values)}f", *values))


def trial(first: Tensor, nudged: Tensor | None = None) -> Trial:
    return Trial(7, (IMAGE,), expected_from({"y": first}, {"y": nudged or first}))


def test_a_question_fits_the_shapes_and_is_the_same_for_a_seed() -> None:
    asked = question((IMAGE, TOKENS), 7)
    assert asked is not None and asked == question((IMAGE, TOKENS), 7) != question((IMAGE, TOKENS), 8)
    (image, pixels), (ids, tokens) = asked
    assert (image.shape, ids.shape) == ((1, 2, 3), (1, 1))
    values = struct.unpack("<6f", pixels)
    assert len(set(values)) > 3 and all(0 <= value < 1 for value in values)
    assert struct.unpack("<q", tokens)[0] in (0, 1)
    nudged = question((IMAGE,), 7, NUDGE)
    assert nudged is not None
    assert struct.unpack("<6f", nudged[0][1]) == pytest.approx([NUDGE * value for value in values])


def test_no_question_costs_more_than_it_may() -> None:
    side = math.isqrt(MAX_BYTES // 4)
    assert question((TensorInfo("x", "float32", (side, side)),), 7) is not None
    assert question((TensorInfo("x", "float32", (side, side + 1)),), 7) is None
    assert question((TensorInfo("x", "float32", (2**31,) * 8),), 7) is None


def test_the_same_model_on_another_device_passes_and_another_model_does_not() -> None:
    known = trial(floats(1, -2, 0.5))
    assert fault(known, {"y": floats(1.01, -2.02, 0.49)}) is None
    assert fault(known, {"y": floats(1, -2, 0.9)}) == "y is 0.9, allowed 0.5 within 0.200001"
    assert "nan" in str(fault(known, {"y": floats(1, math.nan, 0.5)}))
    assert fault(known, {"y": floats(1, -2)}) == "y is float32 of (2,), allowed float32 of (3,)"
    assert fault(known, {"z": floats(1, -2, 0.5)}) == "answers z, allowed y"
    assert fault(known, {}) == "answers nothing, allowed y"


@pytest.mark.parametrize("first", [floats(1, -2), floats(1, math.nan), Tensor("int64", (2,), bytes(16))])
def test_what_is_random_jumps_or_is_no_float_is_compared_by_its_form_alone(first: Tensor) -> None:
    known = trial(first, floats(1, 2) if first.dtype == "float32" else None)
    assert fault(known, {"y": Tensor(first.dtype, (2,), bytes(len(first.data)))}) is None
    assert fault(known, {"y": floats(1)}) is not None


def test_an_output_whose_length_is_random_may_have_any() -> None:
    assert fault(trial(floats(1, 2), floats(1)), {"y": floats(1, 2, 3)}) is None


def test_of_a_model_that_was_not_tried_any_answer_counts_but_none_does_not() -> None:
    assert fault(UNTRIED, {"y": floats(1)}) is None
    assert fault(UNTRIED, {}) == "answers without any output"
