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


def test_a_shape_that_is_none_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text("")
    for shape in ("1xx2", "0", "99999999999", "1x-3", ""):
        arguments = ["import-code", str(source), "--input", shape, "-o", str(tmp_path / "net.json")]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "expected the extents of one sample such as 1x28x28" in result.output
