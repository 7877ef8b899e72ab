"""Attention and transformer layers compute what torch's own do, and what llama.cpp does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from backend.compiler import compile_graph
from backend.layers.attention import Attention, RotaryEmbedding
from tests.unit.backend.catalogue_cases import Case, graph_of

T, WIDTH, HEADS = 5, 8, 2


def built(type_name: str, shapes: tuple[tuple[int, ...], ...], **given: Any) -> nn.Module:
    return compile_graph(graph_of(Case(type_name, given, shapes))).module.eval()


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    width = theirs.embed_dim
    with torch.no_grad():
        for index, layer in enumerate((ours.query, ours.key, ours.value)):
            layer.weight.copy_(theirs.in_proj_weight[index * width : (index + 1) * width])
            layer.bias.copy_(theirs.in_proj_bias[index * width : (index + 1) * width])
        ours.output.load_state_dict(theirs.out_proj.state_dict())


def copy_block(ours: Any, theirs: Any, *, cross: bool) -> None:
    copy_attention(ours.attention, theirs.self_attn)
    norms = [
        (ours.attention_norm, theirs.norm1),
        (ours.feed_forward_norm, theirs.norm3 if cross else theirs.norm2),
    ]
    if cross:
        copy_attention(ours.cross, theirs.multihead_attn)
        norms.append((ours.cross_norm, theirs.norm2))
    for mine, other in [*norms, (ours.up, theirs.linear1), (ours.down, theirs.linear2)]:
        mine.load_state_dict(other.state_dict())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_block_is_torchs(norm_first: bool, activation: str) -> None:
    module = built(
        "TransformerEncoder",
        ((T, WIDTH),),
        heads=HEADS,
        feed_forward=12,
        norm_first=norm_first,
        activation=activation,
        causal=True,
    )
    reference = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 12, 0.0, activation, batch_first=True, norm_first=norm_first
    ).eval()
    copy_block(module.get_submodule("node.0"), reference, cross=False)
    x = torch.randn(3, T, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    assert torch.allclose(module(x), reference(x, src_mask=mask, is_causal=True), atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_decoder_block_is_torchs(norm_first: bool) -> None:
    module = built(
        "TransformerDecoder",
        ((T, WIDTH), (3, WIDTH)),
        heads=HEADS,
        feed_forward=12,
        norm_first=norm_first,
        activation="relu",
    )
    reference = nn.TransformerDecoderLayer(
        WIDTH, HEADS, 12, 0.0, batch_first=True, norm_first=norm_first
    ).eval()
    copy_block(module.get_submodule("node.0"), reference.eval(), cross=True)
    x, memory = torch.randn(2, T, WIDTH), torch.randn(2, 3, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    expected = reference(x, memory, tgt_mask=mask, tgt_is_causal=True)
    assert torch.allclose(module(x, memory), expected, atol=1e-5)


def test_a_llama_block_is_the_published_formula() -> None:
    module = built("LlamaBlock", ((T, WIDTH),), heads=4, kv_heads=2, feed_forward=6)
    block: Any = module.get_submodule("node")
    x = torch.randn(2, T, WIDTH)

    def rotated(y: torch.Tensor) -> torch.Tensor:
        """(N, steps, heads, size): neighbours as complex numbers, turned by step x 10000^(-2 i / size)."""
        size = y.shape[-1]
        speeds = 10_000.0 ** (-torch.arange(0, size, 2) / size)
        turns = torch.polar(torch.ones(T, size // 2), torch.outer(torch.arange(T), speeds))
        pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

    normed = functional.rms_norm(x, (WIDTH,), block.attn_norm.weight, 1e-5)
    q = rotated(block.attn_q(normed).unflatten(-1, (4, 2)))
    k = rotated(block.attn_k(normed).unflatten(-1, (2, 2))).repeat_interleave(2, 2)
    v = block.attn_v(normed).unflatten(-1, (2, 2)).repeat_interleave(2, 2)
    scores = torch.einsum("nqhs,nkhs->nhqk", q, k) / 2**0.5
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    y = x + block.attn_output(torch.einsum("nhqk,nkhs->nqhs", scores, v).flatten(-2))
    normed = functional.rms_norm(y, (WIDTH,), block.ffn_norm.weight, 1e-5)
    y = y + block.ffn_down(functional.silu(block.ffn_gate(normed)) * block.ffn_up(normed))
    assert torch.allclose(module(x), y, atol=1e-5)
    assert set(dict(block.named_parameters())) == {
        f"{name}.weight"
        for name in (
            *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
            *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
        )
    }


@pytest.mark.parametrize(
    "name", ["SelfAttention", "GroupedQueryAttention", "LinearAttention", "TransformerEncoder"]
)
def test_a_causal_layer_does_not_see_what_comes_later(name: str) -> None:
    given = {"heads": 2, "causal": True}
    module = built(name, ((T, WIDTH),), **given)
    x = torch.randn(1, T, WIDTH)
    changed = x.clone()
    changed[:, 3:] += 1.0
    before, after = module(x), module(changed)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)


def test_linear_attention_is_attention_with_another_kernel() -> None:
    module = built("LinearAttention", ((T, WIDTH),), heads=1, causal=True)
    layer: Any = module.get_submodule("node")
    x = torch.randn(2, T, WIDTH)
    q, k = (functional.elu(part(x)) + 1 for part in (layer.query, layer.key))
    weights = (q @ k.transpose(1, 2)).tril()
    expected = layer.output((weights / weights.sum(-1, keepdim=True)) @ layer.value(x))
    assert torch.allclose(module(x), expected, atol=1e-4)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rotary = RotaryEmbedding(T, WIDTH, 10_000.0)
    q, k = torch.randn(WIDTH), torch.randn(WIDTH)
    turned_q, turned_k = rotary(q.expand(T, WIDTH)), rotary(k.expand(T, WIDTH))
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(T), atol=1e-5)
    assert torch.allclose(turned_q[1] @ turned_k[0], turned_q[4] @ turned_k[3], atol=1e-5)
