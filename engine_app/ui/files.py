"""Graph files in and out, off the event loop, and where a user may look for them. Knows no Kivy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from backend.errors import DatasetError
from backend.facts import read_data_header
from backend.graph import Graph
from engine_app.document.files import save_graph
from engine_app.entry import CommandError

MAX_SHOWN = 500
GRAPH_ENDINGS = (".json", ".cyxmodel")
MODEL_ENDINGS = (".onnx", ".safetensors", ".gguf")
"""Of other programs."""
OPENED = (*GRAPH_ENDINGS, *MODEL_ENDINGS)
DATA_ENDINGS = (".csv", ".tsv", ".parquet", ".npz", ".npy", ".txt", ".jsonl", ".gz")


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    left_out: int
    """Entries beyond the limit."""


async def kind_of(path: Path) -> str:
    """graph, model, data, or nothing that is known: by the name, and for .safetensors by what is in it."""
    return await trio.to_thread.run_sync(_kind_of, path)


def _kind_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or (suffix == ".safetensors" and _is_dataset(path)):
        return "data"
    known = ((GRAPH_ENDINGS, "graph"), (MODEL_ENDINGS, "model"), (DATA_ENDINGS, "data"))
    return next((kind for endings, kind in known if suffix in endings), "")


def _is_dataset(path: Path) -> bool:
    try:
        return read_data_header(path).tensors.keys() == {"x", "y"}
    except DatasetError:
        return False


def holds(what: Callable[[Path], bool], path: Path) -> bool:
    """``Path.is_dir`` and its like, which raise for names too long and where one may not look."""
    try:
        return what(path)
    except OSError:
        return False


async def write_graph(path: Path, graph: Graph) -> None:
    """Whole or not at all. Raises FileError."""
    await trio.to_thread.run_sync(save_graph, path, graph)


async def list_folder(path: Path, endings: tuple[str, ...]) -> Folder:
    """Without what is hidden. Raises CommandError."""

    def look() -> Folder:
        entries = sorted(
            (each for each in path.iterdir() if not each.name.startswith(".")),
            key=lambda each: each.name.lower(),
        )
        folders = [each for each in entries if each.is_dir()]
        files = [each for each in entries if each.suffix.lower() in endings and each.is_file()]
        left_out = max(0, len(folders) - MAX_SHOWN) + max(0, len(files) - MAX_SHOWN)
        return Folder(path, tuple(folders[:MAX_SHOWN]), tuple(files[:MAX_SHOWN]), left_out)

    try:
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True)  # type: ignore[call-arg]
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
