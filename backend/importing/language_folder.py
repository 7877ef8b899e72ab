"""Language models as Hugging Face's transformers save them: config.json and weights, in GGUF's words.

What becomes a graph is decided there (``backend.importing.language_gguf``): only names, axes and the order
in which rotated numbers lie are different here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from backend.errors import ModelImportError
from backend.formats.gguf_header import GgufValue
from backend.formats.model_folder import LANGUAGE_MODELS, MAX_JSON_BYTES
from backend.formats.tensors import Array

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_ENDS = {
    "embed_tokens.weight": _EMBEDDING, "norm.weight": "output_norm.weight",
    "wte.weight": _EMBEDDING, "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight", "ln_f.bias": "output_norm.bias", "lm_head.weight": _HEAD,
}  # fmt: skip
_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
_LAYER = re.compile(r"(?:layers|h)\.(\d+)\.(.+)\.(weight|bias)")
_NO_WEIGHTS = re.compile(r"rotary_emb\.inv_freq\Z|(?<!\w)attn\.(masked_)?bias\Z")
"""What some versions saved beside the weights."""


class _Llama(msgspec.Struct):
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    max_position_embeddings: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool | None = None


class _Mistral(_Llama):
    """What its config.json leaves out is something else than in a llama's."""

    num_key_value_heads: Size | None = 8
    sliding_window: Size | None = 4096


class _Gpt2(msgspec.Struct):
    n_embd: Size
    n_head: Size
    n_layer: Size
    n_positions: Size
    n_inner: Size | None = None
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool | None = None


def read_config(path: Path) -> Mapping[str, Any] | None:
    """What config.json says, if a graph can be made of such a model.

    Raises ModelImportError for one that is too large to be one.
    """
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ModelImportError(f"{path.name} of {size} bytes, limit {MAX_JSON_BYTES}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("model_type") in LANGUAGE_MODELS else None


def in_words_of_gguf(
    config: Mapping[str, Any], weights: Mapping[str, Array]
) -> tuple[dict[str, GgufValue], dict[str, Array]]:
    """Metadata and tensors. Raises ModelImportError for settings that the graph has not."""
    try:
        if config["model_type"] == "gpt2":
            return _gpt2(msgspec.convert(config, _Gpt2), weights)
        kind = _Mistral if config["model_type"] == "mistral" else _Llama
        return _llama(msgspec.convert(config, kind), weights)
    except msgspec.ValidationError as error:
        raise ModelImportError(f"config.json: {error}") from error


def _llama(config: _Llama, weights: Mapping[str, Array]) -> tuple[dict[str, GgufValue], dict[str, Array]]:
    heads, width = config.num_attention_heads, config.hidden_size
    turning = {**(config.rope_scaling or {}), **(config.rope_parameters or {})}
    _need("hidden_act", config.hidden_act, "silu")
    _need("head_dim", config.head_dim or width // heads, width // heads)
    _need("rope_type", turning.get("rope_type", turning.get("type", "default")), "default")
    # Within one window a model with windows is one without.
    window = config.sliding_window if isinstance(config, _Mistral) else None
    longest = min(config.max_position_embeddings, window or config.max_position_embeddings)
    key_heads = config.num_key_value_heads or heads
    metadata: dict[str, GgufValue] = {
        "general.architecture": "llama",
        "llama.embedding_length": width,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": key_heads,
        "llama.context_length": longest,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": _base(config.rope_theta, turning),
    }
    found = _with_its_head(_renamed(weights), config.tie_word_embeddings)
    for name, values in found.items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            found[name] = _interleaved(name, values, heads if "attn_q" in name else key_heads)
    return metadata, found


def _base(given: float | None, turning: Mapping[str, Any]) -> float:
    """Raises ModelImportError."""
    found = given if given is not None else turning.get("rope_theta", 10_000.0)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise ModelImportError(f"config.json: rope_theta is {ascii(found)[:40]}, must be a number")
    return float(found)


def _interleaved(name: str, values: Array, heads: int) -> Array:
    """Rows as a graph turns them, in pairs side by side: transformers has the halves of a head turn together.

    Raises ModelImportError.
    """
    if values.ndim != 2 or len(values) % (2 * heads):
        raise ModelImportError(f"tensor {name!r} is shaped {values.shape}, must be rows for {heads} heads")
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _gpt2(config: _Gpt2, weights: Mapping[str, Array]) -> tuple[dict[str, GgufValue], dict[str, Array]]:
    if config.activation_function != "gelu_pytorch_tanh":  # another name of the same
        _need("activation_function", config.activation_function, "gelu_new")
    _need("scale_attn_weights", config.scale_attn_weights, True)
    _need("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, False)
    metadata: dict[str, GgufValue] = {
        "general.architecture": "gpt2",
        "gpt2.embedding_length": config.n_embd,
        "gpt2.feed_forward_length": config.n_inner or 4 * config.n_embd,
        "gpt2.block_count": config.n_layer,
        "gpt2.attention.head_count": config.n_head,
        "gpt2.context_length": config.n_positions,
        "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }
    found = _with_its_head(_renamed(weights), config.tie_word_embeddings)
    for name, values in found.items():
        if name.startswith("blk.") and name.endswith(".weight") and values.ndim == 2:
            found[name] = values.T  # these layers keep their matrices the other way round
    return metadata, found


def _renamed(weights: Mapping[str, Array]) -> dict[str, Array]:
    """What has no other name keeps its own, and is refused by it later."""
    return {_name(name): values for name, values in weights.items() if not _NO_WEIGHTS.search(name)}


def _with_its_head(found: dict[str, Array], is_tied: bool | None) -> dict[str, Array]:
    """Raises ModelImportError where the model has none, such as one that makes embeddings.

    ``is_tied``: whether the matrix of the embedding is the head's, which then counts for nothing; None where
    nobody says: it is where there is no other.
    """
    if is_tied and _EMBEDDING in found:
        return {name: values for name, values in found.items() if name != _HEAD}
    if is_tied is False and _HEAD not in found:
        raise ModelImportError(
            "no lm_head.weight, and tie_word_embeddings is false: taken over are models that give tokens"
        )
    return found


def _name(name: str) -> str:
    short = name.removeprefix("model.").removeprefix("transformer.")
    layer = _LAYER.fullmatch(short)
    if layer is not None and layer[2] in _PARTS:
        return f"blk.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}"
    return _ENDS.get(short, name)


def _need(name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ModelImportError(f"config.json: {name} is {ascii(found)[:60]}, taken over is {wanted!r}")
