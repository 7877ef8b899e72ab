from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engine_app.cli import main, private_parts


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    for name in ("graph.json", "data.npz"):
        (tmp_path / name).write_text("{}")
    paths = [str(tmp_path / "graph.json"), "--data", str(tmp_path / "data.npz")]
    return ["--data-dir", str(tmp_path / "home"), "submit", *paths, "--budget", "1"]


def test_private_parts_need_a_stream(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--private", "test"])
    assert done.exit_code == 2
    assert "--private needs --stream" in done.output


def test_an_unknown_part_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--stream", "--private", "train,test"])
    assert done.exit_code == 2
    assert "found 'train', allowed are test, validation and none" in done.output


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", ()),
        ("test", ("test",)),
        ("test,validation", ("test", "validation")),
        ("test,test", ("test",)),
    ],
)
def test_private_parts_are_named_with_commas(text: str, parts: tuple[str, ...]) -> None:
    assert private_parts(text) == parts


def test_no_part_at_all_is_refused() -> None:
    with pytest.raises(click.UsageError, match="found ''"):
        private_parts("")
