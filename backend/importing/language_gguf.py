"""GGUF language models of other programs as graphs: what the metadata says, if a llama or GPT-2 is all it is.

The way back of ``backend.exporting.gguf_export``: the graph is built from the metadata, and read as a
language model again, which says where each tensor belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from backend.errors import ArchiveError, ModelImportError
from backend.exporting.language_model import LanguageModel, NotLanguageModel, read_language_model
from backend.exporting.runners import restored_weights
from backend.formats.gguf_header import GgufValue
from backend.formats.tensors import Array
from backend.graph import Body, Graph, Link, Node
from backend.serialize import dump_graph
from backend.shapes import infer_shapes
from backend.tuning import count_weights

DEFAULT_STEPS = 256
"""Tokens that the graph takes at once; as many as the GGUF says it can take cost memory for each."""
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_MAX_SIZE = 1 << 20
_MAX_BLOCKS = 1024
_SCALED = ("rope.scaling.factor", "rope.scale_linear", "expert_count", "attention.key_length_mla")
"""What changes a llama into something that the graph has not, where it is there and not 0 or 1."""


@dataclass(frozen=True, slots=True)
class Imported:
    graph: Graph
    weights: Mapping[str, Array]
    model: LanguageModel


def read_foreign_model(
    metadata: Mapping[str, GgufValue], tensors: Mapping[str, Array], steps: int
) -> Imported:
    """``steps``: how many tokens the graph takes at most.

    Raises ModelImportError for what is neither a llama nor a GPT-2 to the letter.
    """
    facts = _Facts(metadata)
    graph = _graph(facts, tensors, steps)
    try:
        model = read_language_model(graph)
    except NotLanguageModel as error:
        raise ModelImportError(str(error)) from error
    found = dict(tensors)
    if _HEAD not in found and _EMBEDDING in found:
        # Many models use one matrix for both ends.
        found[_HEAD] = found[_EMBEDDING]
    unknown = sorted(found.keys() - model.tensors.keys())
    if unknown:
        raise ModelImportError(f"tensor {unknown[0][:80]!r}, which a {facts.architecture} has not")
    _check_size(found, graph)
    try:
        return Imported(graph, restored_weights(found, model, dump_graph(graph)), model)
    except ArchiveError as error:
        raise ModelImportError(str(error)) from error


class _Facts:
    """The metadata of the architecture, by names without its prefix."""

    def __init__(self, metadata: Mapping[str, GgufValue]) -> None:
        self.architecture = str(metadata.get("general.architecture", ""))
        self._metadata = metadata
        if self.architecture not in ("llama", "gpt2"):
            raise ModelImportError(
                f"architecture {self.architecture[:40]!r}, taken over are llama and gpt2; "
                "cyxwiz serve runs what llama.cpp knows"
            )
        for name in _SCALED:
            value = self._metadata.get(f"{self.architecture}.{name}")
            if value not in (None, 0, 1):
                raise ModelImportError(f"{name} is {value!r}, taken over are models without")

    @property
    def name(self) -> str:
        found = self._metadata.get("general.name")
        return found[:100] if isinstance(found, str) else self.architecture

    def size(self, name: str, default: int | None = None, limit: int = _MAX_SIZE) -> int:
        value = self._metadata.get(f"{self.architecture}.{name}", default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            shown = ascii(value)[:40]
            raise ModelImportError(f"{self.architecture}.{name} is {shown}, must be from 1 to {limit}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self._metadata.get(f"{self.architecture}.{name}", default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            shown = ascii(value)[:40]
            raise ModelImportError(f"{self.architecture}.{name} is {shown}, must be a number")
        return float(f"{value:.7g}")


def _graph(facts: _Facts, tensors: Mapping[str, Array], most: int) -> Graph:
    width, heads = facts.size("embedding_length"), facts.size("attention.head_count")
    if facts.size("rope.dimension_count", width // heads) != width // heads:
        raise ModelImportError("only a part of each head is rotated, taken over are whole heads")
    embedding = tensors.get(_EMBEDDING)
    if embedding is None or embedding.ndim != 2:
        raise ModelImportError(f"no {_EMBEDDING}, of which every language model has one")
    vocabulary, steps = embedding.shape[0], min(facts.size("context_length"), most)
    chain = [
        Node("tokens", "Input", 1, {"shape": [steps], "vocabulary": vocabulary}),
        Node("embedding", "Embedding", 1, {"vocabulary": vocabulary, "dimension": width}),
        *(_llama(facts, heads) if facts.architecture == "llama" else _gpt2(facts, heads)),
    ]
    norm, epsilon = ("rms", _epsilon(facts)) if facts.architecture == "llama" else ("layer", _epsilon(facts))
    chain.append(Node("head", "TokenHead", 1, {"vocabulary": vocabulary, "norm": norm, "epsilon": epsilon}))
    chain.append(Node("logits", "Output"))
    return Graph(facts.name, tuple(chain), _linked(chain))


def _linked(chain: list[Node]) -> tuple[Link, ...]:
    return tuple([Link(a.id, "output", b.id, "input") for a, b in pairwise(chain)])


def _llama(facts: _Facts, heads: int) -> list[Node]:
    given: dict[str, Any] = {
        "heads": heads,
        "kv_heads": facts.size("attention.head_count_kv", heads),
        "feed_forward": facts.size("feed_forward_length"),
        "rope_base": facts.number("rope.freq_base", 10_000.0),
        "epsilon": _epsilon(facts),
    }
    inside = [Node("in", "Input"), Node("block", "LlamaBlock", 1, given), Node("out", "Output")]
    times = facts.size("block_count", limit=_MAX_BLOCKS)
    return [Node("blocks", "Repeat", 1, {"times": times}, body=Body(tuple(inside), _linked(inside)))]


def _gpt2(facts: _Facts, heads: int) -> list[Node]:
    given: dict[str, Any] = {
        "heads": heads,
        "layers": facts.size("block_count", limit=_MAX_BLOCKS),
        "feed_forward": facts.size("feed_forward_length"),
        "activation": "gelu_tanh",
        "norm_first": True,
        "causal": True,
        "epsilon": _epsilon(facts),
    }
    positions: dict[str, Any] = {"method": "learned", "length": facts.size("context_length")}
    return [
        Node("positions", "PositionalEncoding", 1, positions),
        Node("blocks", "TransformerEncoder", 1, given),
    ]


def _epsilon(facts: _Facts) -> float:
    name = "layer_norm_rms_epsilon" if facts.architecture == "llama" else "layer_norm_epsilon"
    return facts.number(f"attention.{name}", 1e-5)


def _check_size(tensors: Mapping[str, Array], graph: Graph) -> None:
    """Before anything of the size is made: that the file holds as much as it speaks of."""
    described = count_weights(graph, infer_shapes(graph)).total
    held = sum(tensor.size for tensor in tensors.values())
    if described != held:
        raise ModelImportError(f"the metadata speaks of {described} weights, the tensors are {held}")
