"""What ``cyxwiz data`` does: reads the user's files with ``backend.readers`` and tells of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend.errors import BackendError
from backend.readers import ReadOptions, open_source, write_dataset
from backend.readers.bundled import SETS
from backend.readers.source import Missing, Task
from backend.readers.table_of_readers import BUNDLED
from engine_app.entry import report
from engine_app.plain import plain
from engine_app.show import print_json, print_table

if TYPE_CHECKING:
    from backend.describe import Description, Parts, Range
    from backend.readers import DataSource

SHOWN = 20


def show(path: Path, graph: Path | None, given: dict[str, Any], as_json: bool) -> None:
    from backend.describe import describe

    try:
        # What is incomplete is counted here, not refused.
        options = read_options(given, Missing.DROP)
        source = open_source(path, options)
        found = describe(source, None if graph is None else _parts(source, graph))
    except (BackendError, OSError) as error:
        report(error)
    if as_json:
        print_json({"source": str(path), **asdict(found)})
    else:
        dropped = options.missing is Missing.DROP and bool(getattr(source, "missing", ()))
        _print(str(path), found, dropped=dropped)


def convert(path: Path, output: Path, given: dict[str, Any], as_json: bool) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        source = open_source(path, read_options(given, Missing.REFUSE))
        with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task("writing", total=source.recipe.samples)
            facts = write_dataset(source, output, lambda done, _: bar.update(task, completed=done))
    except (BackendError, OSError) as error:
        report(error)
    if as_json:
        print_json({"output": str(output), **asdict(facts)})
        return
    kind = f"{facts.classes} classes" if facts.classes else "a target of numbers"
    print(f"{output}: {facts.samples} samples of {facts.sample_shape} {facts.dtype}, {kind}")


def list_bundled(as_json: bool) -> None:
    if as_json:
        print_json([{"name": BUNDLED + name, "text": text} for name, text in SETS.items()])
    else:
        print_table(("data", "what it is"), ((BUNDLED + name, text) for name, text in SETS.items()))


def read_options(given: dict[str, Any], missing: Missing) -> ReadOptions:
    """From the flags of ``reader_options``; ``missing`` where none was given."""
    return ReadOptions(
        target=tuple(given["target"]),
        drop=tuple(given["drop"]),
        missing=Missing(given["missing"]) if given["missing"] else missing,
        task=Task(given["task"]),
        labels=given["labels"],
        image_size=given["image_size"],
        channels=int(given["channels"]) if given["channels"] else None,
        text=given["text"],
        length=given["length"],
        vocabulary=given["vocabulary"],
        tokenizer=given["tokenizer"],
        window=given["window"],
        horizon=given["horizon"],
        stride=given["stride"],
    )


def _parts(source: DataSource, graph: Path) -> Parts:
    """As training would split it. Raises BackendError."""
    import numpy as np

    from backend.datasets import split
    from backend.pipeline import read_pipeline
    from engine_app.document.lowering import load_lowered

    pipeline = read_pipeline(load_lowered(graph.read_bytes()))
    targets = np.concatenate([y for _, y in source.blocks()])
    _, validation, test = pipeline.split_sizes(len(targets))
    found = split(
        targets,
        validation,
        test,
        pipeline.split_seed,
        stratified=pipeline.stratified,
        in_order=pipeline.in_order,
    )
    return {"train": found.train, "validation": found.validation, "test": found.test}


def _print(name: str, found: Description, *, dropped: bool) -> None:
    print(f"{name}: {found.samples} samples of {found.sample_shape} {found.dtype}")
    if found.classes:
        print_table(
            ("class", "samples", "share"),
            (
                (entry.name, entry.samples, f"{entry.samples / found.samples:.1%}")
                for entry in found.classes[:SHOWN]
            ),
        )
        _more(len(found.classes), "classes")
    ranges = list(found.targets) + list(found.inputs[:SHOWN] or [found.values])
    print_table(("values", "from", "to", "mean", "deviation"), map(_row, ranges))
    _more(len(found.inputs), "inputs")
    print(f"duplicates: {found.duplicates}, of which with another target: {found.contradictions}")
    if found.missing:
        missing = ", ".join(f"{column} {count}" for column, count in list(found.missing.items())[:SHOWN])
        print(
            f"missing values: {plain(missing)}{'; rows that lack one are left out here' if dropped else ''}"
        )
    if found.leaks is not None:
        print("training samples in other parts: " + ", ".join(f"{k} {v}" for k, v in found.leaks.items()))
    for warning in found.warnings:
        print(f"warning: {plain(warning)}")


def _row(entry: Range) -> tuple[str, ...]:
    numbers = (entry.minimum, entry.maximum, entry.mean, entry.deviation)
    return (entry.name, *(f"{number:.4g}" for number in numbers))


def _more(count: int, what: str) -> None:
    if count > SHOWN:
        print(f"... and {count - SHOWN} more {what} (--json shows all)")
