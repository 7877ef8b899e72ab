"""Embedding, attention and transformer modules over (N, steps, features).

Attention runs through torch's fused kernel. Names of weights are those that transformers have
elsewhere: LlamaBlock's are the ones of a llama GGUF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from backend.layers.emitter import Builder, Emitter, Site

ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def in_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, steps, heads x size) to (N, heads, steps, size)"""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def out_of_heads(x: torch.Tensor) -> torch.Tensor:
    """(N, heads, steps, size) to (N, steps, heads x size)"""
    return x.transpose(1, 2).flatten(-2)


# -- positions -----------------------------------------------------------------------------------


def rotary_table(steps: int, size: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of step x base^(-2 i / size), each (steps, size / 2)."""
    speeds = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(steps, dtype=torch.float64), speeds)
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Turns the pairs of the last axis of (..., steps, size): neighbours, or first and second half."""
    if interleaved:
        a, b = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
        return torch.stack((a * cosine - b * sine, a * sine + b * cosine), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, a * sine + b * cosine), -1)


class RotaryEmbedding(nn.Module):
    """Rotates (..., steps, features) in parts of ``size`` features."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, steps: int, size: int, base: float, *, interleaved: bool = True) -> None:
        super().__init__()
        self.size, self.base = size, base
        self.interleaved = interleaved
        cosine, sine = rotary_table(steps, size, base)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.shape[-2]
        cosine, sine = self.cosine[:steps], self.sine[:steps]
        if x.shape[-1] == self.size:
            return rotate(x, cosine, sine, self.interleaved)
        parts = torch.unflatten(x, -1, (-1, self.size)).transpose(-2, -3)
        return rotate(parts, cosine, sine, self.interleaved).transpose(-2, -3).flatten(-2)


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of different lengths (Vaswani et al. 2017), or learned vectors."""

    def __init__(self, steps: int, width: int, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.position = nn.Parameter(torch.randn(steps, width) * 0.02)
        else:
            cosine, sine = rotary_table(steps, width + width % 2, 10_000.0)
            table = torch.stack((sine, cosine), -1).flatten(-2)[:, :width]
            self.register_buffer("position", table, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position[: x.shape[-2]]


# -- attention -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Scaled dot-product attention of several heads; query, key and value may differ."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        heads: int,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        width, key_width, value_width = widths
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(key_width, width, bias)
        self.value = nn.Linear(value_width, width, bias)
        self.output = nn.Linear(width, width, bias)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        answer = functional.scaled_dot_product_attention(
            in_heads(self.query(query), self.heads),
            in_heads(self.key(key), self.heads),
            in_heads(self.value(value), self.heads),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        return self.output(out_of_heads(answer))  # type: ignore[no-any-return]


class GroupedAttention(nn.Module):
    """Causal or not, rotated or not; each key and value serves ``heads / kv_heads`` queries."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        *,
        causal: bool,
        dropout: float,
        bias: bool,
        rotary: tuple[int, float] | None,
    ) -> None:
        """``rotary``: steps and base of the rotation of queries and keys."""
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.causal, self.dropout = causal, dropout
        size = width // heads
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, size * kv_heads, bias)
        self.value = nn.Linear(width, size * kv_heads, bias)
        self.output = nn.Linear(width, width, bias)
        self.rotary: nn.Module = RotaryEmbedding(rotary[0], size, rotary[1]) if rotary else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = functional.scaled_dot_product_attention(
            self.rotary(in_heads(self.query(x), self.heads)),
            self.rotary(in_heads(self.key(x), self.kv_heads)),
            in_heads(self.value(x), self.kv_heads),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
            enable_gqa=self.kv_heads != self.heads,
        )
        return self.output(out_of_heads(answer))  # type: ignore[no-any-return]


class LinearAttention(nn.Module):
    """Attention with the kernel elu(x) + 1 in place of softmax (Katharopoulos et al. 2020): O(steps)."""

    def __init__(self, width: int, heads: int, *, causal: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, width, bias)
        self.value = nn.Linear(width, width, bias)
        self.output = nn.Linear(width, width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = functional.elu(in_heads(self.query(x), self.heads)) + 1
        key = functional.elu(in_heads(self.key(x), self.heads)) + 1
        value = in_heads(self.value(x), self.heads)
        if self.causal:
            seen = (key.unsqueeze(-1) * value.unsqueeze(-2)).cumsum(2)
            found = (query.unsqueeze(-2) @ seen).squeeze(-2)
            weight = (query * key.cumsum(2)).sum(-1, keepdim=True)
        else:
            found = query @ (key.transpose(-1, -2) @ value)
            weight = query @ key.sum(2).unsqueeze(-1)
        return self.output(out_of_heads(found / (weight + 1e-6)))  # type: ignore[no-any-return]


# -- transformers --------------------------------------------------------------------------------


class TransformerBlock(nn.Module):
    """Self-attention, attention to ``memory`` if it has one, two dense layers; each part is added.

    The same as torch's TransformerEncoderLayer and TransformerDecoderLayer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        *,
        cross: bool,
        causal: bool,
        dropout: float,
        activation: str,
        norm_first: bool,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.activation = ACTIVATIONS[activation]
        self.attention = Attention((width,) * 3, heads, causal=causal, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width, epsilon)
        if cross:
            self.cross = Attention((width,) * 3, heads, dropout=dropout)
            self.cross_norm = nn.LayerNorm(width, epsilon)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.feed_forward_norm = nn.LayerNorm(width, epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        x = self._add(x, self.attention_norm, lambda y: self.attention(y, y, y))
        if memory is not None:
            x = self._add(x, self.cross_norm, lambda y: self.cross(y, memory, memory))
        return self._add(x, self.feed_forward_norm, self._feed_forward)

    def _add(
        self, x: torch.Tensor, norm: nn.Module, part: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        if self.norm_first:
            return x + self.dropout(part(norm(x)))  # type: ignore[no-any-return]
        return norm(x + self.dropout(part(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))  # type: ignore[no-any-return]


class LlamaBlock(nn.Module):
    """As llama.cpp computes it; the names are those of its tensors ``blk.N.*``."""

    def __init__(
        self,
        steps: int,
        width: int,
        heads: int,
        kv_heads: int,
        feed_forward: int,
        *,
        rope_base: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        size, inner = width // heads, feed_forward
        self.attn_norm = nn.RMSNorm(width, epsilon)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, size * self.kv_heads, bias=False)
        self.attn_v = nn.Linear(width, size * self.kv_heads, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, epsilon)
        self.ffn_gate = nn.Linear(width, inner, bias=False)
        self.ffn_up = nn.Linear(width, inner, bias=False)
        self.ffn_down = nn.Linear(inner, width, bias=False)
        self.rotary = RotaryEmbedding(steps, size, rope_base)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attn_norm(x)
        found = functional.scaled_dot_product_attention(
            self.rotary(in_heads(self.attn_q(y), self.heads)),
            self.rotary(in_heads(self.attn_k(y), self.kv_heads)),
            in_heads(self.attn_v(y), self.kv_heads),
            is_causal=True,
            enable_gqa=self.kv_heads != self.heads,
        )
        x = x + self.attn_output(out_of_heads(found))
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))  # type: ignore[no-any-return]


# -- builders ------------------------------------------------------------------------------------


def _embedding(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = nn.Embedding(site["vocabulary"], site["dimension"], padding_idx=site["padding_id"])
    return emit.module(site.name, layer, *inputs)


def _position(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    steps, width = site.shape
    learned = site["method"] == "learned"
    layer = PositionalEncoding((site["length"] if learned else None) or steps, width, learned=learned)
    return emit.module(site.name, layer, *inputs)


def _rotary(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    *_, steps, width = site.shape
    size = site["head_size"] or width
    layer = RotaryEmbedding(steps, size, site["rope_base"], interleaved=site["interleaved"])
    return emit.module(site.name, layer, *inputs)


def _attention(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    """Of one input to itself, of the first of two to the second, or of three."""
    query, key, value = {1: (0, 0, 0), 2: (0, 1, 1), 3: (0, 1, 2)}[len(inputs)]
    widths = (site.shapes[query][-1], site.shapes[key][-1], site.shapes[value][-1])
    keywords: dict[str, Any] = {name: site[name] for name in ("dropout", "bias")}
    layer = Attention(widths, site["heads"], causal=site.parameters.get("causal", False), **keywords)
    return emit.module(site.name, layer, inputs[query], inputs[key], inputs[value])


def _grouped(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    steps, width = site.shape
    names = ("heads", "kv_heads", "causal", "dropout", "bias")
    keywords: dict[str, Any] = {name: site[name] for name in names}
    keywords["rotary"] = (steps, site["rope_base"]) if site["rotary"] else None
    return emit.module(site.name, GroupedAttention(width, **keywords), *inputs)


def _linear_attention(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = LinearAttention(site.shape[-1], site["heads"], causal=site["causal"], bias=site["bias"])
    return emit.module(site.name, layer, *inputs)


def _transformer(*, cross: bool) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        x, *memory = inputs
        names = ("heads", "feed_forward", "causal", "dropout", "activation", "norm_first", "epsilon")
        keywords: dict[str, Any] = {name: site[name] for name in names}
        for number in range(site["layers"]):
            block = TransformerBlock(site.shape[-1], cross=cross, **keywords)
            x = emit.module(f"{site.name}.{number}", block, x, *memory)
        return x

    return build


def _llama(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    names = ("heads", "kv_heads", "feed_forward", "rope_base", "epsilon")
    keywords: dict[str, Any] = {name: site[name] for name in names}
    return emit.module(site.name, LlamaBlock(*site.shape, **keywords), *inputs)


def _token_head(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    (x,) = inputs
    width = site.shape[-1]
    if site["last"]:
        x = emit.call(torch.select, x, 1, -1)
    if site["norm"] != "none":
        kind = nn.RMSNorm if site["norm"] == "rms" else nn.LayerNorm
        x = emit.module(f"{site.name}.output_norm", kind(width, site["epsilon"]), x)
    return emit.module(f"{site.name}.output", nn.Linear(width, site["vocabulary"], site["bias"]), x)


BUILDERS: dict[str, Builder] = {
    "Embedding": _embedding,
    "PositionalEncoding": _position,
    "RotaryEmbedding": _rotary,
    "MultiHeadAttention": _attention,
    "SelfAttention": _attention,
    "CrossAttention": _attention,
    "GroupedQueryAttention": _grouped,
    "LinearAttention": _linear_attention,
    "TransformerEncoder": _transformer(cross=False),
    "TransformerDecoder": _transformer(cross=True),
    "LlamaBlock": _llama,
    "TokenHead": _token_head,
}
