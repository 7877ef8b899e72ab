"""Questions in words to a deployed model: a prompt that nobody can foretell, completed greedily. Pure.

Other devices round otherwise, so that a token may be another one where two were almost equally likely;
after that the texts differ, and nothing is compared any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from blake3 import blake3

from p2p.session.trial import MAX_TOKENS, MAX_VALUES, TOLERANCE, Expected, Question, differs

TOKENS = 8
"""That are completed and compared; one where the answer is not known."""
NEAR = 0.5
"""Of log probability: how much less likely a token may be that comes instead."""
_OTHERS = 5
_PROMPT_WORDS = 12
_WORDS = (
    *("river", "stone", "seven", "market", "green", "letter", "winter", "engine", "quiet", "paper", "garden"),
    *("copper", "morning", "doctor", "window", "island", "number", "yellow", "ocean", "bridge", "music"),
    *("silver", "forest", "table", "captain", "eleven", "mirror", "summer", "kitchen", "history", "planet"),
)


@dataclass(frozen=True, slots=True)
class TextQuestion:
    path: str
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class TextAnswer:
    tokens: tuple[str, ...] = ()
    others: tuple[dict[str, float | None], ...] = ()
    """The likeliest at each place, with their log probabilities."""
    embedding: tuple[float, ...] = ()


class _Logprobs(msgspec.Struct):
    tokens: list[str] = msgspec.field(default_factory=list)
    top_logprobs: list[dict[str, float | None] | None] = msgspec.field(default_factory=list)


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Embedded(msgspec.Struct):
    embedding: list[float]


class _Told(msgspec.Struct):
    """Of a completion, or of embeddings."""

    choices: list[_Choice] = msgspec.field(default_factory=list)
    data: list[_Embedded] = msgspec.field(default_factory=list)


_DECODER = msgspec.json.Decoder(_Told)


def only_embeds(abilities: Sequence[str]) -> bool:
    return "embed" in abilities and "complete" not in abilities


def text_question(name: str, seed: int, *, embeds: bool, tokens: int = TOKENS) -> TextQuestion:
    """For the model that is called ``name``."""
    drawn = blake3(f"{seed} text".encode()).digest(length=_PROMPT_WORDS)
    prompt = " ".join(_WORDS[byte % len(_WORDS)] for byte in drawn)
    if embeds:
        return TextQuestion("/v1/embeddings", msgspec.json.encode({"model": name, "input": prompt}))
    about = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "logprobs": _OTHERS}
    return TextQuestion("/v1/completions", msgspec.json.encode({"model": name, **about}))


def read_answer(body: bytes) -> TextAnswer:
    """Raises ValueError for what is no answer."""
    try:
        told = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if told.data:
        return TextAnswer(embedding=tuple(told.data[0].embedding))
    if not told.choices:
        raise ValueError("neither choices nor data")
    found = told.choices[0].logprobs or _Logprobs()
    return TextAnswer(tuple(found.tokens), tuple(each or {} for each in found.top_logprobs))


def expected_text(seed: int, answer: TextAnswer) -> Question:
    """What an answer of the Engine's own copy lets a peer answer."""
    if answer.embedding:
        values = answer.embedding[:MAX_VALUES]
        return Question(seed, (Expected("embedding", "float32", (len(answer.embedding),), values),))
    places = zip(answer.tokens[:MAX_TOKENS], answer.others, strict=False)
    return Question(seed, tokens=tuple(_allowed(token, others) for token, others in places))


def _allowed(token: str, others: dict[str, float | None]) -> tuple[str, ...]:
    likely = {piece: logprob for piece, logprob in others.items() if logprob is not None}
    least = max(likely.values(), default=0.0) - NEAR
    return (token, *sorted(piece for piece, logprob in likely.items() if logprob >= least and piece != token))


def text_fault(question: Question | None, answer: TextAnswer) -> str | None:
    """As ``trial.fault``."""
    if question is None:
        return None
    for expected in question.outputs:
        if expected.shape != (len(answer.embedding),):
            return f"an embedding of {len(answer.embedding)} numbers, allowed {expected.shape}"
        reason = differs(expected, answer.embedding[:MAX_VALUES], TOLERANCE)
        if reason is not None:
            return f"an embedding is {reason}"
    for place, allowed in enumerate(question.tokens):
        if place >= len(answer.tokens):
            return None if place and len(allowed) > 1 else f"{place} tokens, allowed {len(question.tokens)}"
        found = answer.tokens[place]
        if found not in allowed:
            return f"token {place + 1} is {found[:40]!r}, allowed {', '.join(map(repr, allowed))}"[:400]
        if found != allowed[0]:
            return None  # what follows another token is not known
    return None
