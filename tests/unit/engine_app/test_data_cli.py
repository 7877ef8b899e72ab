from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine_app.cli import main

TABLE = "a,b,kind\n1,5,x\n2,6,y\n3,7,y\n3,7,y\n"
ROOT = Path(__file__).resolve().parents[3]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["data", *words])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(TABLE)
    return tmp_path / "t.csv"


def test_show_tells_classes_ranges_and_duplicates(table: Path) -> None:
    found = json.loads(run("show", str(table), "--json").stdout)
    assert found["samples"] == 4
    assert [(entry["name"], entry["samples"]) for entry in found["classes"]] == [("x", 1), ("y", 3)]
    assert found["duplicates"] == 1
    text = run("show", str(table)).stdout
    assert "75.0%" in text and "duplicates: 1" in text


def test_show_looks_for_leaks_in_the_split_of_a_graph(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,kind\n" + "1,0\n" * 50 + "2,1\n" * 50)
    graph = ROOT / "scripts" / "examples" / "digits_mlp.json"
    found = json.loads(run("show", str(tmp_path / "t.csv"), "--graph", str(graph), "--json").stdout)
    assert found["leaks"]["test"] > 0
    assert any("its score flatters" in text for text in found["warnings"])


def test_convert_writes_what_training_reads(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    done = run("convert", str(table), "-o", str(out), "--drop", "b", "--json")
    assert json.loads(done.stdout)["sample_shape"] == [1]
    assert json.loads(run("show", str(out), "--json").stdout)["classes"][0]["name"] == "x"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("show", "absent.csv"), "'absent.csv' does not exist; readable are .csv"),
        (("show", "bundled:cats"), "no bundled data 'cats', there are digits"),
        (
            ("convert", "bundled:digits", "-o", "x.safetensors", "--image-size", "big"),
            "'big', expected height and width",
        ),
        (("show", "bundled:digits", "--missing", "guess"), "'guess' is not one of"),
    ],
)
def test_bad_words_get_one_clear_line(words: tuple[str, ...], text: str) -> None:
    done = run(*words)
    assert done.exit_code != 0
    assert text in done.output
    assert "Traceback" not in done.output


def test_bundled_sets_are_listed_by_the_name_that_opens_them() -> None:
    names = [entry["name"] for entry in json.loads(run("bundled", "--json").stdout)]
    assert "bundled:digits" in names and "bundled:fashion-mnist" in names


def test_names_in_a_file_do_not_act_on_the_terminal_or_look_like_markup(tmp_path: Path) -> None:
    hostile = tmp_path / "t.csv"
    hostile.write_text("a\x1b]0;pwned\x07,kind\n1,\x1b[31mred\n2,[/b]\n")
    for shown in (run("show", str(hostile)), run("show", str(hostile), "--target", "nope")):
        assert not any(char in shown.output for char in "\x1b\x07")
        assert "a\\x1b]0;pwned\\x07" in shown.output
    assert "[/b]" in run("show", str(hostile)).output
