"""``cyxwiz code``: a graph as a Python file. Loads no runtime."""

from __future__ import annotations

import os
from pathlib import Path

from backend.errors import BackendError
from backend.pytorch_code import model_source, training_source
from backend.serialize import load_graph
from engine_app.entry import CommandError, report


def write_code(graph: Path, output: Path, training: bool) -> None:
    try:
        document = load_graph(graph.read_bytes())
        source = training_source(document) if training else model_source(document)
        replace_text(output, source)
    except (BackendError, OSError) as error:
        report(CommandError(f"{graph.name}: {error}"))
    print(f"{output}: {len(source.splitlines())} lines")


def replace_text(path: Path, text: str) -> None:
    """Whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
