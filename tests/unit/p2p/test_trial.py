"""What a deployed model is asked before it is paid for, and which answers pass."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest

from p2p.protocols.inference import TensorInfo
from p2p.session.inference import Tensor
from p2p.session.trial import (
    MAX_BYTES,
    MAX_VALUES,
    NUDGE,
    QUESTIONS,
    Question,
    Trial,
    are_settled,
    expected_from,
    fault,
    forms,
    question,
)

IMAGE = TensorInfo("x", "float32", (-1, 2, 3))
TOKENS = TensorInfo("ids", "int64", (-1, -1))


def floats(*values: float) -> Tensor:
    return Tensor("float32", (len(values),), struct.pack(f"<{len(values)}f", *values))


def whole(*values: int) -> Tensor:
    return Tensor("int64", (len(values),), struct.pack(f"<{len(values)}q", *values))


def known(first: Tensor, nudged: Tensor | None = None) -> Question:
    return Question(7, expected_from({"y": first}, {"y": nudged or first}))


def test_a_question_fits_the_shapes_and_is_the_same_for_a_seed() -> None:
    asked = question((IMAGE, TOKENS), 7)
    assert asked is not None and asked == question((IMAGE, TOKENS), 7) != question((IMAGE, TOKENS), 8)
    (image, pixels), (ids, tokens) = asked
    assert (image.shape, ids.shape) == ((1, 2, 3), (1, 1))
    values = struct.unpack("<6f", pixels)
    assert len(set(values)) == 6 and all(0 <= value < 1 for value in values)
    assert struct.unpack("<q", tokens)[0] in (0, 1)


def test_almost_the_same_question_has_some_of_the_numbers_a_little_larger() -> None:
    first, nudged = (question((TensorInfo("x", "float64", (100,)),), 7, nudge) for nudge in (1.0, NUDGE))
    assert first is not None and nudged is not None
    pairs = zip(struct.unpack("<100d", first[0][1]), struct.unpack("<100d", nudged[0][1]), strict=True)
    factors = {round(other / one, 6) for one, other in pairs}
    assert factors == {1.0, NUDGE}


@pytest.mark.parametrize(("dtype", "most"), [("int64", 999), ("int8", 127), ("uint8", 255), ("bool", 1)])
def test_whole_numbers_are_drawn_below_the_span_and_what_their_kind_holds(dtype: str, most: int) -> None:
    ids = TensorInfo("ids", dtype, (1, 2000))  # type: ignore[arg-type]
    asked = question((ids,), 7, span=1000)
    assert asked is not None
    (_, data), kind = asked[0], {"int64": "q", "int8": "b", "uint8": "B", "bool": "B"}[dtype]
    values = struct.unpack(f"<2000{kind}", data)
    assert min(values) >= 0
    assert 0.9 * most <= max(values) <= most


def test_forms_leave_no_dimension_open_and_end_with_what_any_model_takes() -> None:
    found = list(forms((IMAGE, TOKENS)))
    assert [(inputs[1].shape, span) for inputs, span in found] == [
        ((1, 16), 1000),
        ((1, 16), 2),
        ((1, 1), 1000),
        ((1, 1), 2),
    ]
    assert all(inputs[0].shape == (1, 2, 3) for inputs, _ in found)
    assert [inputs[0].shape for inputs, _ in forms((IMAGE,))] == [(1, 2, 3)]


def test_no_question_costs_more_than_it_may() -> None:
    side = math.isqrt(MAX_BYTES // 4)
    assert question((TensorInfo("x", "float32", (side, side)),), 7) is not None
    assert question((TensorInfo("x", "float32", (side, side + 1)),), 7) is None
    assert question((TensorInfo("x", "float32", (2**31,) * 8),), 7) is None


def test_the_same_model_on_another_device_passes_and_another_model_does_not() -> None:
    asked = known(floats(1, -2, 0.5))
    assert fault(asked, {"y": floats(1.01, -2.02, 0.49)}) is None
    assert fault(asked, {"y": floats(1, -2, 0.9)}) == "y is 0.9, allowed 0.5 within 0.200001"
    assert "nan" in str(fault(asked, {"y": floats(1, math.nan, 0.5)}))
    assert fault(asked, {"y": floats(1, -2)}) == "y is float32 of (2,), allowed float32 of (3,)"
    assert fault(asked, {"z": floats(1, -2, 0.5)}) == "answers z, allowed y"
    assert fault(asked, {}) == "answers nothing, allowed y"


def test_whole_numbers_are_equal_but_for_a_few() -> None:
    asked = known(whole(*range(20)))
    assert fault(asked, {"y": whole(*range(18), 0, 0)}) is None
    assert fault(asked, {"y": whole(*range(17), 0, 0, 0)}) == "y is another in 3 of 20 values, allowed 2"
    assert fault(known(whole(3)), {"y": whole(4)}) == "y is another in 1 of 1 values, allowed 0"


def test_of_large_outputs_so_many_values_are_kept_and_the_same_ones_compared() -> None:
    count = 10 * MAX_VALUES + 7
    asked = known(whole(*range(count)))
    assert len(asked.outputs[0].values) <= MAX_VALUES
    assert fault(asked, {"y": whole(*range(count))}) is None
    both = {name: whole(*range(count)) for name in "ab"}
    asked = Question(7, expected_from(both, both))
    assert sum(len(expected.values) for expected in asked.outputs) <= MAX_VALUES
    assert fault(asked, both) is None


@pytest.mark.parametrize(
    ("first", "nudged"), [(floats(1, -2), floats(1, 2)), (floats(1, math.nan), None), (whole(3), whole(4))]
)
def test_what_is_random_or_jumps_is_compared_by_its_form_alone(first: Tensor, nudged: Tensor | None) -> None:
    asked = known(first, nudged)
    assert not are_settled(asked.outputs)
    assert fault(asked, {"y": Tensor(first.dtype, first.shape, bytes(len(first.data)))}) is None
    assert fault(asked, {"y": floats(1)}) is not None


def test_an_output_whose_length_is_random_may_have_any() -> None:
    assert fault(known(floats(1, 2), floats(1)), {"y": floats(1, 2, 3)}) is None


def test_of_a_model_that_was_not_tried_any_answer_counts_but_none_does_not() -> None:
    assert fault(None, {"y": floats(1)}) is None
    assert fault(None, {}) == "answers without any output"


def test_each_period_has_a_question_of_its_own_and_new_ones_come_in_time() -> None:
    trial = Trial(first=5, questions=tuple(Question(seed) for seed in range(QUESTIONS)))
    assert [trial.question_for(period) for period in (4, 5, 20, 21)] == [
        None,
        Question(0),
        Question(15),
        None,
    ]
    assert [trial.covers(period) for period in (4, 5, 20, 21)] == [False, True, True, False]
    assert [trial.is_due(period, 100) for period in (5, 12, 13, 21)] == [False, False, True, True]
    assert not trial.is_due(13, 21)  # enough to the end
    single = Trial(first=5, questions=(Question(0),))
    assert [single.is_due(period, 100) for period in (5, 6)] == [False, True]
    untried = Trial(first=5, untried="too large")
    assert untried.covers(20) and untried.question_for(5) is None
    assert [untried.is_due(period, 100) for period in (5, 13)] == [False, True]


def test_what_an_earlier_version_kept_is_read_as_nothing() -> None:
    old = {"seed": 7, "inputs": [], "outputs": [{"name": "y"}], "untried": ""}
    trial = msgspec.convert(old, Trial)
    assert trial.is_due(3, 10) and not trial.covers(3)
