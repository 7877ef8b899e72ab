"""Tables whose rows follow each other in time, and parts that do too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.datasets import load_dataset, split
from backend.errors import DatasetError
from backend.facts import DataFacts
from backend.readers import ReadOptions, convert

ROWS = "day,load,heat\n" + "\n".join(f"d{i},{i},{10 * i}" for i in range(10)) + "\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(ROWS)
    return path


def test_windows_predict_the_rows_that_follow_them(table: Path, tmp_path: Path) -> None:
    options = ReadOptions(target=("load",), drop=("day",), window=3, horizon=2, stride=2)
    facts = convert(table, tmp_path / "d", options)
    assert facts == DataFacts(3, (2, 3), "float32", 0, (2,))
    dataset = load_dataset(tmp_path / "d")
    assert dataset.x[1].tolist() == [[2, 3, 4], [20, 30, 40]]
    assert dataset.y.tolist() == [[3, 4], [5, 6], [7, 8]]
    assert (dataset.notes.kind, dataset.notes.input_names) == ("series", ("load", "heat"))


def test_several_series_and_one_step_ahead_keep_only_the_axes_they_need(table: Path, tmp_path: Path) -> None:
    one = ReadOptions(target=("load",), drop=("day",), window=4)
    assert convert(table, tmp_path / "d", one) == DataFacts(6, (2, 4), "float32", 0, ())
    assert load_dataset(tmp_path / "d").y.tolist() == [4, 5, 6, 7, 8, 9]
    both = ReadOptions(target=("heat", "load"), drop=("day",), window=4, horizon=2)
    assert convert(table, tmp_path / "d", both).target_shape == (2, 2)
    assert load_dataset(tmp_path / "d").y[0].tolist() == [[40, 50], [4, 5]]


def test_a_series_of_a_single_column_predicts_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("load\n" + "\n".join(map(str, range(6))) + "\n")
    assert convert(tmp_path / "t.csv", tmp_path / "d", ReadOptions(window=2)).samples == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ReadOptions(window=3), "column 'day', row 1: no finite number; .*--drop day"),
        (ReadOptions(window=8, horizon=3, drop=("day",)), "10 rows, one window and its horizon need 11"),
        (ReadOptions(window=3, target=("cold",)), "no column 'cold', there are day, load, heat"),
        (ReadOptions(window=3, drop=("day", "load", "heat")), "no column"),
        (ReadOptions(window=3, stride=0), "at least 1"),
    ],
)
def test_what_is_no_series_is_refused_in_words(
    table: Path, tmp_path: Path, options: ReadOptions, words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        convert(table, tmp_path / "d", options)


def test_parts_in_order_follow_each_other_and_share_nothing() -> None:
    parts = split(np.arange(10), 2, 3, seed=1, stratified=True, in_order=True)
    assert [each.tolist() for each in (parts.train, parts.validation, parts.test)] == [
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ]
