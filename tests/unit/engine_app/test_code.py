"""``cyxwiz code`` writes a file that runs, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from engine_app.cli import main

EXAMPLE = Path(__file__).parents[3] / "scripts" / "examples" / "digits_cnn.json"


def test_an_example_becomes_a_file(tmp_path: Path) -> None:
    target = tmp_path / "digits.py"
    result = CliRunner().invoke(main, ["code", str(EXAMPLE), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "self.conv1 = nn.Conv2d(1, 16, 3, padding=1)" in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["digits.py"]


def test_training_comes_along_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "train.py"
    result = CliRunner().invoke(main, ["code", str(EXAMPLE), "--training", "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "def main() -> None:" in target.read_text()


def test_what_is_no_graph_is_told_in_a_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    result = CliRunner().invoke(main, ["code", str(wrong), "-o", str(tmp_path / "wrong.py")])
    assert result.exit_code == 1
    assert "format_version is None" in result.output
    assert not (tmp_path / "wrong.py").exists()
