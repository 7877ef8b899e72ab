"""Texts to embeddings with a GGUF model through llama.cpp, which pools what the model answers itself.

The model is a Runtime that takes token ids, so that its requests queue like all others; its tokenizer is
the file's own. Which models this is for, their header says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ArchiveError, InputError
from backend.formats.gguf_header import GgufHeader
from backend.formats.tensors import Array
from backend.runtime.base import RuntimeFacts, in_order
from backend.runtime.text_encoder import MAX_CHARACTERS
from backend.serving.messages import RuntimeOptions, TensorSpec

DEFAULT_CONTEXT = 2048
"""All tokens of a text look at each other at once: memory grows with the square."""
_LONGEST_CONTEXT = 8192
_NO_POOLING, _MEAN, _RANK = 0, 1, 4
_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "eurobert"}
)
"""Architectures that cannot go on with a text."""
_IDS, _LENGTHS, _EMBEDDING = "input_ids", "lengths", "sentence_embedding"


def makes_embeddings(header: GgufHeader) -> bool:
    """Raises ArchiveError for a model that ranks, which is neither."""
    pooling = header.metadata.get(f"{header.architecture}.pooling_type", _NO_POOLING)
    if pooling == _RANK:
        raise ArchiveError("this GGUF ranks texts, served are models that generate or embed them")
    if not isinstance(pooling, int) or not _NO_POOLING <= pooling < _RANK:
        raise ArchiveError(f"this GGUF pools by method {str(pooling)[:40]}, llama.cpp knows 0 to {_RANK}")
    return pooling != _NO_POOLING or header.architecture in _ENCODERS


class LlamaEmbedder:
    """One model with one context."""

    def __init__(self, path: Path, header: GgufHeader, options: RuntimeOptions) -> None:
        import llama_cpp

        self._lib = llama_cpp
        trained = header.metadata.get(f"{header.architecture}.context_length")
        longest = trained if isinstance(trained, int) and trained > 0 else DEFAULT_CONTEXT
        self._limit = min(options.context or DEFAULT_CONTEXT, longest, _LONGEST_CONTEXT)
        pooling = header.metadata.get(f"{header.architecture}.pooling_type", _NO_POOLING)
        self._llama = llama_cpp.Llama(
            str(path),
            n_gpu_layers=options.gpu_layers,
            n_ctx=self._limit,
            # A text is looked at as a whole.
            n_batch=self._limit,
            n_ubatch=self._limit,
            n_threads=options.threads or 1,
            n_threads_batch=options.threads or 1,
            embedding=True,
            pooling_type=_MEAN if pooling == _NO_POOLING else llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED,
            verbose=False,
        )
        width = self._llama.n_embd()
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(_IDS, "int64", (-1, -1)),
            TensorSpec(_LENGTHS, "int64", (-1,)),
        )
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec(_EMBEDDING, "float32", (-1, width)),)
        self.encoder = GgufEncoder(self._llama, self._limit)
        self.facts = RuntimeFacts(
            format="gguf",
            runtime=f"llama_cpp {llama_cpp.__version__}",
            devices=("gpu, cpu" if llama_cpp.llama_supports_gpu_offload() and options.gpu_layers else "cpu",),
            size_bytes=header.size_bytes,
            context_tokens=self._limit,
            vocabulary=self._llama.n_vocab(),
        )

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        """A row for each text. Cannot stop itself. Raises InputError."""
        ids, lengths = in_order(inputs, self.inputs)
        if len(ids) != len(lengths) or lengths.min() < 1 or lengths.max() > min(ids.shape[1], self._limit):
            raise InputError(
                f"lengths, allowed are 1 to {min(ids.shape[1], self._limit)} for each row of ids"
            )
        if ids.min() < 0 or ids.max() >= self._llama.n_vocab():
            raise InputError(f"token ids, allowed are 0 to {self._llama.n_vocab() - 1}")
        rows = [self._embed(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]
        return {_EMBEDDING: np.stack(rows)}

    def _embed(self, tokens: list[int]) -> Array:
        lib, context = self._lib, self._llama.ctx
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        try:
            _fill(batch, tokens)
            if lib.llama_decode(context, batch) != 0:
                raise InputError(f"llama.cpp cannot look at these {len(tokens)} tokens")
        finally:
            lib.llama_batch_free(batch)
        found = lib.llama_get_embeddings_seq(context, 0)
        if not found:
            raise InputError("the model pools nothing of this")
        return np.ctypeslib.as_array(found, shape=(self._llama.n_embd(),)).copy()


def _fill(batch: Any, tokens: list[int]) -> None:
    """One sequence, each of whose tokens is asked for: what is pooled is all of them."""
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place] = token
        batch.pos[place] = place
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = True


class GgufEncoder:
    """As ``text_encoder.TextEncoder``, for a model that pools itself."""

    shares_within: int | None = None

    def __init__(self, llama: Any, limit: int) -> None:
        self._llama = llama
        self._limit = limit

    def encode(self, text: str) -> tuple[dict[str, Array], int]:
        """One row for the model, and how many tokens it holds. Raises InputError."""
        if not 0 < len(text) <= MAX_CHARACTERS:
            raise InputError(f"text of {len(text)} characters, allowed are 1 to {MAX_CHARACTERS}")
        return self.from_ids(self._llama.tokenize(text.encode(), add_bos=True, special=False))

    def from_ids(self, ids: list[int]) -> tuple[dict[str, Array], int]:
        """Raises InputError."""
        count = len(ids)
        if not 0 < count <= self._limit or not all(0 <= each < self._llama.n_vocab() for each in ids):
            most = self._llama.n_vocab() - 1
            raise InputError(f"{count} tokens, allowed are 1 to {self._limit} of numbers up to {most}")
        row = np.zeros((1, self._limit), np.int64)
        row[0, :count] = ids
        return {_IDS: row, _LENGTHS: np.array([count], np.int64)}, count

    def pool(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> Array:
        """The embedding of one row, float32, of length one."""
        answer = outputs[_EMBEDDING][0]
        return answer / max(float(np.linalg.norm(answer)), 1e-12)  # type: ignore[no-any-return]
