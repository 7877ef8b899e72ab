"""What a model's arrays mean: class names, probabilities, named numbers. numpy only, JSON-ready.

One object for each item. By what an output holds (``backend.model_form``):

- classes: ``{"class": 3, "name": "Dress", "probability": 0.93, "top": [...]}``, the likeliest ones in full;
- yes or no: ``{"probability": 0.2, "class": 0, "name": "benign"}``;
- a class at each place (segmentation, tagging): ``{"classes": nested list, "names": [...]}``;
- a language model: ``{"next": [{"token": 17, "text": " the", "probability": 0.4}...]}``;
- values: ``{"values": [...]}``, ``{"value": 7.5}`` for a single one, ``{"values": {"price": 7.5}}`` where the
  data named them.

A model with several outputs gives ``{output: object}`` for each item. Class names go to outputs with as
many classes as there are names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.formats.tensors import Array
from backend.model_form import ModelForm, OutputForm
from backend.raw_inputs import token_texts

TOP = 5


def to_answers(
    form: ModelForm, outputs: Mapping[str, Array], lengths: Sequence[int] = (), top: int = TOP
) -> list[dict[str, Any]]:
    """``outputs`` as the runtime gives them; ``lengths`` as ``to_arrays`` does."""
    by_output = {out.name: _of_output(form, out, outputs[out.name], lengths, top) for out in form.outputs}
    if len(by_output) == 1:
        return next(iter(by_output.values()))
    return [dict(zip(by_output, each, strict=True)) for each in zip(*by_output.values(), strict=True)]


def _of_output(
    form: ModelForm, out: OutputForm, found: Array, lengths: Sequence[int], top: int
) -> list[dict[str, Any]]:
    match out.holds:
        case "scores" | "logarithms":
            chances = _chances(out, found)
            if chances.ndim == 2:
                return [_class(form, row, top) for row in chances]
            if form.continues_text:
                return [
                    _next(form, row, at, top) for row, at in zip(chances, _ends(found, lengths), strict=True)
                ]
            return [_places(form, row) for row in chances]
        case "probability" | "score":
            chances = found.astype(np.float64) if out.holds == "probability" else _sigmoid(found)
            return [_yes(form, row) for row in chances]
        case _:
            return [_values(form, row) for row in found]


def _chances(out: OutputForm, found: Array) -> Array:
    """Probabilities along the last axis, float64."""
    scores = np.moveaxis(found.astype(np.float64), out.class_axis, -1)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    chances: Array = powers / powers.sum(axis=-1, keepdims=True)
    return chances


def _sigmoid(found: Array) -> Array:
    chances: Array = 0.5 * (1.0 + np.tanh(0.5 * found.astype(np.float64)))
    return chances


def _ends(found: Array, lengths: Sequence[int]) -> Sequence[int]:
    """Where the last token of each text is."""
    return [length - 1 for length in lengths] if lengths else [found.shape[1] - 1] * len(found)


def _names(form: ModelForm, classes: int) -> tuple[str, ...]:
    names = form.notes.class_names
    return names if len(names) == classes else tuple(map(str, range(classes)))


def _best(row: Array, top: int) -> list[int]:
    order: list[int] = np.argsort(-row, kind="stable")[:top].tolist()
    return order


def _class(form: ModelForm, row: Array, top: int) -> dict[str, Any]:
    names = _names(form, len(row))
    ranked = [
        {"class": at, "name": names[at], "probability": float(row[at])} for at in _best(row, max(1, top))
    ]
    return {**ranked[0], "top": ranked}


def _next(form: ModelForm, row: Array, at: int, top: int) -> dict[str, Any]:
    best = _best(row[at], max(1, top))
    texts = token_texts(form.notes.tokenizer, best) if form.notes.tokenizer else list(map(str, best))
    return {
        "next": [
            {"token": number, "text": text, "probability": float(row[at, number])}
            for number, text in zip(best, texts, strict=True)
        ]
    }


def _places(form: ModelForm, row: Array) -> dict[str, Any]:
    return {"classes": row.argmax(-1).tolist(), "names": list(_names(form, row.shape[-1]))}


def _yes(form: ModelForm, row: Array) -> dict[str, Any]:
    if row.size != 1:
        return {"probabilities": row.tolist()}
    chance = float(row.reshape(-1)[0])
    number = int(chance > 0.5)
    return {"probability": chance, "class": number, "name": _names(form, 2)[number]}


def _values(form: ModelForm, row: Array) -> dict[str, Any]:
    if row.size == 1:
        return {"value": float(row.reshape(-1)[0])}
    names = form.notes.target_names
    if row.shape == (len(names),):
        return {"values": dict(zip(names, row.astype(np.float64).tolist(), strict=True))}
    return {"values": row.astype(np.float64).tolist()}
