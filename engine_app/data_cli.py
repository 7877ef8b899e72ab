"""``cyxwiz data``: look at data before anything is trained on it, and write it in the one dataset format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engine_app.arguments import DATA, DATASET_FILE, OLD_FILE


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        height, _, width = str(value).lower().partition("x")
        if not (
            height.isdigit() and width.isdigit() and 1 <= int(height) <= 4096 and 1 <= int(width) <= 4096
        ):
            self.fail(f"{value!r}, expected height and width such as 32x32, 4096 at most", param, ctx)
        return int(height), int(width)


_READER_OPTIONS = (
    click.option("--target", multiple=True, metavar="COLUMN", help="To predict; default: the last one."),
    click.option("--drop", multiple=True, metavar="COLUMN", help="A column to leave out."),
    click.option(
        "--missing", type=click.Choice(["refuse", "drop", "fill"]), default=None,
        help="Rows that lack a value: drop them, or fill in the column's mean (a series: the last value).",
    ),
    click.option(
        "--task", type=click.Choice(["auto", "classification", "regression"]), default="auto",
        help="What the target is, where the data leaves it open.",
    ),
    click.option("--labels", type=OLD_FILE, help="The file of labels, for .npy and IDX."),
    click.option("--image-size", type=_Size(), help="Bring images to this height and width."),
    click.option("--channels", type=click.Choice(["1", "3"]), help="1: grey, 3: colour."),
    click.option("--text", default="", metavar="COLUMN", help="A column of text to cut into tokens."),
    click.option("--length", type=click.IntRange(1, 1 << 16), default=128, show_default=True,
                 help="Tokens in a sample of text."),
    click.option("--vocabulary", type=click.IntRange(259, 1 << 16), default=4096, show_default=True,
                 help="Tokens that a tokenizer trained on the text may have."),
    click.option("--tokenizer", type=OLD_FILE, help="A tokenizer.json to use instead."),
    click.option("--window", type=click.IntRange(0, 1 << 16), default=0, metavar="ROWS",
                 help="The table is a time series: a sample is so many rows of it."),
    click.option("--horizon", type=click.IntRange(1, 1 << 16), default=1, show_default=True,
                 help="Rows ahead that a window predicts."),
    click.option("--stride", type=click.IntRange(1, 1 << 16), default=1, show_default=True,
                 help="Rows from one window to the next."),
)  # fmt: skip


def reader_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of ``backend.readers`` to a command, which gets them as keyword arguments."""
    for option in reversed(_READER_OPTIONS):
        command = option(command)
    return command


@click.group()
def data() -> None:
    """Look at data, and convert it."""


@data.command()
@click.argument("source", type=DATA)
@click.option("--graph", type=OLD_FILE, help="Look for samples that its split would leak into its test.")
@reader_options
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
def show(source: Path, graph: Path | None, as_json: bool, **options: Any) -> None:
    """Count what is in SOURCE: samples, classes, ranges, missing values, duplicates, leaks."""
    from engine_app import data_files

    data_files.show(source, graph, options, as_json)


@data.command()
@click.argument("source", type=DATA)
@click.option("-o", "--output", required=True, type=DATASET_FILE, help="A .safetensors, to use with --data.")
@reader_options
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
def convert(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Write SOURCE as a dataset file. SOURCE may be larger than memory."""
    from engine_app import data_files

    data_files.convert(source, output, options, as_json)


@data.command()
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
def bundled(as_json: bool) -> None:
    """List the data sets that come with installed packages."""
    from engine_app import data_files

    data_files.list_bundled(as_json)
