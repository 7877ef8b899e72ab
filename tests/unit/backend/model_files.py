"""Small models to export: graphs, and .cyxmodels with drawn weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backend.catalogue import CATALOGUE
from backend.checkpoint import capture_weights
from backend.compiler import compile_graph
from backend.facts import DataNotes
from backend.formats.cyxmodel import CyxModel, Normalization, TrainingState, write_cyxmodel
from backend.graph import Body, Graph, Link, Node
from backend.serialize import dump_graph

TOKENS = 64
NOTHING = DataNotes()


def chain(*nodes: Node, name: str = "small") -> Graph:
    links = [Link(a.id, "output", b.id, CATALOGUE[b.type].inputs[0].name) for a, b in pairwise(nodes)]
    return Graph(name, nodes, tuple(links))


def door(*shape: int, **given: Any) -> Node:
    return Node("in", "Input", 1, {"shape": list(shape), **given})


OUT = Node("out", "Output")


def save(
    path: Path,
    graph: Graph,
    normalization: Normalization | None = None,
    *,
    factor: float = 1.0,
    notes: DataNotes = NOTHING,
) -> Path:
    """With weights as they are drawn, times ``factor``, and some state of an optimizer."""
    weights = capture_weights(compile_graph(graph).module)
    scaled = {name: (w * factor).astype(w.dtype) for name, w in weights.items()}
    state = TrainingState(1, 1, 1, 1, 0, 10, (1,), 0, normalization)
    write_cyxmodel(path, CyxModel(dump_graph(graph), scaled, state, (), {"0.step": np.zeros(1)}, notes))
    return path


def image_model() -> Graph:
    """With a number without axes (BatchNorm's count) and weights of five axes."""
    return chain(
        door(1, 4, 4, 4),
        Node("conv", "Conv3D", 1, {"filters": 2, "kernel_size": 2}),
        Node("norm", "BatchNorm"),
        Node("flat", "Flatten"),
        Node("dense", "Dense", 1, {"units": 3}),
        OUT,
    )


LLAMA = {"heads": 4, "kv_heads": 2, "feed_forward": 64, "rope_base": 5000.0}
GPT2 = {"layers": 2, "heads": 4, "feed_forward": 64, "activation": "gelu_tanh", "causal": True}


def llama(
    *, block: dict[str, Any] | None = None, head: dict[str, Any] | None = None, tokens: int = TOKENS
) -> Graph:
    inner = Node("block", "LlamaBlock", 1, LLAMA)
    body = Body(
        (Node("i", "Input"), inner, Node("o", "Output")),
        (Link("i", "output", "block", "input"), Link("block", "output", "o", "input")),
    )
    return chain(
        door(16, vocabulary=tokens),
        Node("embedding", "Embedding", 1, {"vocabulary": tokens, "dimension": 32}),
        Node("drop", "Dropout"),
        Node("blocks", "Repeat", 1, {"times": 2}, body=body),
        Node("last block", "LlamaBlock", 1, {**LLAMA, **(block or {})}),
        Node("head", "TokenHead", 1, {"vocabulary": tokens, **(head or {})}),
        OUT,
    )


def gpt2(**block: Any) -> Graph:
    return chain(
        door(16, vocabulary=TOKENS),
        Node("embedding", "Embedding", 1, {"vocabulary": TOKENS, "dimension": 32}),
        Node("position", "PositionalEncoding", 1, {"method": "learned"}),
        Node("blocks", "TransformerEncoder", 1, {**GPT2, **block}),
        Node("norm", "LayerNorm"),
        Node("head", "TokenHead", 1, {"vocabulary": TOKENS, "norm": "none", "last": True}),
        OUT,
    )


def pipeline(normalize: str = "mean_std") -> Graph:
    """A graph that can be trained, with normalization and one-hot targets in front of it."""
    nodes = (
        Node("data", "DatasetInput", 1, {"sample_shape": [2, 3], "classes": 3}),
        Node("normalize", "Normalize", 1, {"method": normalize}),
        Node("loader", "DataLoader", 1, {"batch_size": 4}),
        Node("in", "Input"),
        Node("flat", "Flatten"),
        Node("dense", "Dense", 1, {"units": 3}),
        OUT,
        Node("loss", "CrossEntropyLoss"),
        Node("sgd", "SGD"),
    )
    links = (
        Link("data", "dataset", "normalize", "dataset"),
        Link("normalize", "dataset", "loader", "dataset"),
        Link("loader", "samples", "in", "input"),
        Link("in", "output", "flat", "input"),
        Link("flat", "output", "dense", "input"),
        Link("dense", "output", "out", "input"),
        Link("out", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "sgd", "loss"),
    )
    return Graph("pipeline", nodes, links)
