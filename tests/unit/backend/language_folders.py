"""Language models as transformers saves them, and what transformers answers, worked out here once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

Weights = dict[str, torch.Tensor]
VOCABULARY, WIDTH, HEADS, KEY_HEADS, INNER, STEPS = 40, 16, 4, 2, 24, 12
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "hidden_act": "silu",
    "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS, "head_dim": 4,
    "num_key_value_heads": KEY_HEADS, "max_position_embeddings": STEPS, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "n_embd": WIDTH, "n_head": HEADS, "n_layer": 2, "n_positions": STEPS,
    "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
}  # fmt: skip


def llama_weights() -> Weights:
    keys = WIDTH // HEADS * KEY_HEADS
    shapes = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (keys, WIDTH),
              "self_attn.v_proj": (keys, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
              "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
              "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}  # fmt: skip
    layers = {f"model.layers.{n}.{name}.weight": shape for n in (0, 1) for name, shape in shapes.items()}
    ends = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    return _drawn({**layers, **ends, "lm_head.weight": (VOCABULARY, WIDTH)})


def gpt2_weights() -> Weights:
    shapes = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH), "ln_1": (WIDTH,),
              "mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH), "ln_2": (WIDTH,)}  # fmt: skip
    found: dict[str, tuple[int, ...]] = {}
    for n in (0, 1):
        for name, shape in shapes.items():
            found[f"transformer.h.{n}.{name}.weight"] = shape
            found[f"transformer.h.{n}.{name}.bias"] = shape[-1:]
    found |= {"transformer.wte.weight": (VOCABULARY, WIDTH), "transformer.wpe.weight": (STEPS, WIDTH)}
    found |= {"transformer.ln_f.weight": (WIDTH,), "transformer.ln_f.bias": (WIDTH,)}
    return _drawn(found) | {"transformer.h.0.attn.bias": torch.ones(1, 1, STEPS, STEPS)}


def _drawn(shapes: dict[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def write_folder(path: Path, config: dict[str, Any], weights: Weights, files: int = 1) -> Path:
    """Of so many files of weights, with an index where there are several."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(weights, path / "model.safetensors")
        return path
    parts = {f"model-{n + 1:05}-of-{files:05}.safetensors": list(weights)[n::files] for n in range(files)}
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, path / file)
    places = {name: file for file, names in parts.items() for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def llama_answers(weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    w = {name: values.float() for name, values in weights.items()}
    x = w["model.embed_tokens.weight"][ids]
    for n in (0, 1):
        part = {k.removeprefix(f"model.layers.{n}."): v for k, v in w.items() if f"layers.{n}." in k}
        y = _rms(x, part["input_layernorm.weight"])
        q, k, v = (_heads(y @ part[f"self_attn.{each}_proj.weight"].T) for each in "qkv")
        k, v = (each.repeat_interleave(HEADS // KEY_HEADS, 1) for each in (k, v))
        mixed = functional.scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True)
        x = x + mixed.transpose(1, 2).flatten(2) @ part["self_attn.o_proj.weight"].T
        y = _rms(x, part["post_attention_layernorm.weight"])
        gate = functional.silu(y @ part["mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ part["mlp.up_proj.weight"].T)) @ part["mlp.down_proj.weight"].T
    return _rms(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def _rms(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * scale


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)


def _turned(x: torch.Tensor) -> torch.Tensor:
    """The halves of a head together, as transformers does it."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 500.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    parts = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    return torch.cat(parts, -1)


def gpt2_answers(weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    w = {name.removeprefix("transformer."): values for name, values in weights.items()}
    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
    for n in (0, 1):
        part = {k.removeprefix(f"h.{n}."): v for k, v in w.items() if k.startswith(f"h.{n}.")}
        y = functional.layer_norm(x, (WIDTH,), part["ln_1.weight"], part["ln_1.bias"])
        q, k, v = (_heads(each) for each in _affine(part, "attn.c_attn", y).split(WIDTH, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + _affine(part, "attn.c_proj", mixed)
        y = functional.layer_norm(x, (WIDTH,), part["ln_2.weight"], part["ln_2.bias"])
        y = functional.gelu(_affine(part, "mlp.c_fc", y), approximate="tanh")
        x = x + _affine(part, "mlp.c_proj", y)
    return functional.layer_norm(x, (WIDTH,), w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T


def _affine(part: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ part[f"{name}.weight"] + part[f"{name}.bias"]
