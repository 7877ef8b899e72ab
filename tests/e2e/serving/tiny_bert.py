"""A BERT of fourteen words with drawn weights, as a GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.formats.gguf_header import GgufValue
from backend.formats.gguf_write import GgufPiece, write_gguf

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *("▁a", "▁the", "▁cat", "▁dog", "▁car", "▁sits", "▁runs", "▁fast", "s"))
WIDTH, FEED_FORWARD, CONTEXT, LAYERS = 32, 64, 64, 2


def write_bert(path: Path, pooling: int) -> None:
    """``pooling`` as llama.cpp numbers it: 0 none, 1 mean, 4 rank."""
    metadata: dict[str, GgufValue] = {
        "general.architecture": "bert",
        "bert.context_length": CONTEXT,
        "bert.embedding_length": WIDTH,
        "bert.block_count": LAYERS,
        "bert.feed_forward_length": FEED_FORWARD,
        "bert.attention.head_count": 4,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": (3, 2, 3, 3, 3, *(1 for _ in WORDS[5:])),
        "tokenizer.ggml.token_type_count": 2,
    }
    roles = ("padding", "unknown", "cls", "seperator", "mask")
    metadata |= {f"tokenizer.ggml.{role}_token_id": number for number, role in enumerate(roles)}
    metadata |= {"tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 3}
    random, pieces = np.random.RandomState(0), []

    def add(name: str, *shape: int) -> None:
        pieces.append(GgufPiece(name, "f32", (random.randn(*shape) * 0.3).astype(np.float32)))

    add("token_embd.weight", len(WORDS), WIDTH)
    add("token_types.weight", 2, WIDTH)
    add("position_embd.weight", CONTEXT, WIDTH)
    both = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    both |= {"ffn_up": (FEED_FORWARD, WIDTH), "ffn_down": (WIDTH, FEED_FORWARD)}
    for block in (f"blk.{number}." for number in range(LAYERS)):
        for name, shape in both.items():
            add(f"{block}{name}.weight", *shape)
            add(f"{block}{name}.bias", shape[0])
    norms = [f"blk.{n}.{name}" for n in range(LAYERS) for name in ("attn_output_norm", "layer_output_norm")]
    for name in ("token_embd_norm", *norms):
        add(f"{name}.weight", WIDTH)
        add(f"{name}.bias", WIDTH)
    write_gguf(path, metadata, pieces)
