"""What people have, an image file, a text, a row of a table, to the arrays that a model takes. No torch.

The way in of a server::

    form = read_form(load_graph(model.graph), model.notes)
    ready = to_arrays(form, items)                  # ready.arrays: name -> (N, ...), as the runtime takes it
    answers = to_answers(form, runtime.run(ready.arrays), ready.lengths)    # one object an item, JSON-ready

By ``form.kind`` an item is

- ``image``: the bytes of an image file (brought to the size and channels of training), or its pixels as
  nested lists or an array, (H, W), (H, W, C) or (C, H, W), in the values of training;
- ``text``: a str; longer ones are cut (a language model keeps the end), shorter ones padded;
- ``table``: a mapping of columns to values, as the table had them before any encoding; a text column takes
  one of the texts seen in training; a missing value is None, NaN or absent, and filled in where training did;
- ``series``: the window as rows of numbers, oldest first, one number for each series;
- anything: numbers of the shape of one sample.

The normalization of training is not applied here: the runtime does that. Pillow and tokenizers are
imported when the first image or text comes; whoever closes a sandbox imports them before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from backend.errors import DatasetError, InputError
from backend.facts import MISSING_TEXT, is_no_number
from backend.formats.tensors import Array
from backend.model_form import InputForm, ModelForm
from backend.runtime.deadlines import check_deadline

MAX_ITEMS = 65_536
MAX_TEXT_CHARACTERS = 1 << 20
MAX_IMAGE_BYTES = 64 << 20
PAD = "<pad>"
_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class RawInputs:
    arrays: Mapping[str, Array]
    lengths: tuple[int, ...]
    """Of each text, in tokens, cut as it entered; empty for anything else."""


def to_arrays(form: ModelForm, items: Sequence[Any]) -> RawInputs:
    """Raises InputError, which says which item is wrong and what is allowed, and DeadlineError."""
    if len(form.inputs) != 1:
        names = ", ".join(given.name for given in form.inputs)
        raise InputError(f"the model takes several inputs ({names}): send each as an array")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InputError(f"{len(items)} items, allowed are 1 to {MAX_ITEMS}")
    (given,) = form.inputs
    lengths: list[int] = []
    rows = np.empty((len(items), *given.shape), np.int64 if given.ids else np.float32)
    for number, item in enumerate(items):
        check_deadline()
        try:
            rows[number], length = _one(form, given, item)
        except (InputError, DatasetError) as error:
            raise InputError(f"item {number + 1}: {error}") from error
        lengths += [length] if length else []
    return RawInputs({given.name: rows}, tuple(lengths))


def _one(form: ModelForm, given: InputForm, item: Any) -> tuple[Array, int]:
    """The sample, and for a text its tokens."""
    match form.kind, item:
        case "image", bytes() | bytearray() | memoryview():
            return _image_file(form, given, bytes(item)), 0
        case "image", _:
            return _pixels(given, item), 0
        case "text", str():
            return _text(form, given, item)
        case "table", Mapping():
            return _table_row(form, given, item), 0
        case "series", _:
            return _window(given, item), 0
        case _:
            return _ids(given, _numbers(item, given.shape)), 0


# -- images --------------------------------------------------------------------------------------


def _image_file(form: ModelForm, given: InputForm, data: bytes) -> Array:
    from backend.readers.images import decode_pixels

    if len(data) > MAX_IMAGE_BYTES:
        raise InputError(f"image of {len(data)} bytes, limit {MAX_IMAGE_BYTES}")
    if not form.notes.white or given.shape[0] not in (1, 3):
        raise InputError("the model was trained on arrays of unknown scale: send pixels as numbers")
    channels, height, width = given.shape
    pixels = decode_pixels(data, (channels, height, width)).astype(np.float32)
    scaled: Array = pixels * np.float32(form.notes.white / 255.0)
    return scaled


def _pixels(given: InputForm, item: Any) -> Array:
    found = _as_numbers(item)
    channels, height, width = given.shape
    if found.shape == (height, width) and channels == 1:
        return found[None]
    if found.shape == (height, width, channels) and found.shape != given.shape:
        return found.transpose(2, 0, 1)
    return _numbers(found, given.shape)


# -- texts ---------------------------------------------------------------------------------------


def _text(form: ModelForm, given: InputForm, text: str) -> tuple[Array, int]:
    if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
        raise InputError(f"text of {len(text)} characters, allowed are 1 to {MAX_TEXT_CHARACTERS}")
    (length,) = given.shape
    ids, pad = (list(text.encode()), 0) if form.takes_bytes else _tokens(form.notes.tokenizer, text)
    ids = ids[-length:] if form.continues_text else ids[:length]
    row = np.full(length, pad, np.int64)
    row[: len(ids)] = ids
    return row, max(1, len(ids))


def _tokens(tokenizer: str, text: str) -> tuple[list[int], int]:
    if not tokenizer:
        raise InputError("the model has no tokenizer: send tokens as numbers")
    from backend.readers.text import encode_all

    loaded = _load_tokenizer(tokenizer)
    return encode_all(loaded, [text])[0], loaded.token_to_id(PAD) or 0


@lru_cache(maxsize=4)
def _load_tokenizer(text: str) -> Any:
    """Cuts and pads nothing."""
    from backend.readers.text import load_tokenizer

    tokenizer = load_tokenizer(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_texts(tokenizer: str, ids: Sequence[int]) -> list[str]:
    """Each token as text. Raises DatasetError for what is no tokenizer."""
    loaded = _load_tokenizer(tokenizer)
    return [str(loaded.decode([number], skip_special_tokens=False)) for number in ids]


# -- tables --------------------------------------------------------------------------------------


def _table_row(form: ModelForm, given: InputForm, row: Mapping[str, Any]) -> Array:
    names = form.notes.input_names
    if given.shape != (len(names),):
        raise InputError("the model does not know the names of its inputs: send a list of numbers")
    fills = form.notes.input_fills
    used: set[str] = set()
    said = {column: None if _says_missing(names, column, value) else value for column, value in row.items()}
    values = [_cell(name, said, fills[at] if fills else None, used) for at, name in enumerate(names)]
    strange = [column for column in row if column not in used]
    if strange:
        known = ", ".join(_columns(names, row))[:400]
        raise InputError(f"no column {str(strange[0])[:80]!r}, there are {known}")
    _check_texts(names, row, values)
    return np.array(values, np.float32)


def _says_missing(names: tuple[str, ...], column: str, value: Any) -> bool:
    """As the reader of tables took it, unless it is one of the texts that the column held."""
    return isinstance(value, str) and is_no_number(value) and f"{column}={value}" not in names


def _cell(name: str, row: Mapping[str, Any], fill: float | None, used: set[str]) -> float:
    """The value of one input: a number, or whether a column of texts holds this one."""
    column, text = _split_name(name, row)
    value = row.get(column)
    used.add(column)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    if text is not None:
        return float(text == (MISSING_TEXT if missing else str(value)))
    if not missing:
        return _number(column, value)
    if fill is None:
        raise InputError(f"column {column!r} is missing")
    return fill


def _split_name(name: str, row: Mapping[str, Any]) -> tuple[str, str | None]:
    """``colour=red`` is text ``red`` of column ``colour``, unless the row has a column of that name."""
    column, mark, text = name.partition("=")
    return (column, text) if mark and name not in row else (name, None)


def _columns(names: tuple[str, ...], row: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_split_name(name, row)[0] for name in names))


def _number(column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"column {column!r} is {str(value)[:80]!r}, expected a number") from error
    if not abs(number) <= _MOST:
        raise InputError(f"column {column!r} is {number}, expected a finite number that float32 can hold")
    return number


def _check_texts(names: tuple[str, ...], row: Mapping[str, Any], values: Sequence[float]) -> None:
    """Every column of texts must have matched one of those seen in training."""
    seen: dict[str, list[str]] = {}
    matched: set[str] = set()
    for name, value in zip(names, values, strict=True):
        column, text = _split_name(name, row)
        if text is not None:
            seen.setdefault(column, []).append(text)
            matched |= {column} if value else set()
    for column, texts in seen.items():
        if column not in matched:
            found, allowed = str(row.get(column))[:80], ", ".join(texts)[:400]
            raise InputError(f"column {column!r} is {found!r}, allowed are {allowed}")


# -- numbers -------------------------------------------------------------------------------------


def _window(given: InputForm, item: Any) -> Array:
    """(series, steps) of rows in time; a single series may come as a plain list."""
    found = _as_numbers(item)
    if found.ndim == 1 and given.shape == (1, len(found)):
        return found[None]
    if found.shape == given.shape[::-1] and found.ndim == 2:
        return found.T
    return _numbers(found, given.shape)


def _numbers(item: Any, shape: tuple[int, ...]) -> Array:
    found = _as_numbers(item)
    if found.shape != shape:
        raise InputError(f"shaped {found.shape}, allowed is {shape}")
    return found


def _ids(given: InputForm, found: Array) -> Array:
    if given.ids and not ((found >= 0) & (found < given.ids) & (found == np.floor(found))).all():
        raise InputError(f"holds what is no id, allowed are whole numbers from 0 to {given.ids - 1}")
    return found


def _as_numbers(item: Any) -> Array:
    try:
        # Of texts among numbers numpy would make texts, each as long as the longest.
        numbers: Array = np.asarray(item, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"no array of numbers: {error}") from error
    if not (np.abs(numbers) <= _MOST).all():
        raise InputError("holds NaN, infinity or a number that float32 cannot hold")
    return numbers
