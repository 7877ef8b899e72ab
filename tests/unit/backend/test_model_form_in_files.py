"""What a file without a graph says of itself, believed only where it fits what its model takes and gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.facts import DataNotes
from backend.model_form import InputForm, ModelForm, OutputForm, decode_form, encode_form

NOTES = DataNotes(kind="image", class_names=("a", "b"), white=1.0)
FORM = ModelForm(
    "image", (InputForm("input", (1, 4, 4), 0),), (OutputForm("output", (2,), "scores", -1),), NOTES, False
)
Ends = list[tuple[str, tuple[int, ...], str]]
TAKEN, GIVEN = [("x", (-1, 1, 4, 4), "float32")], [("y", (-1, 2), "float32")]


def test_a_form_comes_back_under_the_names_of_the_file() -> None:
    found = decode_form(encode_form(FORM), NOTES, TAKEN, GIVEN)
    assert found is not None
    assert (found.inputs[0].name, found.outputs[0].name, found.notes) == ("x", "y", NOTES)
    assert replace(found, inputs=FORM.inputs, outputs=FORM.outputs) == FORM


@pytest.mark.parametrize(
    ("form", "taken", "given"),
    [
        (FORM, [("x", (-1, 1, 4, 5), "float32")], GIVEN),
        (FORM, [("x", (-1, 1, 4, 4), "int64")], GIVEN),
        (FORM, [*TAKEN, *TAKEN], GIVEN),
        (FORM, [], []),
        (FORM, TAKEN, [("y", (-1, 2, 2), "float32")]),
        (FORM, TAKEN, [("y", (-1, 3), "float32")]),
        (FORM, TAKEN, [("y", (-1, 2), "int64")]),
        (replace(FORM, kind="table"), TAKEN, GIVEN),
        (replace(FORM, takes_bytes=True), TAKEN, GIVEN),
        (replace(FORM, inputs=(InputForm("input", (1, 4, 4), -5),)), TAKEN, GIVEN),
        (replace(FORM, outputs=(OutputForm("output", (2,), "magic", -1),)), TAKEN, GIVEN),
        (replace(FORM, outputs=(OutputForm("output", (2,), "scores", 2),)), TAKEN, GIVEN),
        (replace(FORM, inputs=(InputForm("input", (16,), 0),)), [("x", (-1, 16), "float32")], GIVEN),
    ],
)
def test_a_form_that_does_not_fit_is_passed_over(
    form: ModelForm,
    taken: list[tuple[str, tuple[int, ...], str]],
    given: list[tuple[str, tuple[int, ...], str]],
) -> None:
    assert decode_form(encode_form(form), NOTES, taken, given) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "image"}', "[" * 100_000, "\ud800"])
def test_what_is_no_form_is_passed_over(text: str) -> None:
    assert decode_form(text, NOTES, TAKEN, GIVEN) is None
