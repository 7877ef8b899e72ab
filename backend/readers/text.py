"""Text as tokens: a column of a table to classify, or plain text to continue (language models).

The tokenizer is a byte-level BPE, trained on the text itself unless one is given, and travels with
the dataset, so that whoever serves the model reads text the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backend.catalogue.record import MAX_IDS
from backend.errors import DatasetError
from backend.facts import MAX_TOKENIZER_BYTES, DataNotes
from backend.formats.tensors import Array
from backend.readers import table
from backend.readers.source import ReadOptions, Recipe
from backend.readers.table_file import Table, texts_of

SUFFIXES = frozenset({".txt", ".md", ".rst"})
PAD, BEGIN, END = "<pad>", "<begin>", "<end>"
SPECIAL = (PAD, BEGIN, END)
READ_CHARACTERS = 1 << 20
MIN_VOCABULARY = 256 + len(SPECIAL)
"""All bytes, and the special tokens."""


def matches(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def open(path: Path, options: ReadOptions) -> TokenWindows:
    """Plain text for a language model: each sample predicts its next tokens. Raises DatasetError."""
    tokenizer = _tokenizer(options, _pieces(path))
    size = options.length + 1
    encoded = [np.asarray(encode_all(tokenizer, [piece])[0], np.int32) for piece in _pieces(path)]
    tokens = np.concatenate([np.zeros(0, np.int32), *encoded])
    count = len(tokens) // size
    if not count:
        raise DatasetError(f"{path.name} holds {len(tokens)} tokens, one sample needs {size}")
    notes = DataNotes(tokenizer=tokenizer.to_str(), kind="text")
    recipe = Recipe(
        count, (options.length,), np.dtype(np.int32), (options.length,), np.dtype(np.int64), notes
    )
    return TokenWindows(tokens[: count * size].reshape(count, size), recipe)


def open_column(path: Path, options: ReadOptions) -> LabelledTexts:
    """A table's column of text, with the target of its row. Raises DatasetError."""
    names = Table(path).names
    if options.text not in names:
        raise DatasetError(f"no column {options.text!r}, there are {', '.join(names)[:400]}")
    targets = options.target or (table.usual_target([name for name in names if name != options.text]),)
    unused = tuple(name for name in names if name != options.text and name not in targets)
    # The text column is left out of what is looked at for inputs, but a table of targets alone is none.
    rows = table.open_targets(path, replace(options, target=targets, drop=(options.text, *unused)))
    tokenizer = _tokenizer(options, _column(path, options.text))
    tokenizer.enable_truncation(options.length)
    tokenizer.enable_padding(length=options.length, pad_id=tokenizer.token_to_id(PAD) or 0, pad_token=PAD)
    predicted = () if rows.target.is_class else rows.target.columns
    notes = DataNotes(rows.target.class_names, (), tokenizer.to_str(), "text", predicted)
    recipe = Recipe(
        rows.samples, (options.length,), np.dtype(np.int32), rows.target.shape, rows.target.dtype, notes
    )
    return LabelledTexts(path, options.text, rows, tokenizer, recipe)


@dataclass(frozen=True, slots=True)
class TokenWindows:
    tokens: Array
    """(samples, length + 1) int32."""
    recipe: Recipe

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        yield self.tokens[:, :-1], self.tokens[:, 1:]


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    path: Path
    column: str
    rows: table.TargetRows
    tokenizer: Any
    recipe: Recipe

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        for batch, y in self.rows.batches((self.column,)):
            texts = [text or "" for text in texts_of(batch.column(self.column))]
            ids = encode_all(self.tokenizer, texts)
            yield np.asarray(ids, np.int32).reshape(len(texts), -1), y


def _column(path: Path, name: str) -> Iterator[str]:
    for batch in Table(path).batches([name]):
        yield from (text for text in texts_of(batch.column(name)) if text)


def _pieces(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            while piece := file.read(READ_CHARACTERS):
                yield piece
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} cannot be read as UTF-8 text: {error}") from error


def _tokenizer(options: ReadOptions, texts: Iterator[str]) -> Any:
    """Raises DatasetError."""
    try:
        import tokenizers
    except ImportError as error:
        raise DatasetError("text is read with tokenizers, which is not installed") from error
    if options.tokenizer is not None:
        given = load_tokenizer(_read(options.tokenizer))
        # It may say to cut or fill what it is given: here that can be a whole piece of a file.
        given.no_truncation()
        given.no_padding()
        return given
    if options.vocabulary < MIN_VOCABULARY:
        raise DatasetError(f"vocabulary of {options.vocabulary} tokens, at least {MIN_VOCABULARY} needed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(text: str) -> Any:
    """Raises DatasetError for what is no tokenizer.json."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        _let_pass(error)
        raise DatasetError(f"not a tokenizer.json: {str(error)[:300]}") from error


def _let_pass(error: BaseException) -> None:
    """Raises it, unless it is the library's: that has no class of its own, and what it panics with is no
    Exception."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def encode_all(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each. Raises DatasetError where the tokenizer has none for what it finds."""
    try:
        found: list[list[int]] = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    except BaseException as error:
        _let_pass(error)
        raise DatasetError(f"the tokenizer cannot read the text: {str(error)[:300]}") from error
    highest = max((max(ids, default=0) for ids in found), default=0)
    if highest >= MAX_IDS:
        raise DatasetError(f"the tokenizer has a token {highest}, must be below {MAX_IDS}")
    return found


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise DatasetError(f"{path.name}: {path.stat().st_size} bytes, limit {MAX_TOKENIZER_BYTES}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}") from error
