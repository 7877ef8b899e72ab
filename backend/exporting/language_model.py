"""Which graphs are a llama or a GPT-2 to the letter, so that llama.cpp can run their weights. Pure.

A graph that deviates anywhere is none: then a GGUF can only hold its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from backend.catalogue.record import TensorType
from backend.graph import Body, Graph, Node, Wiring, model_nodes
from backend.shapes import infer_shapes, parameters_of

Place = tuple[str | int, ...]
"""Where a node is: its id, behind those of what it is in and the number of the repetition."""
Weight = tuple[Place, str]
"""Of a node, and its name there."""

_NOTHING_AT_WORK = frozenset({"Dropout", "SpatialDropout", "StochasticDepth", "Identity"})
"""What does nothing once a model is trained."""
_LLAMA_PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
                "ffn_down")  # fmt: skip
_GPT2_PARTS = (("attention_norm", "attn_norm"), ("attention.output", "attn_output"),
               ("feed_forward_norm", "ffn_norm"), ("up", "ffn_up"), ("down", "ffn_down"))  # fmt: skip


class NotLanguageModel(Exception):
    """Why a graph is no llama and no GPT-2: the text names a node."""


@dataclass(frozen=True, slots=True)
class LanguageModel:
    architecture: str
    settings: Mapping[str, int | float]
    """Metadata of the architecture, without its prefix."""
    tensors: Mapping[str, tuple[Weight, ...]]
    """By the name in the file: one weight, or several on top of each other."""
    vocabulary: int
    steps: int
    last_step_only: bool
    """The graph's head answers for the last step alone; llama.cpp can do so for every step."""


@dataclass(frozen=True, slots=True)
class _Step:
    node: Node
    given: Mapping[str, Any]
    place: Place


def read_language_model(graph: Graph) -> LanguageModel:
    """Raises NotLanguageModel."""
    steps = _chain(graph, ())
    _need(bool(steps) and steps[0].node.type == "Embedding", steps, "begins with", "an Embedding of ids")
    _need(steps[-1].node.type == "TokenHead", steps[-1:], "ends with", "a TokenHead")
    (door,) = [node for node in model_nodes(graph) if node.type == "Input"]
    entering = infer_shapes(graph).output(door.id)
    _need(isinstance(entering, TensorType) and len(entering.shape) == 1, steps, "gives to", "steps of ids")
    shape = list(entering.shape) if isinstance(entering, TensorType) else []
    blocks = {step.node.type for step in steps[1:-1]}
    if "LlamaBlock" in blocks:
        return _llama(steps, shape)
    if "TransformerEncoder" in blocks:
        return _gpt2(steps, shape)
    raise NotLanguageModel("no LlamaBlock and no TransformerEncoder in it")


def _chain(wiring: Wiring, place: Place) -> list[_Step]:
    """The nodes from the one Input to the one Output, each with nothing but the one before at its input."""
    nodes = model_nodes(wiring)
    incoming = wiring.incoming()
    kinds = [node.type for node in nodes]
    if kinds.count("Input") != 1 or kinds.count("Output") != 1:
        raise NotLanguageModel("it has several inputs or outputs")
    steps: list[_Step] = []
    for before, node in pairwise(nodes):
        if [link.source_node for link in incoming[node.id]] != [before.id]:
            raise NotLanguageModel(f"node {node.id!r} takes something else than what {before.id!r} gives")
        if node.type == "Repeat":
            for number in range(parameters_of(node)["times"]):
                steps += _chain(node.body or Body(), (*place, node.id, number))
        elif node.type != "Output" and node.type not in _NOTHING_AT_WORK:
            steps.append(_Step(node, parameters_of(node), (*place, node.id)))
    return steps


def _need(fits: bool, steps: list[_Step], what: str, wanted: str) -> None:
    if not fits:
        found = f"node {steps[0].node.id!r} ({steps[0].node.type})" if steps else "nothing"
        raise NotLanguageModel(f"it {what} {found}, needed is {wanted}")


def _body(steps: list[_Step], block: str, norm: str) -> tuple[list[_Step], Weight]:
    """The blocks, all alike, and the beginning of the names of what normalizes after them."""
    head = steps[-1]
    inner = steps[1:-1]
    if inner and inner[-1].node.type == norm and head.given["norm"] == "none":
        last = inner.pop()
        _need(last.given["axes"] == 1 and last.given["affine"], [last], "normalizes with", "affine, one axis")
        weights = (last.place, "")
    else:
        last, weights = head, (head.place, "output_norm.")
        wanted = "rms" if norm == "RMSNorm" else "layer"
        _need(head.given["norm"] == wanted, [head], "ends with", f"norm {wanted}")
    _need(not head.given["bias"], [head], "ends with", "a TokenHead without bias")
    for step in inner:
        _need(step.node.type == block, [step], "holds", f"nothing but {block}")
        _need({**step.given, "layers": 1, "dropout": 0} == {**inner[0].given, "layers": 1, "dropout": 0},
              [step], "holds", f"blocks like {inner[0].node.id!r}")  # fmt: skip
    _need(last.given["epsilon"] == inner[0].given["epsilon"], [last], "ends with", "the blocks' epsilon")
    _need(head.given["vocabulary"] == steps[0].given["vocabulary"], [head], "ends with",
          "as many tokens as the Embedding has")  # fmt: skip
    return inner, weights


def _llama(steps: list[_Step], shape: list[int]) -> LanguageModel:
    blocks, (place, norm) = _body(steps, "LlamaBlock", "RMSNorm")
    embedding, head, given = steps[0], steps[-1], blocks[0].given
    width = embedding.given["dimension"]
    tensors: dict[str, tuple[Weight, ...]] = {
        "token_embd.weight": ((embedding.place, "weight"),),
        "output_norm.weight": ((place, f"{norm}weight"),),
        "output.weight": ((head.place, "output.weight"),),
    }
    for number, block in enumerate(blocks):
        for part in _LLAMA_PARTS:
            tensors[f"blk.{number}.{part}.weight"] = ((block.place, f"{part}.weight"),)
    settings: dict[str, int | float] = {
        **_sizes(len(blocks), width, shape, given, head),
        "attention.head_count_kv": given["kv_heads"],
        "attention.layer_norm_rms_epsilon": float(given["epsilon"]),
        "rope.freq_base": float(given["rope_base"]),
        "rope.dimension_count": width // given["heads"],
    }
    return LanguageModel("llama", settings, tensors, head.given["vocabulary"], shape[0], head.given["last"])


def _gpt2(steps: list[_Step], shape: list[int]) -> LanguageModel:
    position = steps.pop(1)
    learned = position.node.type == "PositionalEncoding" and position.given["method"] == "learned"
    _need(learned, [position], "goes on with", "learned positions")
    blocks, (place, norm) = _body(steps, "TransformerEncoder", "LayerNorm")
    embedding, head, given = steps[0], steps[-1], blocks[0].given
    for name, wanted in (("activation", "gelu_tanh"), ("norm_first", True), ("causal", True)):
        _need(given[name] == wanted, blocks, f"has {name} {given[name]!r} in", repr(wanted))
    tensors: dict[str, tuple[Weight, ...]] = {
        "token_embd.weight": ((embedding.place, "weight"),),
        "position_embd.weight": ((position.place, "position"),),
        "output_norm.weight": ((place, f"{norm}weight"),),
        "output_norm.bias": ((place, f"{norm}bias"),),
        "output.weight": ((head.place, "output.weight"),),
    }
    layers = [(*block.place, number) for block in blocks for number in range(block.given["layers"])]
    for number, layer in enumerate(layers):
        for kind in ("weight", "bias"):
            three = tuple((layer, f"attention.{part}.{kind}") for part in ("query", "key", "value"))
            tensors[f"blk.{number}.attn_qkv.{kind}"] = three
            for ours, theirs in _GPT2_PARTS:
                tensors[f"blk.{number}.{theirs}.{kind}"] = ((layer, f"{ours}.{kind}"),)
    context = max(position.given["length"] or 0, shape[0])
    settings: dict[str, int | float] = {
        **_sizes(len(layers), embedding.given["dimension"], [context], given, head),
        "attention.layer_norm_epsilon": float(given["epsilon"]),
    }
    return LanguageModel("gpt2", settings, tensors, head.given["vocabulary"], shape[0], head.given["last"])


def _sizes(
    blocks: int, width: int, shape: list[int], given: Mapping[str, Any], head: _Step
) -> dict[str, int | float]:
    return {
        "context_length": shape[0],
        "embedding_length": width,
        "block_count": blocks,
        "feed_forward_length": given["feed_forward"],
        "attention.head_count": given["heads"],
        "vocab_size": head.given["vocabulary"],
    }
