"""Every field of OpenAI's reference for chats and completions: it works, changes nothing, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.backend.serving.server import Answer, Counter, Single, talk

CHAT = {"model": "m", "messages": [{"role": "user", "content": "count"}], "max_tokens": 2}
COMPLETION = {"model": "m", "prompt": "count", "max_tokens": 2}
SCHEMA = {"type": "json_schema", "json_schema": {}}


def ask(path: str, body: dict[str, Any]) -> Answer:
    answer: Answer = talk(lambda server: server.ask("POST", path, body), {"m": Counter()})
    return answer


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0.5, "presence_penalty": -0.5, "temperature": 0.2, "top_p": 0.9, "seed": -7},
        {"n": 1, "stop": ["x"] * 4, "logprobs": False, "logit_bias": {}, "modalities": ["text"]},
        {"max_completion_tokens": 2, "max_tokens": None, "stop": None, "n": None, "tools": []},
        {"response_format": {"type": "text"}, "stream": False, "stream_options": None},
        # They tell the server something about the caller, or about tools that are not there.
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "safety_identifier": "s",
        },
        {"parallel_tool_calls": True, "tool_choice": "none", "prompt_cache_key": "k", "verbosity": "low"},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "count"}], "name": "x"}]},
    ],
)
def test_what_a_chat_may_say(fields: dict[str, Any]) -> None:
    answer = ask("/v1/chat/completions", CHAT | fields)
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "0 1 ")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": 33}, "<= 32"),
        ({"logit_bias": {"5": 3}}, "logit_bias is not supported"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"functions": [{"name": "f"}]}, "functions is not supported"),
        ({"audio": {"voice": "x"}}, "audio is not supported"),
        ({"modalities": ["text", "audio"]}, "text only"),
        ({"response_format": SCHEMA}, "text only"),
        ({"reasoning_effort": "high"}, "reasoning_effort is not supported"),
        ({"web_search_options": {"a": 1}}, "web_search_options is not supported"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "<= 20"),
        ({"max_tokens": 0}, ">= 1"),
        ({"temperature": 2.1}, "<= 2"),
        ({"stop": ["x"] * 17}, "16"),
        ({"stop": "x" * 1025}, "1024"),
        ({"stop": ["x" * 1025]}, "1024"),
        ({"messages": []}, "length"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "has no content"),
    ],
)
def test_what_a_chat_is_refused(fields: dict[str, Any], says: str) -> None:
    answer = ask("/v1/chat/completions", CHAT | fields)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert says in answer.json["error"]["message"]


@pytest.mark.parametrize("prompt", ["count", ["count"], list(b"count"), [list(b"count")]])
def test_a_prompt_is_a_text_or_its_tokens(prompt: Any) -> None:
    answer = ask("/v1/completions", COMPLETION | {"prompt": prompt})
    assert answer.json["choices"][0]["text"] == "0 1 "
    assert answer.json["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": ["a", ["b"]]}, "a list of either"),
        ({"prompt": []}, "length"),
        ({"prompt": [[]]}, "prompt of 0 tokens"),
        ({"prompt": [1.5]}, "a list of either"),
        ({"prompt": [True, 1]}, "a list of either"),
        ({"prompt": ["a"] * 9, "n": 4}, "4 answers to 9 prompts, limit 32"),
        ({"prompt": [256]}, "numbers below 256"),
        ({"prompt": [-1, 2]}, "numbers below 256"),
        ({"prompt": [1] * 50}, "allowed are 1 to 49"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"echo": True, "prompt": [1, 2]}, "prompts that are texts"),
        ({"echo": True, "logprobs": 1}, "echo with logprobs"),
        ({"suffix": "end"}, "suffix"),
    ],
)
def test_what_a_completion_is_refused(fields: dict[str, Any], says: str) -> None:
    answer = ask("/v1/completions", COMPLETION | fields)
    assert answer.status == 400
    assert says in answer.json["error"]["message"]


def test_each_prompt_has_as_many_answers_as_were_asked_for() -> None:
    several = COMPLETION | {"prompt": ["count", list(b"on")], "n": 2, "best_of": 2, "seed": 5}
    answer = ask("/v1/completions", several).json
    assert [(each["index"], each["text"]) for each in answer["choices"]] == [(n, "0 1 ") for n in range(4)]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    streamed = ask("/v1/chat/completions", CHAT | {"n": 2, "stream": True}).body.decode().split("\n\n")
    events = [json.loads(each.removeprefix("data: ")) for each in streamed[:-2]]
    for index in (0, 1):
        own = [each["choices"][0] for each in events if each["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(each["delta"].get("content", "") for each in own) == "0 1 "
        assert [each["finish_reason"] for each in own if each["finish_reason"]] == ["length"]
    assert streamed[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_is_what_was_asked_and_then_the_answer(stream: bool) -> None:
    order = COMPLETION | {"echo": True, "stop": ["count"], "stream": stream}
    answer = ask("/v1/completions", order)
    if not stream:
        assert answer.json["choices"][0]["text"] == "count0 1 "
        return
    events = [json.loads(each.removeprefix("data: ")) for each in answer.body.decode().split("\n\n")[:-2]]
    assert "".join(each["choices"][0]["text"] for each in events) == "count0 1 "


def test_usage_is_told_at_the_end_of_a_stream_and_is_null_before() -> None:
    order = COMPLETION | {"stream": True, "stream_options": {"include_usage": True}}
    parts = ask("/v1/completions", order).body.decode().split("\n\n")[:-2]
    *before, last = [json.loads(each.removeprefix("data: ")) for each in parts]
    assert [each["usage"] for each in before] == [None] * len(before) != []
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.mark.parametrize(("model", "says"), [(Counter(), "it generates text"), (Single(), "tokenizer")])
def test_a_model_without_embeddings_says_why(model: Any, says: str) -> None:
    body = {"model": "m", "input": "x"}
    answer = talk(lambda server: server.ask("POST", "/v1/embeddings", body), {"m": model})
    assert (answer.status, says in answer.json["error"]["message"]) == (400, True)
