"""Options are told by what they are for, each once."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from engine_app.deploy_cli import deploy
from engine_app.gateway_cli import gateway
from engine_app.serve_cli import serve
from p2p.help_sections import SectionedCommand
from peer.cli import start

COMMANDS = {"deploy": deploy, "serve": serve, "gateway": gateway, "cyxpeer start": start}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_each_option_once_under_a_title(name: str) -> None:
    command = COMMANDS[name]
    text = CliRunner().invoke(command, ["--help"], terminal_width=80).output
    listed = command.commands["run"] if isinstance(command, click.Group) else command
    assert isinstance(listed, SectionedCommand)
    shown = re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)
    options = [each.opts[-1] for each in listed.params if isinstance(each, click.Option) and not each.hidden]
    assert sorted(shown) == sorted([*options, "--help"])
    assert all(f"\n{title}:\n" in text for title in (*listed.sections, "Besides"))
    assert max(map(len, text.splitlines())) <= 80
