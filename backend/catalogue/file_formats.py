"""Which file formats can hold a type, and what they make of it: the one place that says so.

Tests export every type to every format named here, and run it there.
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.catalogue.record import MODEL_CATEGORIES, Category
from backend.onnx_node import TYPE as OPERATOR

ALL_FORMATS = frozenset({"cyxmodel", "onnx", "safetensors", "gguf", "pytorch"})
PREPARATIONS = frozenset({"Normalize", "OneHotEncode", "Tokenize"})
"""What the preprocessing inside an ONNX is made of."""
LANGUAGE_MODEL_TYPES = frozenset(
    {"Embedding", "PositionalEncoding", "TransformerEncoder", "LayerNorm", "LlamaBlock", "RMSNorm",
     "TokenHead", "Repeat", "Dropout", "SpatialDropout", "StochasticDepth", "Identity", "Input", "Output"}
)  # fmt: skip
"""What a llama and a GPT-2 are made of; the last few do nothing once a model is trained."""

_WITH_GRAPH = "in the graph, which is in the file's metadata"
_SCRIPT = "in the training script that cyxwiz code --training writes"
_NO_TRAINING = "an ONNX holds a model, and nothing of how it is trained"
ONNX_ALONE = "an operator of ONNX, which only onnxruntime computes"
_NO_DATA = "an ONNX holds a model, and nothing of the data that it was trained on"


def formats_of(name: str, category: Category) -> frozenset[str]:
    """The formats that can hold a type of this name and category."""
    if name == OPERATOR:
        return frozenset({"cyxmodel", "onnx"})
    if category in MODEL_CATEGORIES or name in PREPARATIONS:
        return ALL_FORMATS
    return ALL_FORMATS - {"onnx"}


def format_notes(name: str, category: Category) -> Mapping[str, str]:
    """By format: how it holds the type, or why it cannot."""
    if name == OPERATOR:
        return {"onnx": "as it was"} | dict.fromkeys(("safetensors", "gguf", "pytorch"), ONNX_ALONE)
    if category in MODEL_CATEGORIES:
        return {"gguf": _in_gguf(name)}
    notes = {"safetensors": _WITH_GRAPH, "gguf": _WITH_GRAPH, "pytorch": _SCRIPT}
    if name in PREPARATIONS:
        return notes | {"onnx": "as part of the model, with --with-preprocessing"}
    return notes | {"onnx": _NO_DATA if category is Category.DATA else _NO_TRAINING}


def _in_gguf(name: str) -> str:
    if name in LANGUAGE_MODEL_TYPES:
        return "llama.cpp runs it in a graph that is a llama or a GPT-2; else as a tensor container"
    return "as a tensor container, which CyxWiz reads back and llama.cpp refuses"
