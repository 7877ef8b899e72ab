"""Commands between graphs and Python source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine_app.arguments import NEW_FILE, OLD_FILE


@click.command()
@click.argument("graph", type=OLD_FILE)
@click.option("-o", "--output", required=True, type=NEW_FILE, help="The .py file to write.")
@click.option("--training", is_flag=True, help="A whole training script: data, split, loss, optimizer, loop.")
def code(graph: Path, output: Path, training: bool) -> None:
    """Write GRAPH as PyTorch source that runs without CyxWiz and gives the same numbers."""
    from engine_app.code_files import write_code

    write_code(graph, output, training)


def _is_extent(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8 and 1 <= int(text) <= 1 << 20


class _Shape(click.ParamType):  # type: ignore[type-arg]
    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = str(value).lower().split("x")
        if not all(_is_extent(part) for part in parts):
            self.fail(f"{value!r}, expected the extents of one sample such as 1x28x28", param, ctx)
        return tuple(int(part) for part in parts)


@click.command("import-code")
@click.argument("source", type=OLD_FILE)
@click.option("-o", "--output", required=True, type=NEW_FILE, help="The graph's .json file to write.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=_Shape(),
    metavar="1x28x28",
    help="Shape of one sample, without the batch; once for each input. Generated files say it themselves.",
)
@click.option("--class", "name", default="", metavar="NAME", help="Default: Model, else the last module.")
@click.option("--weights", type=NEW_FILE, help="Also write the module's weights as .safetensors.")
def import_code(
    source: Path, output: Path, inputs: tuple[tuple[int, ...], ...], name: str, weights: Path | None
) -> None:
    """Turn a torch module in the Python file SOURCE into a graph.

    SOURCE runs in a sandboxed process, without network and files, and is followed by torch.fx.
    """
    from engine_app.code_files import read_code

    read_code(source, output, inputs, name, weights)
