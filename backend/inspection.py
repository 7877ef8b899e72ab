"""What is in a file or folder, by what it holds. Executes nothing, and loads no numeric runtime.

Every format is read by a reader of our own, within bounds; what is damaged or hostile is refused.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from backend.catalogue.record import TensorType
from backend.errors import ArchiveError, BackendError, DatasetError, GraphFormatError
from backend.facts import facts_of
from backend.formats.cyxmodel import CyxModelSummary, inspect_cyxmodel
from backend.formats.gguf_header import GgufHeader, GgufValue, read_gguf_header
from backend.formats.gguf_types import TENSORS_ARCHITECTURE
from backend.formats.model_folder import LANGUAGE_MODELS, is_model_folder, read_header, read_model_folder
from backend.formats.onnx_check import MAX_MODEL_BYTES, OnnxFacts, OnnxValue, check_onnx
from backend.formats.sniff import ModelFormat, sniff
from backend.formats.tensor_header import TensorHeader
from backend.graph import Graph
from backend.onnx_node import RANDOM_OPERATORS
from backend.parity import Certificate
from backend.reports import Metrics
from backend.serialize import load_graph
from backend.shapes import Shapes, infer_shapes
from backend.validate import Severity, diagnose

GRAPH_KEY = "cyxwiz.graph"
_SERVED = (ModelFormat.CYXMODEL, ModelFormat.ONNX, ModelFormat.GGUF)
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_START_BYTES = 256
_MAX_GRAPH_BYTES = 4 << 20
_MAX_TEXT = 500
"""Of one entry of metadata."""
_MAX_ITEMS = 8
MAX_PARTS = 64
"""Files of a folder that are looked at."""
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """``inputs`` and ``outputs``: shapes of one sample by node, where they can be told."""

    name: str
    nodes: int
    types: Mapping[str, int]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    parameters: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    kind: str
    size_bytes: int
    runs_in: str
    """What can do something with it, and how."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    graph: GraphSummary | None = None
    tensors: tuple[Tensor, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Inspection | str] = field(default_factory=dict)
    """Of a folder: its files by name, or why one cannot be read."""

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def inspect(path: Path) -> Inspection:
    """Raises ArchiveError, DatasetError, GraphFormatError."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ArchiveError(f"{path.name} is neither a file nor a folder")
    match sniff(path):
        case ModelFormat.CYXMODEL:
            return _cyxmodel(path, inspect_cyxmodel(path))
        case ModelFormat.ONNX:
            return _onnx(path)
        case ModelFormat.GGUF:
            return _gguf(read_gguf_header(path))
        case ModelFormat.SAFETENSORS:
            return _safetensors(path, read_header(path))
    start = _start(path)
    if start.startswith(_PICKLES) or (start.startswith(b"PK") and b".pkl" in start):
        raise ArchiveError(f"{path.name} is a pickle, which can run code and is never read: use safetensors")
    return _json_file(path) if start.lstrip().startswith(b"{") else _dataset(path)


# -- graphs --------------------------------------------------------------------------------------


def summary_of(graph: Graph) -> GraphSummary:
    shapes = infer_shapes(graph)
    errors = [str(each) for each in diagnose(graph, for_training=False) if each.severity is Severity.ERROR]
    return GraphSummary(
        graph.name,
        len(graph.nodes),
        dict(Counter(node.type for node in graph.nodes).most_common()),
        _ends(graph, shapes, "Input"),
        _ends(graph, shapes, "Output"),
        sum(found.counts.parameters for found in shapes.nodes.values()),
        tuple(errors),
    )


def _ends(graph: Graph, shapes: Shapes, type_name: str) -> dict[str, tuple[int, ...]]:
    found = {}
    for node in graph.nodes:
        known = shapes.nodes.get(node.id)
        value = known.outputs.get("output") if known is not None and node.type == type_name else None
        if isinstance(value, TensorType):
            found[node.id] = value.shape
    return found


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START_BYTES)


def _json_file(path: Path) -> Inspection:
    size = path.stat().st_size
    if size > _MAX_JSON_BYTES:
        raise GraphFormatError(f"JSON of {size} bytes, limit {_MAX_JSON_BYTES}")
    text = path.read_bytes()
    other = _tokenizer(text, size) or _certificate(text, size)
    if other is not None:
        return other
    if size > _MAX_GRAPH_BYTES:
        raise GraphFormatError(f"graph of {size} bytes, limit {_MAX_GRAPH_BYTES}")
    graph = load_graph(text)
    runs = "cyxwiz check, train, submit, code"
    return Inspection("graph", size, runs, {"epochs": graph.training.epochs}, summary_of(graph))


def _tokenizer(text: bytes, size: int) -> Inspection | None:
    """Of a tokenizer.json, as Hugging Face's tokenizers write it; None for any other JSON."""
    try:
        found = msgspec.json.decode(text, type=_TokenizerFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    facts = {
        "algorithm": found.model.type,
        "tokens": len(found.model.vocab),
        "added": len(found.added_tokens),
    }
    return Inspection("tokenizer", size, "cyxwiz serve, beside its model or with --tokenizer", facts)


def _certificate(text: bytes, size: int) -> Inspection | None:
    """Of an export that was compared; None for any other JSON."""
    try:
        found = msgspec.json.decode(text, type=Certificate)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    told = ("format", "about", "runtime", "verdict", "max_difference", "file_blake3", "model_blake3")
    facts = {name: getattr(found, name) for name in told}
    return Inspection("parity certificate", size, "it tells of the file whose hash it names", facts)


class _TokenizerModel(msgspec.Struct):
    vocab: dict[str, Any] | list[Any]
    type: str = "unknown"


class _TokenizerFile(msgspec.Struct):
    model: _TokenizerModel
    added_tokens: list[Any] = []


def _embedded(text: object) -> GraphSummary | None:
    """Of a graph in metadata; None where there is none that can be read."""
    if not isinstance(text, str) or len(text) > _MAX_GRAPH_BYTES:
        return None
    try:
        return summary_of(load_graph(text.encode()))
    except BackendError:
        return None


# -- models --------------------------------------------------------------------------------------


def _cyxmodel(path: Path, found: CyxModelSummary) -> Inspection:
    training = found.training
    facts: dict[str, Any] = {
        "graph_blake3": found.graph_hash,
        "trained": f"{training.step} of {training.total_steps} steps",
        "can_continue": found.can_continue,
        "samples": training.samples,
        "sample_shape": training.sample_shape,
        "classes": training.classes,
        "normalization": training.normalization is not None,
        "history_points": len(found.history),
    }
    if found.history:
        facts["first"], facts["last"] = _scalars(found.history[0]), _scalars(found.history[-1])
    if found.notes.kind:
        facts["samples_are"] = found.notes.kind
    if found.notes.class_names:
        facts["class_names"] = list(found.notes.class_names)
    facts["tokenizer"] = bool(found.notes.tokenizer)
    tensors = tuple(Tensor(name, info.dtype, info.shape) for name, info in found.weights.items())
    runs = "cyxwiz serve, export, train --from"
    graph = summary_of(load_graph(found.graph))
    return Inspection("CyxWiz model", path.stat().st_size, runs, facts, graph, tensors)


def _scalars(metrics: Metrics) -> dict[str, int | float]:
    """The numbers of a point of the history, without the tables of its heads."""
    found = msgspec.to_builtins(metrics)
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _onnx(path: Path) -> Inspection:
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise ArchiveError(f"ONNX model of {size} bytes, limit {MAX_MODEL_BYTES}")
    found: OnnxFacts = check_onnx(path.read_bytes())
    facts: dict[str, Any] = {
        "producer": f"{found.producer} {found.producer_version}".strip(),
        "ir_version": found.ir_version,
        "operator_sets": {name or "ai.onnx": version for name, version in found.opsets.items()},
        "inputs": {value.name: _described(value) for value in found.inputs},
        "outputs": {value.name: _described(value) for value in found.outputs},
        "operators": dict(Counter(found.operators).most_common()),
        "functions": found.functions,
    }
    tensors = tuple(Tensor(t.name, t.dtype, t.shape) for t in found.initializers)
    metadata = {key: _shortened(value) for key, value in found.metadata.items()}
    reason = _why_no_graph(found)
    runs = "onnxruntime: cyxwiz serve; " + (f"no graph: {reason}" if reason else "cyxwiz import, as a graph")
    return Inspection("ONNX model", size, runs, facts, None, tensors, metadata)


def _why_no_graph(found: OnnxFacts) -> str:
    """As far as it can be told without running anything; empty where nothing speaks against it."""
    if random := sorted(RANDOM_OPERATORS & found.operators.keys()):
        return f"{random[0]} draws at random"
    texts = [value.name for value in found.inputs if value.dtype == "string"]
    return f"its input {texts[0][:80]!r} is texts" if texts else ""


def _described(value: OnnxValue) -> str:
    if value.shape is None:
        return value.dtype or "anything"
    return f"{value.dtype} ({', '.join('?' if size is None else str(size) for size in value.shape)})"


def _gguf(found: GgufHeader) -> Inspection:
    own = found.architecture == TENSORS_ARCHITECTURE
    runs = (
        "CyxWiz alone: cyxwiz import"
        if own
        else f"llama.cpp: cyxwiz serve, as far as it knows {found.architecture!r}"
    )
    facts = {"version": found.version, "architecture": found.architecture}
    tensors = tuple(Tensor(name, t.kind.name, t.shape) for name, t in found.tensors.items())
    shown = {key: _shortened(value) for key, value in found.metadata.items() if key != GRAPH_KEY}
    kind = "GGUF tensor container" if own else "GGUF language model"
    graph = _embedded(found.metadata.get(GRAPH_KEY))
    return Inspection(kind, found.size_bytes, runs, facts, graph, tensors, shown)


def _shortened(value: GgufValue) -> Any:
    if isinstance(value, tuple):
        if len(value) <= _MAX_ITEMS:
            return list(value)
        return f"{len(value)} items, from {str(value[0])[:40]!r} to {str(value[-1])[:40]!r}"
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[:_MAX_TEXT]}... ({len(value)} characters)"
    return value


def _safetensors(path: Path, header: TensorHeader) -> Inspection:
    size, metadata = path.stat().st_size, dict(header.metadata)
    if header.tensors.keys() == {"x", "y"}:
        return _dataset_facts(path, header, metadata)
    graph = _embedded(metadata.pop(GRAPH_KEY, None))
    runs = "cyxwiz import" + ("" if graph else " --graph GRAPH, by the names of its weights")
    shown = {key: _shortened(value) for key, value in metadata.items()}
    return Inspection("safetensors weights", size, runs, {}, graph, _tensors(header), shown)


def _tensors(header: TensorHeader) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, info.dtype, info.shape) for name, info in header.tensors.items())


# -- data ----------------------------------------------------------------------------------------


def _dataset_facts(path: Path, header: TensorHeader, metadata: Mapping[str, str]) -> Inspection:
    facts = facts_of(path, header)
    shown = {key: _shortened(value) for key, value in metadata.items()}
    runs = "cyxwiz train and submit, with --data; cyxwiz data show counts what is in it"
    found = {name: getattr(facts, name) for name in ("samples", "sample_shape", "dtype", "classes")}
    return Inspection("dataset", path.stat().st_size, runs, found, None, _tensors(header), shown)


def _dataset(path: Path) -> Inspection:
    """Any that can be read, as ``cyxwiz data`` reads them."""
    from backend.readers import open_source

    try:
        recipe = open_source(path).recipe
    except DatasetError as error:
        raise DatasetError(f"{path.name} is no model, no graph and no data: {error}") from error
    facts = {
        "samples": recipe.samples,
        "sample_shape": recipe.x_shape,
        "dtype": str(recipe.x_dtype),
        "target": f"{recipe.y_dtype} {recipe.y_shape}",
        "class_names": list(recipe.notes.class_names[:_MAX_ITEMS]),
    }
    return Inspection("dataset", _size(path), "cyxwiz train and submit, with --data", facts)


# -- folders -------------------------------------------------------------------------------------


def _folder(path: Path) -> Inspection:
    if not is_model_folder(path):
        try:
            return _dataset(path)
        except DatasetError as error:
            return _several(path, error)
    found = read_model_folder(path)
    tensors = tuple(tensor for header in found.headers.values() for tensor in _tensors(header))
    config = {key: value for key, value in found.config.items() if isinstance(value, str | int | float)}
    facts: dict[str, Any] = {"files": [file.name for file in found.headers]}
    if architectures := found.config.get("architectures"):
        facts["architectures"] = architectures
    known = found.config.get("model_type") in LANGUAGE_MODELS
    runs = "cyxwiz import" + (", as a graph" if known else " --graph GRAPH, by the names of its weights")
    return Inspection("model folder", _size(path), runs, facts, None, tensors, config)


def _several(path: Path, no_data: DatasetError) -> Inspection:
    """A folder that is neither a model nor data as a whole.

    Raises DatasetError if none of its files is either, ArchiveError if they are pickles.
    """
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    parts: dict[str, Inspection | str] = {}
    for file in files[:MAX_PARTS]:
        try:
            parts[file.name] = inspect(file)
        except BackendError as error:
            parts[file.name] = str(error)
    if not any(isinstance(part, Inspection) for part in parts.values()):
        pickles = [reason for reason in parts.values() if "is a pickle" in str(reason)]
        raise ArchiveError(str(pickles[0])) if pickles else no_data
    served = [file for file in files[:MAX_PARTS] if sniff(file) in _SERVED]
    runs = "cyxwiz serve FOLDER" if len(served) == 1 else "each of its files by itself"
    facts = {"files": len(files)} | ({"looked_at": MAX_PARTS} if len(files) > MAX_PARTS else {})
    return Inspection("folder", _size(path), runs, facts, parts=parts)


def _size(path: Path) -> int:
    """Of a file, or of all directly in a folder."""
    if path.is_file():
        return path.stat().st_size
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
