"""Commands between graphs and Python source."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path, resolve_path=True)


@click.command()
@click.argument("graph", type=_FILE)
@click.option("-o", "--output", required=True, type=_NEW_FILE, help="The .py file to write.")
@click.option("--training", is_flag=True, help="A whole training script: data, split, loss, optimizer, loop.")
def code(graph: Path, output: Path, training: bool) -> None:
    """Write GRAPH as PyTorch source that runs without CyxWiz and gives the same numbers."""
    from engine_app.code_files import write_code

    write_code(graph, output, training)
