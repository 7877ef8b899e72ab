from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.describe import describe
from backend.facts import DataNotes
from backend.readers import ReadOptions, open_source
from backend.readers.arrays import array_source
from backend.readers.source import Missing


def test_counts_ranges_and_missing_values_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,kind\n1,5,x\n2,5,y\n3,5,y\n,5,x\n")
    found = describe(open_source(tmp_path / "t.csv", ReadOptions(missing=Missing.DROP)))
    assert [(entry.name, entry.samples) for entry in found.classes] == [("x", 1), ("y", 2)]
    a, _ = found.inputs
    assert (a.name, a.minimum, a.maximum, a.mean) == ("a", 1, 3, 2)
    assert np.isclose(a.deviation, np.std([1, 2, 3]))
    assert found.missing == {"a": 1}
    assert found.warnings == (
        "1 input never changes: b",
        "2 classes have too few samples to be in each of train, validation and test: x, y",
    )


def test_duplicates_and_contradictions_are_counted() -> None:
    x = np.array([[1.0, 2], [3, 4], [1, 2], [1, 2]], np.float32)
    found = describe(array_source(x, np.array([0, 1, 0, 1])))
    assert (found.duplicates, found.contradictions) == (2, 1)
    assert "1 samples equal another one that has a different target" in found.warnings


def test_test_samples_that_are_trained_on_are_found() -> None:
    x = np.array([[1.0, 2], [3, 4], [5, 6], [1, 2]], np.float32)
    parts = {"train": np.array([0, 1]), "validation": np.array([2]), "test": np.array([3])}
    found = describe(array_source(x, np.array([0, 1, 0, 0])), parts)
    assert found.leaks == {"validation": 0, "test": 1}
    assert any("1 samples of test are training samples too" in text for text in found.warnings)


def test_targets_of_numbers_have_a_range() -> None:
    found = describe(array_source(np.ones((3, 1, 2, 2), np.uint8), np.array([0.5, 1.5, 1.0])))
    (target,) = found.targets
    assert (target.name, target.minimum, target.maximum, target.mean) == ("target", 0.5, 1.5, 1.0)
    assert found.classes == () and found.inputs == ()


def test_each_column_to_predict_has_its_own_range(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,u,v\n1,10,0.5\n2,20,1.5\n")
    found = describe(open_source(tmp_path / "t.csv", ReadOptions(target=("u", "v"))))
    ranges = [(each.name, each.minimum, each.maximum) for each in found.targets]
    assert ranges == [("target u", 10, 20), ("target v", 0.5, 1.5)]


@pytest.mark.parametrize("names", [("u", "v", "w"), ("u",)])
def test_names_of_other_targets_than_there_are_name_nothing(names: tuple[str, ...]) -> None:
    source = array_source(np.ones((7, 2)), np.arange(14.0).reshape(7, 2))
    recipe = replace(source.recipe, notes=DataNotes(target_names=names))
    (target,) = describe(replace(source, recipe=recipe)).targets
    assert (target.name, target.minimum, target.maximum) == ("target", 0, 13)


def test_samples_of_one_class_are_warned_of() -> None:
    found = describe(array_source(np.arange(8.0).reshape(4, 2), np.zeros(4, np.int64)))
    assert found.warnings == ("all samples are of one class: there is nothing to tell apart",)


def test_uneven_and_empty_classes_are_warned_of() -> None:
    y = np.array([0] * 30 + [2])
    found = describe(array_source(np.arange(62.0).reshape(31, 2), y))
    assert [text.split(":")[0] for text in found.warnings] == [
        "1 class has no sample",
        "1 class has too few samples to be in each of train, validation and test",
        "classes are uneven",
    ]


def test_what_is_no_number_counts_as_missing_and_hides_no_range() -> None:
    x = np.array([[1.0, np.nan], [3, np.inf], [2, np.nan]], np.float32)
    found = describe(array_source(x, np.array([0, 1, 0])))
    first, second = found.inputs
    assert (first.minimum, first.maximum, first.mean) == (1, 3, 2)
    assert np.isnan(second.mean) and found.missing == {"input 2": 3}
    assert (found.values.minimum, found.values.maximum) == (1, 3)
    many = np.where(np.arange(600).reshape(2, 300) == 7, np.nan, 1)
    assert describe(array_source(many, np.array([0, 1]))).missing == {"any input": 1}
