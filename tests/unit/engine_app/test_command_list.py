from __future__ import annotations

from click.testing import CliRunner

from engine_app.cli import main
from engine_app.command_list import SECTIONS


def test_help_lists_every_command_once_each_in_a_line_of_80_columns() -> None:
    listed = [name for words in SECTIONS.values() for name in words]
    assert sorted(listed) == sorted(main.commands)
    lines = CliRunner().invoke(main, ["--help"], terminal_width=80).output.splitlines()
    for words in SECTIONS.values():
        for name, text in words.items():
            assert f"  {name:<12} {text}" in lines
    assert max(map(len, lines)) <= 80
