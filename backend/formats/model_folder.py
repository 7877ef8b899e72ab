"""A model as a folder, as Hugging Face lays it out: config.json beside one or several safetensors files.

Reads headers and JSON within bounds; no weights, and nothing outside of the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import ArchiveError
from backend.formats.tensor_header import FOREIGN_ITEM_BYTES, TensorHeader, read_tensor_header

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
LANGUAGE_MODELS = ("gpt2", "llama", "mistral")
"""The model_type of a config.json of which, with the weights, a graph can be made."""
MAX_FILES = 1024
MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ModelFolder:
    config: Mapping[str, Any]
    """Empty where there is none."""
    headers: Mapping[Path, TensorHeader]
    """Of the files of weights; no two have a tensor of the same name."""


def is_model_folder(path: Path) -> bool:
    return path.is_dir() and ((path / WEIGHTS).is_file() or (path / INDEX).is_file())


def read_model_folder(path: Path) -> ModelFolder:
    """Raises ArchiveError, also for an index that lists what the files do not hold."""
    listed = _index(path / INDEX) if (path / INDEX).is_file() else None
    names = sorted(set(listed.values())) if listed is not None else [WEIGHTS]
    headers = {path / name: read_header(path / name) for name in names}
    places = [(tensor, file.name) for file, header in headers.items() for tensor in header.tensors]
    found = dict(places)
    if len(found) < len(places):
        raise ArchiveError(f"{path.name}: a tensor is in two files")
    if listed is not None and listed != found:
        odd = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
        raise ArchiveError(f"{INDEX} does not say what the files hold: {', '.join(odd)[:200]}")
    config = _json(path / CONFIG) if (path / CONFIG).is_file() else {}
    return ModelFolder(config, headers)


def read_header(path: Path) -> TensorHeader:
    """Of a safetensors file that any program wrote. Raises ArchiveError."""
    try:
        with path.open("rb") as file:
            return read_tensor_header(file, os.fstat(file.fileno()).st_size, FOREIGN_ITEM_BYTES)
    except OSError as error:
        raise ArchiveError(f"{path.name} cannot be read: {error.strerror}") from error


def _index(path: Path) -> dict[str, str]:
    """Which tensor is in which file."""
    listed = _json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ArchiveError(f"{path.name} has no weight_map of texts")
    files = set(listed.values())
    if len(files) > MAX_FILES:
        raise ArchiveError(f"{path.name} names {len(files)} files, limit {MAX_FILES}")
    for name in files:
        plain = name == Path(name).name and name.isprintable() and not name.startswith(".")
        if not plain or not name.endswith(".safetensors"):
            raise ArchiveError(f"{path.name} names {name[:80]!r}, allowed are .safetensors beside it")
    return listed


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ArchiveError(f"{path.name} of {path.stat().st_size} bytes, limit {MAX_JSON_BYTES}")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"{path.name} is no JSON object")
    return found
