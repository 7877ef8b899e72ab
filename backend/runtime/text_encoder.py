"""Texts to embeddings: a model that takes token ids, and its tokenizer.

Mean of the last hidden states where the mask says so, scaled to length one, as sentence-transformers
does; a model that pools itself is taken at its word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import ArchiveError, InputError
from backend.formats.tensors import Array
from backend.runtime.base import Runtime

MAX_TOKENS = 512
MAX_TOKENIZER_BYTES = 64 << 20
MAX_CHARACTERS = 1 << 16
_PADDING = 4
"""Texts are padded to a multiple: a runtime keeps something for each length that it has seen."""
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_POOLED = ("sentence_embedding", "pooler_output", "embeddings")


class TextEncoder:
    """Raises ArchiveError for a tokenizer that cannot be read or a model that takes no token ids."""

    shares_within: int | None = 16

    def __init__(self, tokenizer: Path, runtime: Runtime) -> None:
        from tokenizers import Tokenizer

        if tokenizer.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ArchiveError(f"tokenizer above {MAX_TOKENIZER_BYTES} bytes")
        names = {spec.name for spec in runtime.inputs}
        if _IDS not in names or names - {_IDS, _MASK, _TYPES}:
            raise ArchiveError(f"a model of texts takes {_IDS} and {_MASK}, this one {', '.join(names)}")
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ArchiveError(f"tokenizer: {str(error)[:300]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._names = names
        self._dtypes = {spec.name: spec.dtype for spec in runtime.inputs}
        self._output = _output_of(runtime)

    def encode(self, text: str) -> tuple[dict[str, Array], int]:
        """One row for the model, and how many tokens it holds. Raises InputError."""
        if not 0 < len(text) <= MAX_CHARACTERS:
            raise InputError(f"text of {len(text)} characters, allowed are 1 to {MAX_CHARACTERS}")
        return self.from_ids(self._tokenizer.encode(text).ids)

    def from_ids(self, ids: list[int]) -> tuple[dict[str, Array], int]:
        """Raises InputError."""
        if not 0 < len(ids) <= MAX_TOKENS or not all(0 <= each < 1 << 31 for each in ids):
            raise InputError(f"{len(ids)} token ids, allowed are 1 to {MAX_TOKENS}")
        width = min(MAX_TOKENS, -(-len(ids) // _PADDING) * _PADDING)
        row = np.zeros((1, width), np.int64)
        row[0, : len(ids)] = ids
        mask = np.zeros((1, width), np.int64)
        mask[0, : len(ids)] = 1
        arrays = {_IDS: row, _MASK: mask, _TYPES: np.zeros((1, width), np.int64)}
        return {name: arrays[name].astype(self._dtypes[name]) for name in self._names}, len(ids)

    def pool(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> Array:
        """The embedding of one row, float32, of length one."""
        answer = outputs[self._output][0].astype(np.float32)
        if answer.ndim == 2:
            row = inputs.get(_MASK, inputs[_IDS])[0]
            mask = row.astype(np.float32) if _MASK in inputs else np.ones(len(row), np.float32)
            answer = mask @ answer[: len(row)] / max(1.0, float(mask.sum()))
        return answer / max(float(np.linalg.norm(answer)), 1e-12)  # type: ignore[no-any-return]


def _output_of(runtime: Runtime) -> str:
    """Raises ArchiveError."""
    shapes = {spec.name: len(spec.shape) for spec in runtime.outputs}
    for name in _POOLED:
        if shapes.get(name) == 2:
            return name
    hidden = [name for name, dimensions in shapes.items() if dimensions == 3]
    if not hidden:
        raise ArchiveError(f"no output of hidden states among {', '.join(shapes)}")
    return hidden[0]
