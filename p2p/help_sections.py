"""Help of a command with many options: by what they are for, in one column. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

_WIDEST = 30
"""Of the column of names, as click has it."""


class SectionedCommand(click.Command):
    """``sections``: names of options by title; those that are in none come last."""

    def __init__(self, *arguments: Any, sections: Mapping[str, tuple[str, ...]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = {
            option.name: record
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx))
        }
        width = min(_WIDEST, max(len(names) for names, _ in left.values()))
        titled = {title: [left.pop(name) for name in names] for title, names in self.sections.items()}
        for title, records in (*titled.items(), ("Besides", left.values())):
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), text) for names, text in records])
