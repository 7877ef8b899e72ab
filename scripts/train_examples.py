"""Trains the examples on this machine and prints how well each does on its test split.

    .venv/bin/python scripts/train_examples.py [NAME ...] [--json]

Data is made or read as examples/README.md says; models stay in the folder given by --output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent / "examples"
CYXWIZ = Path(sys.executable).with_name("cyxwiz")


@dataclass(frozen=True)
class Example:
    """``made``: what make_data.py writes, and how ``cyxwiz data convert`` reads it."""

    name: str
    data: str
    metric: str
    made: tuple[str, ...] = ()


DIGITS, FASHION = "bundled:digits", "bundled:fashion-mnist"
DOCSTRINGS = (
    "docstrings.csv",
    "--text",
    "text",
    "--target",
    "part",
    "--length",
    "48",
    "--vocabulary",
    "2048",
)
EXAMPLES = (
    Example("digits_mlp", DIGITS, "accuracy"),
    Example("digits_cnn", DIGITS, "accuracy"),
    Example("digits_resnet", DIGITS, "accuracy"),
    Example("digits_autoencoder", DIGITS, "r2"),
    Example("digits_two_heads", DIGITS, "accuracy"),
    Example("wine_classification", "bundled:wine", "accuracy"),
    Example("tumours_classification", "bundled:breast_cancer", "accuracy"),
    Example("diabetes_regression", "bundled:diabetes", "r2"),
    Example("series_forecast", "series", "r2", ("series.npz",)),
    Example("shapes_unet", "shapes", "macro_f1", ("shapes.npz", "--task", "classification")),
    Example("docstrings_gru", "docstrings", "accuracy", DOCSTRINGS),
    Example("docstrings_transformer", "docstrings", "accuracy", DOCSTRINGS),
    Example("docs_llama", "docs", "perplexity", ("docs.txt", "--length", "64", "--vocabulary", "1024")),
    Example("fashion_mlp", FASHION, "accuracy"),
    Example("fashion_cnn", FASHION, "accuracy"),
)


def prepared(example: Example, folder: Path) -> str:
    """What ``--data`` takes."""
    if not example.made:
        return example.data
    target = folder / f"{example.data}.safetensors"
    if not target.exists():
        _run(sys.executable, str(HERE / "make_data.py"), example.data, "-o", str(folder))
        source, *options = example.made
        _run(str(CYXWIZ), "data", "convert", str(folder / source), *options, "-o", str(target))
    return str(target)


def train(example: Example, folder: Path) -> dict[str, Any]:
    """The final metrics, as ``cyxwiz train --json`` tells them."""
    data = prepared(example, folder)
    graph, model = HERE / f"{example.name}.json", folder / f"{example.name}.cyxmodel"
    places = ("--data-dir", str(folder / "engine"), "--data", data, "-o", str(model))
    told = _run(str(CYXWIZ), "train", str(graph), *places, "--json")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])["metrics"]
    return found


def score(example: Example, metrics: dict[str, Any]) -> float:
    """On the test split, of the first head."""
    found: float = metrics["test"][0][example.metric]
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice([example.name for example in EXAMPLES]))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="examples-run")
@click.option("--json", "as_json", is_flag=True)
def main(names: tuple[str, ...], output: Path, as_json: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    chosen = [example for example in EXAMPLES if not names or example.name in names]
    table = Table("example", "metric", "on the test split", "seconds")
    results = []
    for number, example in enumerate(chosen, 1):
        Console(stderr=True).print(f"{number} of {len(chosen)}: {example.name} ...")
        began = time.monotonic()
        value, seconds = score(example, train(example, output)), time.monotonic() - began
        table.add_row(example.name, example.metric, f"{value:.4f}", f"{seconds:.0f}")
        results.append({"name": example.name, "metric": example.metric, "test": value, "wall_s": seconds})
    if as_json:
        print(json.dumps({"results": results}))
    else:
        Console().print(table)


if __name__ == "__main__":
    main()
