"""What one can ask a model by hand, as requests, and what its answers say, as bars and lines. Pure.

By the model's own description (``/v1/model``). What comes back is checked like a stranger's: a model at a
peer is one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backend.serving.asked import Asked

MAX_BARS = 10
MAX_LINES = 40
MAX_DEPTH = 4
MAX_TEXT = 1 << 20
MAX_NAME = 200
"""Characters of a name that are drawn."""
_MAX_DIGITS = 18
"""Of a whole number that stays one; what is greater may not even fit into a float."""
JSON = "application/json"


class Way(Enum):
    """How a model may be asked; the value is its name on a button."""

    CHAT = "Chat"
    WRITE = "Complete"
    DRAW = "Draw"
    PICTURE = "Picture"
    TEXT = "Text"
    ROW = "Row"
    CSV = "CSV"
    NUMBERS = "Numbers"


class Tensor(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: Annotated[tuple[int, ...], Meta(max_length=16)]


class Takes(msgspec.Struct, frozen=True):
    kind: str = ""
    class_names: tuple[str, ...] = ()
    input_names: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=1 << 14)] = ()
    white: float = 0.0


class Description(msgspec.Struct, frozen=True):
    """What a model says of itself; what else it says is passed over."""

    name: str
    format: str = ""
    runtime: str = ""
    devices: tuple[str, ...] = ()
    size_bytes: int = 0
    context_tokens: int | None = None
    inputs: tuple[Tensor, ...] = ()
    can: tuple[str, ...] = ()
    takes: Takes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """``bars``: names with shares from 0 to 1, the greatest first."""

    bars: tuple[tuple[str, float], ...] = ()
    lines: tuple[str, ...] = ()
    title: str = ""
    """Of one of several outputs or items."""


class QuestionError(ValueError):
    """What was written cannot be asked, or what came back cannot be read."""


def read_description(body: bytes) -> Description:
    """Raises QuestionError."""
    try:
        return msgspec.json.decode(body, type=Description)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise QuestionError(f"the model's description cannot be read: {error}") from error


def picture_shape(about: Description) -> tuple[int, int, int] | None:
    """Channels, height, width of the one picture that the model takes; None if it takes none."""
    if len(about.inputs) != 1:
        return None
    shape = about.inputs[0].shape
    if len(shape) != 4 or shape[1] not in (1, 3) or not all(1 <= size <= 1024 for size in shape[2:]):
        return None
    return shape[1], shape[2], shape[3]


def ways(about: Description) -> tuple[Way, ...]:
    """The likeliest first."""
    kind = about.takes.kind if about.takes else ""
    found: list[Way] = []
    if "chat" in about.can:
        found.append(Way.CHAT)
    if "complete" in about.can:
        found.append(Way.WRITE)
    if picture_shape(about) is not None and kind in ("", "image"):
        found.append(Way.DRAW)
        if about.takes and about.takes.white:
            found.append(Way.PICTURE)
    if kind == "text":
        found.append(Way.TEXT)
    if kind == "table" and about.takes and about.takes.input_names:
        found += [Way.ROW, Way.CSV]
    if len(about.inputs) == 1 and "predict" in about.can:
        found.append(Way.NUMBERS)
    return tuple(found)


# -- requests ------------------------------------------------------------------------------------

DESCRIBE = Asked("GET", "/v1/model")


def _posted(body: Mapping[str, Any], path: str = "/v1/predict") -> Asked:
    return Asked("POST", path, JSON, msgspec.json.encode(body))


def drawn(about: Description, ink: Sequence[Sequence[float]]) -> Asked:
    """``ink``: rows of 0 to 1, of the model's height and width."""
    shape = picture_shape(about)
    if shape is None:
        raise QuestionError("the model takes no picture")
    white = (about.takes.white if about.takes else 0.0) or 1.0
    plane = [[round(value * white, 4) for value in row] for row in ink]
    sample = [plane] * shape[0]
    if about.takes is not None and about.takes.kind == "image":
        return _posted({"model": about.name, "items": [sample]})
    return _posted({"model": about.name, "inputs": [sample]})


def pictured(about: Description, data: bytes, suffix: str) -> Asked:
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".bmp": "bmp", ".webp": "webp"}.get(suffix)
    if kind is None:
        raise QuestionError(f"a file {suffix or 'without an ending'}, allowed are PNG, JPEG, BMP and WebP")
    return Asked("POST", "/v1/predict", f"image/{kind}", data)


def written(about: Description, text: str) -> Asked:
    if not 1 <= len(text) <= MAX_TEXT:
        raise QuestionError(f"a text of {len(text)} characters, allowed are 1 to {MAX_TEXT}")
    return _posted({"model": about.name, "items": [text]})


def row_of(about: Description, cells: Mapping[str, str]) -> Asked:
    """Empty cells are left out: the model may know what stands for them."""
    found = {name: _cell(text.strip()) for name, text in cells.items() if text.strip()}
    return _posted({"model": about.name, "items": [found]})


def _cell(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def table(about: Description, text: str) -> Asked:
    if not text.strip():
        raise QuestionError("write a header and at least one row, or open a file")
    return Asked("POST", "/v1/predict", "text/csv", text.encode())


def numbers(about: Description, text: str) -> Asked:
    """JSON: one sample, or several; what is missing around one sample is added."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"no list of numbers: {error}") from error
    if not isinstance(found, list):
        raise QuestionError("write a list of numbers, such as [0.1, 0.2]")
    wanted = len(about.inputs[0].shape) if about.inputs else 1
    if _depth(found) == wanted - 1:
        found = [found]
    return _posted({"model": about.name, "inputs": found})


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth


def chatted(about: Description, messages: Sequence[tuple[str, str]]) -> Asked:
    """``messages``: role and text."""
    told = [{"role": role, "content": text} for role, text in messages]
    return _posted({"model": about.name, "messages": told, "stream": True}, "/v1/chat/completions")


def completed(about: Description, text: str, most_tokens: int = 256) -> Asked:
    if not text:
        raise QuestionError("write how it begins")
    body = {"model": about.name, "prompt": text, "max_tokens": most_tokens, "stream": True}
    return _posted(body, "/v1/completions")


# -- answers -------------------------------------------------------------------------------------


def read_answers(body: bytes) -> tuple[Answer, ...]:
    """One for each item and output. Raises QuestionError."""
    found = _decoded(body)
    if isinstance(found.get("answers"), list):
        items = found["answers"][:MAX_LINES]
        titles = [f"Row {number}" if len(items) > 1 else "" for number in range(1, len(items) + 1)]
        told = [each for item, title in zip(items, titles, strict=True) for each in _item(item, title)]
        return tuple(told[:MAX_LINES])
    if isinstance(found.get("outputs"), dict):
        return tuple(_raw(_name(name), values) for name, values in list(found["outputs"].items())[:MAX_LINES])
    raise QuestionError("the answer holds neither answers nor outputs")


def read_error(status: int, body: bytes) -> str:
    """What the server says is wrong."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or error.get("text") or error.get("code")
    return str(error or body[:200].decode(errors="replace") or "no reason given")[:600] + f" ({status})"


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"the answer is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise QuestionError("the answer is no object")
    return found


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_KNOWN = frozenset({"top", "next", "probability", "probabilities", "classes", "values", "value"})


def _item(item: Any, title: str, depth: int = 0) -> list[Answer]:
    if not isinstance(item, dict) or depth > MAX_DEPTH:
        return [Answer(lines=(_short(item),), title=title)]
    if not _KNOWN & item.keys():
        return [
            _titled(each, " ".join(filter(None, (title, str(name)))))
            for name, inner in list(item.items())[:MAX_LINES]
            for each in _item(inner, "", depth + 1)
        ]
    return [_titled(_known(item), title)]


def _titled(answer: Answer, title: str) -> Answer:
    return Answer(answer.bars, answer.lines, _name(title or answer.title))


def _known(item: dict[str, Any]) -> Answer:
    ranked = item.get("top") or item.get("next")
    if isinstance(ranked, list):
        return Answer(bars=_bars(ranked))
    if _is_share(item.get("probability")):
        share = float(item["probability"])
        yes = item.get("name") if item.get("class") == 1 else "yes"
        no = item.get("name") if item.get("class") == 0 else "no"
        both = sorted(((_name(yes), share), (_name(no), 1 - share)), key=lambda bar: -bar[1])
        return Answer(bars=tuple(both))
    if "classes" in item:
        return Answer(lines=_places(item))
    for key in ("values", "value", "probabilities"):
        if key in item:
            return Answer(lines=_values(item[key]))
    return Answer(lines=(_short(item),))


def _bars(ranked: list[Any]) -> tuple[tuple[str, float], ...]:
    found = []
    for each in ranked[:MAX_BARS]:
        if isinstance(each, dict) and _is_share(each.get("probability")):
            name = _name(each.get("name", each.get("text", each.get("class", ""))))
            found.append((name if name.strip() else repr(name), float(each["probability"])))
    return tuple(found)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _places(item: dict[str, Any]) -> tuple[str, ...]:
    """Of a class at each place: how many of each."""
    given = item.get("names")
    names: list[Any] = given if isinstance(given, list) else []
    counts: dict[int, int] = {}
    rest = [item["classes"]]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, int):
            counts[value] = counts.get(value, 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])[:MAX_LINES]
    told = [(_name(names[at] if 0 <= at < len(names) else at), count) for at, count in ordered]
    return tuple(f"{name}: {count} places" for name, count in told)


def _values(values: Any) -> tuple[str, ...]:
    if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
        more = "" if len(values) <= MAX_BARS else f" … and {len(values) - MAX_BARS} more"
        return (", ".join(f"{value:.6g}" for value in values[:MAX_BARS]) + more,)
    if isinstance(values, dict):
        return tuple(f"{_name(name)}: {_short(value)}" for name, value in list(values.items())[:MAX_LINES])
    return (_short(values),)


def _raw(name: str, values: Any) -> Answer:
    """Numbers that nobody explains: the largest of a list first, by their places."""
    row = values[0] if isinstance(values, list) and len(values) == 1 else values
    if isinstance(row, list) and len(row) > 1 and all(isinstance(v, int | float) for v in row):
        best = sorted(range(len(row)), key=lambda at: -row[at])[:MAX_BARS]
        return Answer(lines=tuple(f"{at}: {row[at]:.4g}" for at in best), title=f"{name}, largest first")
    return Answer(lines=(_short(row),), title=name)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 600 else f"{text[:600]}…"


def _name(value: Any) -> str:
    text = value if isinstance(value, str) else _short(value)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


# -- streams -------------------------------------------------------------------------------------


class EventLines:
    """Server-sent events as they come in pieces: gives the text that each adds. Raises QuestionError."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.is_over = False

    def take(self, chunk: bytes) -> str:
        self._rest += chunk
        lines: list[bytes] = []
        if b"\n" in chunk:  # a line in many pieces is not looked through for each of them
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_TEXT:
            raise QuestionError(f"a line of more than {MAX_TEXT} bytes in the answer")
        return "".join(map(self._line, lines))

    def _line(self, line: bytes) -> str:
        name, _, value = line.strip().partition(b":")
        value = value.strip()
        if name != b"data" or not value:
            return ""
        if value == b"[DONE]":
            self.is_over = True
            return ""
        found = _decoded(value)
        if "error" in found:
            raise QuestionError(read_error(200, value))
        choices = found.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(first, dict):
            return ""
        delta = first.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else first.get("text")
        # Half a surrogate pair could not be sent back with the rest of the conversation.
        return text.encode(errors="replace").decode() if isinstance(text, str) else ""
