"""What a deployed language model is asked before it is paid for, and which answers pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from p2p.session.trial import Question
from p2p.session.trial_text import (
    NEAR,
    TOKENS,
    TextAnswer,
    expected_text,
    only_embeds,
    read_answer,
    text_fault,
    text_question,
)

SURE: dict[str, float | None] = {" a": -0.1, " b": -0.1 - 2 * NEAR}
OPEN: dict[str, float | None] = {" a": -0.7, " b": -0.7 - NEAR / 2, " c": None}


def known(*others: dict[str, float | None]) -> Question:
    return expected_text(7, TextAnswer(tuple(" a" for _ in others), others))


def said(*tokens: str) -> TextAnswer:
    return TextAnswer(tokens)


def test_a_prompt_is_the_same_for_a_seed_and_another_for_another() -> None:
    asked = [text_question("model", seed, embeds=False) for seed in (7, 7, 8)]
    assert asked[0] == asked[1] != asked[2]
    body = msgspec.json.decode(asked[0].body)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("model", TOKENS, 0.0)
    assert len(body["prompt"].split()) == 12


def test_a_model_that_only_embeds_is_asked_for_that() -> None:
    assert only_embeds(("embed",)) and not only_embeds(("complete", "embed")) and not only_embeds(())
    asked = text_question("model", 7, embeds=True)
    assert asked.path == "/v1/embeddings" and len(msgspec.json.decode(asked.body)["input"].split()) == 12


def test_the_same_tokens_pass_and_another_does_not() -> None:
    question = known(SURE, SURE, SURE)
    assert text_fault(question, said(" a", " a", " a")) is None
    assert text_fault(question, said(" a", " b", " a")) == "token 2 is ' b', allowed ' a'"
    assert text_fault(question, said(" a", " a")) == "2 tokens, allowed 3"
    assert text_fault(question, said()) == "0 tokens, allowed 3"


def test_where_two_tokens_are_almost_equally_likely_either_passes_and_what_follows_is_open() -> None:
    question = known(SURE, OPEN, SURE)
    assert question.tokens == ((" a",), (" a", " b"), (" a",))
    assert text_fault(question, said(" a", " b", " z")) is None
    assert text_fault(question, said(" a")) is None  # or the end of the text
    assert text_fault(question, said(" a", " c", " a")) == "token 2 is ' c', allowed ' a', ' b'"
    assert text_fault(question, said(" a", " a", " z")) == "token 3 is ' z', allowed ' a'"
    assert text_fault(known(OPEN), said()) == "0 tokens, allowed 1"


def test_embeddings_are_compared_by_their_numbers() -> None:
    question = expected_text(7, TextAnswer(embedding=(0.5, -1.0)))
    assert text_fault(question, TextAnswer(embedding=(0.51, -1.01))) is None
    assert "an embedding is 0.9" in str(text_fault(question, TextAnswer(embedding=(0.9, -1.0))))
    assert "an embedding of 1 numbers" in str(text_fault(question, TextAnswer(embedding=(0.5,))))
    assert "an embedding of 0 numbers" in str(text_fault(question, said(" a")))


def test_where_nothing_is_known_any_answer_passes() -> None:
    assert text_fault(None, said()) is None


def test_what_a_server_answers_is_read() -> None:
    logprobs = {"tokens": [" a", " b"], "top_logprobs": [{" a": -0.1, " c": None}, None]}
    told: Any = {"choices": [{"text": " a b", "logprobs": logprobs}], "usage": {}}
    assert read_answer(msgspec.json.encode(told)) == TextAnswer((" a", " b"), ({" a": -0.1, " c": None}, {}))
    assert read_answer(b'{"choices": [{"text": "x"}]}') == TextAnswer()
    assert read_answer(b'{"data": [{"embedding": [1, 2.5]}]}') == TextAnswer(embedding=(1, 2.5))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"{}",
        b"[" * 100_000,
        b'{"choices": []}',
        b'{"data": [{}]}',
        b'{"data": [{"embedding": [null]}]}',
    ],
)
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_answer(body)
