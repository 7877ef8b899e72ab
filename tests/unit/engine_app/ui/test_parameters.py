from __future__ import annotations

import pytest

from backend.catalogue import CATALOGUE, Parameter
from backend.catalogue.parameter import completed, problem_of
from engine_app.ui.parameters import Control, control_of, problem_in, text_of, value_of


def parameter(type_name: str, name: str) -> Parameter:
    return next(each for each in CATALOGUE[type_name].parameters if each.name == name)


def test_every_default_of_the_catalogue_survives_its_control() -> None:
    for record in CATALOGUE.values():
        for each in record.parameters:
            if control_of(each) is Control.TEXT:
                found = value_of(each, text_of(each.default))
                assert problem_of(each, found) is None
                assert completed((each,), {each.name: found}) == completed((each,), {})


@pytest.mark.parametrize(
    ("type_name", "name", "control"),
    [
        ("Dropout", "rate", Control.SLIDER),
        ("Dense", "units", Control.STEPPER),
        ("Conv2D", "kernel_size", Control.TEXT),
        ("DataLoader", "shuffle", Control.TOGGLE),
    ],
)
def test_the_declaration_chooses_the_control(type_name: str, name: str, control: Control) -> None:
    assert control_of(parameter(type_name, name)) is control


def test_texts_become_values() -> None:
    size = parameter("Conv2D", "kernel_size")
    assert value_of(size, " 3 ") == 3
    assert value_of(size, "3, 5") == [3, 5]
    assert value_of(parameter("Conv2D", "padding"), "same") == "same"


@pytest.mark.parametrize("text", ["", "three", "1e999", "true", "0", "[[1]]", "3,", "3, 4, 5", "9" * 5000])
def test_what_is_no_value_is_told_and_not_taken(text: str) -> None:
    size = parameter("Conv2D", "kernel_size")
    problem = problem_in(size, text)
    assert problem is not None
    assert "kernel_size" in problem
    assert "must be" in problem
