"""Data for the examples, out of what every Python brings along, or drawn at random from a fixed seed.

    .venv/bin/python scripts/examples/make_data.py WHAT -o FOLDER

WHAT is docs (docs.txt: the topics of Python's documentation, to continue), docstrings (docstrings.csv:
which part of the standard library a docstring is from), shapes (shapes.npz: images and the class of each
of their points) or series (series.npz: a noisy daily curve and what follows next).
"""

from __future__ import annotations

import ast
import csv
import io
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

PARTS = ("asyncio", "email", "importlib", "logging", "multiprocessing", "unittest", "xml")
SHORTEST_DOCSTRING = 40
SHAPES, EXTENT = 2_000, 32
WINDOWS, PAST, AHEAD = 3_000, 48, 12


def docs() -> dict[str, bytes]:
    """All that ``help()`` can say about Python's language, in one file."""
    from pydoc_data.topics import topics

    return {"docs.txt": "\n".join(topics[name] for name in sorted(topics)).encode()}


def docstrings() -> dict[str, bytes]:
    """Read from the sources, which are not run."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("text", "part"))
    for part in PARTS:
        table.writerows((docstring, part) for docstring in sorted(set(_docstrings_of(part))))
    return {"docstrings.csv": text.getvalue().encode()}


def _docstrings_of(part: str) -> Iterator[str]:
    for path in sorted((Path(sysconfig.get_path("stdlib")) / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found = ast.get_docstring(node) or ""
                if len(found) >= SHORTEST_DOCSTRING:
                    yield " ".join(found.split())


def shapes() -> dict[str, bytes]:
    """Discs and squares over noise; each point is background (0), disc (1) or square (2)."""
    random = np.random.RandomState(0)
    rows, columns = np.mgrid[:EXTENT, :EXTENT]
    x = random.normal(0, 0.25, (SHAPES, 1, EXTENT, EXTENT)).astype(np.float32)
    y = np.zeros((SHAPES, EXTENT, EXTENT), np.int64)
    for image, classes in zip(x, y, strict=True):
        for kind in random.randint(1, 3, random.randint(1, 4)):
            row, column = random.randint(4, EXTENT - 4, 2)
            size = random.randint(3, 8)
            near = (
                np.hypot(rows - row, columns - column)
                if kind == 1
                else _furthest(rows - row, columns - column)
            )
            classes[near <= size] = kind
        image[0] += (classes > 0) * random.uniform(0.5, 1.0)
    return {"shapes.npz": _arrays(x=x, y=y)}


def _furthest(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(rows), np.abs(columns))


def series() -> dict[str, bytes]:
    """Two days by the hour, and the half day that follows: a daily and a weekly wave, a drift, noise."""
    random = np.random.RandomState(0)
    # Windows that share no hour: whatever is tested on was never seen.
    hour = np.arange(WINDOWS * (PAST + AHEAD))
    wave = np.sin(2 * np.pi * hour / 24) + 0.5 * np.sin(2 * np.pi * hour / (7 * 24) + 1)
    drift = np.cumsum(random.normal(0, 0.01, len(hour)))
    values = (wave + drift + random.normal(0, 0.1, len(hour))).astype(np.float32)
    windows = values.reshape(WINDOWS, PAST + AHEAD)
    return {"series.npz": _arrays(x=windows[:, :PAST, None].copy(), y=windows[:, PAST:].copy())}


def _arrays(**arrays: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


MAKERS: dict[str, Callable[[], dict[str, bytes]]] = {
    maker.__name__: maker for maker in (docs, docstrings, shapes, series)
}


@click.command(help=__doc__)
@click.argument("what", type=click.Choice([*MAKERS]))
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True
)
def main(what: str, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, content in MAKERS[what]().items():
        target = output / name
        part = target.with_name(f".{name}.part")
        part.write_bytes(content)
        part.replace(target)
        print(target)


if __name__ == "__main__":
    main()
