"""A model as GGUF: exact for llama.cpp where the graph is a llama or a GPT-2, else its tensors and graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backend.compiler import module_name
from backend.errors import ArchiveError, ExportError
from backend.exporting.language_model import LanguageModel, Weight
from backend.exporting.messages import TensorType
from backend.formats.gguf_header import GgufHeader, GgufValue
from backend.formats.gguf_types import TENSORS_ARCHITECTURE
from backend.formats.gguf_write import GgufPiece, write_gguf
from backend.formats.tensors import Array

_FILE_TYPES: Mapping[TensorType, int] = {"f32": 0, "f16": 1, "q8_0": 7}
_BLOCK = 32
_MAX_NAME = 63
_MAX_AXES = 4
_NORMAL, _CONTROL = 1, 3
_TOKENIZER = "tokenizer.ggml.model"
_KINDS = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
}
GRAPH_KEY, TENSORS_KEY = "cyxwiz.graph", "cyxwiz.tensors"


def write_language_model(
    path: Path,
    model: LanguageModel,
    weights: Mapping[str, Array],
    kind: TensorType,
    graph: bytes,
    facts: Mapping[str, GgufValue],
) -> None:
    """``graph`` goes along, though llama.cpp has no use for it; ``facts``: more metadata.

    Without a tokenizer in them the file takes and gives numbers of tokens. Raises ExportError, OSError.
    """
    metadata: dict[str, GgufValue] = {"general.architecture": model.architecture, _TOKENIZER: "none", **facts}
    metadata |= {"general.file_type": _FILE_TYPES[kind], GRAPH_KEY: graph.decode()}
    metadata |= {f"{model.architecture}.{name}": value for name, value in model.settings.items()}
    pieces = []
    for name, parts in model.tensors.items():
        found = [weights[weight_name(part)] for part in parts]
        values = found[0] if len(found) == 1 else np.concatenate(found)
        # llama.cpp adds positions as they are, and multiplies by norms: both stay exact.
        plain = values.ndim == 1 or name == "position_embd.weight"
        pieces.append(GgufPiece(name, "f32" if plain else _fitting(kind, values), values))
    _write(path, metadata, pieces)


def weight_name(weight: Weight) -> str:
    """As the compiler calls it."""
    place, name = weight
    return ".".join([*(module_name(p) if isinstance(p, str) else str(p) for p in place), name])


def write_tensors(
    path: Path, graph: bytes, weights: Mapping[str, Array], kind: TensorType, facts: Mapping[str, GgufValue]
) -> None:
    """All weights, and the graph to run them with. Raises ExportError, OSError."""
    names = {name if len(name) <= _MAX_NAME else f"tensor.{n}": name for n, name in enumerate(weights)}
    records: dict[str, dict[str, Any]] = {}
    pieces = []
    for short, name in names.items():
        values = weights[name]
        records[short] = {"name": name, "dtype": str(values.dtype), "shape": list(values.shape)}
        flat = _as_few_axes(values)
        stored = _fitting(kind, flat) if values.dtype == np.float32 and values.ndim > 1 else None
        plain = _KINDS.get(str(values.dtype), "i8")
        pieces.append(GgufPiece(short, stored or plain, flat.view(np.int8) if plain == "i8" else flat))
    metadata: dict[str, GgufValue] = {"general.architecture": TENSORS_ARCHITECTURE, **facts}
    metadata |= {
        "general.file_type": _FILE_TYPES[kind],
        GRAPH_KEY: graph.decode(),
        TENSORS_KEY: json.dumps(records, separators=(",", ":")),
    }
    _write(path, metadata, pieces)


def unpack_tensors(header: GgufHeader, tensors: Mapping[str, Array]) -> tuple[bytes, dict[str, Array]]:
    """Graph and weights of a file that ``write_tensors`` wrote. Raises ArchiveError."""
    graph, records = header.metadata.get(GRAPH_KEY), header.metadata.get(TENSORS_KEY)
    if header.architecture != TENSORS_ARCHITECTURE or not isinstance(graph, str):
        raise ArchiveError(f"GGUF file of architecture {header.architecture[:40]!r} holds no graph")
    try:
        entries = json.loads(records if isinstance(records, str) else "")
        weights = {str(entry["name"]): _restored(tensors[short], entry) for short, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"GGUF file: {TENSORS_KEY} does not describe its tensors: {error}") from error
    return graph.encode(), weights


def _restored(values: Array, entry: Mapping[str, Any]) -> Array:
    dtype = np.dtype(entry["dtype"])
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError(f"dtype {dtype}")
    same_size = values.dtype.itemsize == dtype.itemsize
    found = values.view(dtype) if same_size and dtype.kind in "ub" else values.astype(dtype)
    return found.reshape(entry["shape"])


def _as_few_axes(values: Array) -> Array:
    """GGUF has four at most, and no single numbers."""
    if values.ndim <= _MAX_AXES:
        return values.reshape(1) if values.ndim == 0 else values
    return values.reshape(*values.shape[: _MAX_AXES - 1], -1)


def _fitting(kind: TensorType, values: Array) -> str:
    """q8_0 needs rows in whole blocks; where they are not, half precision holds the tensor."""
    return "f16" if kind == "q8_0" and values.shape[-1] % _BLOCK else kind


def _write(path: Path, metadata: Mapping[str, GgufValue], pieces: list[GgufPiece]) -> None:
    try:
        write_gguf(path, metadata, pieces)
    except ArchiveError as error:
        raise ExportError(f"gguf: {error}") from error


# -- tokenizers ----------------------------------------------------------------------------------


def tokenizer_metadata(tokenizer: str, vocabulary: int) -> dict[str, GgufValue]:
    """Of a byte-level BPE tokenizer.json. Raises ExportError for other kinds and more tokens."""
    try:
        found = json.loads(tokenizer)
        model, added = found["model"], found.get("added_tokens") or []
        cutting = found.get("pre_tokenizer") or {}
        if model.get("type") != "BPE" or cutting.get("type") != "ByteLevel" or found.get("normalizer"):
            raise ExportError(
                "its tokenizer is no plain byte-level BPE, which is what llama.cpp can be given"
            )
        if cutting.get("add_prefix_space"):
            raise ExportError("its tokenizer adds a space in front, which llama.cpp does not")
        if not cutting.get("use_regex", True):
            raise ExportError("its tokenizer does not cut text into words first, as llama.cpp does")
        tokens = {int(number): str(token) for token, number in model["vocab"].items()}
        tokens |= {int(each["id"]): str(each["content"]) for each in added}
        special = {int(each["id"]) for each in added if each.get("special")}
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"its tokenizer cannot be read: {error}") from error
    if not tokens or max(tokens) >= vocabulary:
        raise ExportError(f"its tokenizer has {len(tokens)} tokens, the model {vocabulary}")
    names = tuple([tokens.get(number, f"[unused{number}]") for number in range(vocabulary)])
    return {
        _TOKENIZER: "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": tuple(
            [_CONTROL if n in special or n not in tokens else _NORMAL for n in range(vocabulary)]
        ),
        "tokenizer.ggml.merges": tuple(merges),
        "tokenizer.ggml.add_bos_token": False,
        **_ends(names, special),
    }


def _ends(names: tuple[str, ...], special: set[int]) -> dict[str, GgufValue]:
    """The tokens that begin and end a text, found by their usual names; else the first special one."""
    usual = {
        "tokenizer.ggml.bos_token_id": (
            "<begin>",
            "<s>",
            "<|begin_of_text|>",
            "<bos>",
            "[BOS]",
            "<|endoftext|>",
        ),
        "tokenizer.ggml.eos_token_id": (
            "<end>",
            "</s>",
            "<|end_of_text|>",
            "<eos>",
            "[EOS]",
            "<|endoftext|>",
        ),
        "tokenizer.ggml.padding_token_id": ("<pad>", "[PAD]"),
    }
    found: dict[str, GgufValue] = {}
    for key, candidates in usual.items():
        numbers = [names.index(name) for name in candidates if name in names]
        if numbers:
            found[key] = numbers[0]
        elif special and "padding" not in key:
            found[key] = min(special)
    return found
