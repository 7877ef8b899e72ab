"""The text of a conversation's events, from models that may say anything."""

from __future__ import annotations

import json

import pytest

from p2p.errors import RemoteFailureError, RemoteProtocolError
from p2p.session.chat import MAX_EVENT_BYTES, ChatOptions, ChatText, chat_body, refusal


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def piece(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], model="m")


WHOLE = (
    event(choices=[{"delta": {"role": "assistant"}}])
    + piece("Hel")
    + piece("l\u00f6")
    + event(choices=[{"delta": {}, "finish_reason": "stop"}])
    + event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_pieces_are_the_same_however_events_are_cut(cut: int) -> None:
    text = ChatText()
    said = [one for at in range(0, len(WHOLE), cut) for one in text.receive(WHOLE[at : at + cut])]
    assert said == ["Hel", "l\u00f6"]
    assert text.is_done
    assert (text.told.finish_reason, text.told.prompt_tokens, text.told.tokens) == ("stop", 3, 2)


def test_an_error_on_the_way_is_told_as_one() -> None:
    with pytest.raises(RemoteFailureError, match="out of memory"):
        list(ChatText().receive(event(error={"message": "out of memory", "type": "server_error"})))


@pytest.mark.parametrize(
    "said",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: \xff\n\n",
        event(choices=[{"delta": {"content": 5}}]),
        event(usage={"completion_tokens": "many"}),
        b"data: " + b"[" * 5000 + b"\n\n",
        b"x" * (MAX_EVENT_BYTES + 1),
    ],
)
def test_what_is_no_event_is_refused(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="event of"):
        list(ChatText().receive(said))


def test_a_question_holds_only_what_was_chosen() -> None:
    body = json.loads(chat_body("m", [{"role": "user", "content": "hi", "name": "x"}], ChatOptions(seed=1)))
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (400, b'{"error": {"message": "no such role"}}', "invalid", "no such role"),
        (503, b'{"error": "wait"}', "busy", "wait"),
        (418, b"<html>", "internal", "the model answered 418"),
        (500, b'{"error": {"message": "' + b"x" * 5000 + b'"}}', "internal", "x" * 2000),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_wire(status: int, body: bytes, code: str, text: str) -> None:
    error = refusal(status, body)
    assert (error.code, error.message) == (code, text)
