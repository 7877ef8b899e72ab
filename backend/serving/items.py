"""What people have, to a model that knows its inputs: images, texts and rows of tables in requests.

The model's own notes say which; what comes is decoded in the model's thread, inside the sandbox.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Callable
from typing import Any

from backend.answers import to_answers
from backend.errors import InputError
from backend.model_form import ModelForm
from backend.raw_inputs import RawInputs, to_arrays
from backend.serving.host import Resident
from backend.serving.http import Call

MAX_ITEMS = 4096
CSV = b"text/csv"
TEXT = b"text/plain"
IMAGE = b"image/"


def is_raw(kind: bytes) -> bool:
    """Whether a body of this type is an image, a text or a table."""
    return kind.startswith(IMAGE) or kind in (CSV, TEXT)


async def answer_items(
    resident: Resident, items: Callable[[], list[Any]], deadline: float
) -> list[dict[str, Any]]:
    """An answer for each, with names where the model has them. Raises InputError and what a batch can."""
    form = form_of(resident)
    if form is None:
        raise InputError("this model does not know what its numbers mean: send inputs as arrays")

    def decode() -> RawInputs:
        found = items()
        if len(found) > MAX_ITEMS:
            raise InputError(f"{len(found)} items, limit {MAX_ITEMS}")
        return to_arrays(form, found)

    ready = await resident.decode(decode, deadline)
    outputs = await resident.batcher.ask(dict(ready.arrays), deadline)
    return to_answers(form, outputs, ready.lengths)


def form_of(resident: Resident) -> ModelForm | None:
    return getattr(resident.runtime, "form", None)


def items_of(call: Call) -> list[Any]:
    """The items of a body that is no JSON. Raises InputError."""
    if call.content_type.startswith(IMAGE):
        return [call.body]
    try:
        text = call.body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the text is no UTF-8: {error}") from error
    return [text] if call.content_type == TEXT else _rows(text)


def from_json(items: list[Any], form: ModelForm | None) -> list[Any]:
    """An image in JSON is base64. Raises InputError."""
    if form is None or form.kind != "image":
        return items
    return [_decoded(item) if isinstance(item, str) else item for item in items]


def _decoded(item: str) -> bytes:
    try:
        return base64.b64decode(item.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"image: no base64: {error}") from error


def _rows(text: str) -> list[Any]:
    """With a header: mappings, of which an empty cell is missing."""
    rows: list[Any] = []
    try:
        for row in csv.DictReader(io.StringIO(text)):
            if None in row:
                raise InputError(f"row {len(rows) + 1} has more cells than the header")
            rows.append({name: value or None for name, value in row.items()})
            if len(rows) > MAX_ITEMS:
                raise InputError(f"more than {MAX_ITEMS} rows")
    except csv.Error as error:
        raise InputError(f"CSV: {error}") from error
    return rows
