from __future__ import annotations

import json
from typing import Any

import pytest

from engine_app.ui.questions import (
    Description,
    EventLines,
    QuestionError,
    Way,
    chatted,
    drawn,
    numbers,
    read_answers,
    read_description,
    read_error,
    row_of,
    ways,
)


def about(**given: Any) -> Description:
    return read_description(json.dumps({"name": "m", **given}).encode())


def image(*shape: int, white: float = 16.0) -> Description:
    inputs = [{"name": "input", "dtype": "float32", "shape": shape}]
    return about(inputs=inputs, can=["predict"], takes={"kind": "image", "white": white})


def test_ways_follow_from_what_a_model_says_of_itself() -> None:
    assert ways(image(-1, 1, 8, 8)) == (Way.DRAW, Way.PICTURE, Way.NUMBERS)
    assert ways(image(-1, 1, 8, 8, white=0.0)) == (Way.DRAW, Way.NUMBERS)
    assert ways(about(can=["complete", "chat"])) == (Way.CHAT, Way.WRITE)
    table = about(
        inputs=[{"name": "x", "dtype": "float32", "shape": [-1, 2]}],
        can=["predict"],
        takes={"kind": "table", "input_names": ["age", "colour=red"]},
    )
    assert ways(table) == (Way.ROW, Way.CSV, Way.NUMBERS)
    two = [{"name": name, "dtype": "float32", "shape": [-1, 2]} for name in "ab"]
    assert ways(about(inputs=two, can=["predict"])) == ()


def test_a_description_that_is_none_is_told() -> None:
    for body in (b"[]", b"{", b'{"name": 3}', b'{"name": "m", "inputs": [{"shape": "x"}]}'):
        with pytest.raises(QuestionError, match="cannot be read"):
            read_description(body)


def test_ink_is_sent_in_the_scale_and_channels_of_the_model() -> None:
    asked = drawn(image(-1, 3, 2, 2), [[0.0, 1.0], [0.5, 0.0]])
    plane = [[0.0, 16.0], [8.0, 0.0]]
    assert json.loads(asked.body)["items"] == [[plane, plane, plane]]
    unknown = about(inputs=[{"name": "i", "dtype": "float32", "shape": [-1, 1, 2, 2]}], can=["predict"])
    assert json.loads(drawn(unknown, [[0.0, 1.0], [1.0, 0.0]]).body)["inputs"] == [[[[0, 1], [1, 0]]]]


def test_a_row_leaves_out_what_is_empty_and_numbers_get_their_batch() -> None:
    assert json.loads(row_of(about(), {"age": " 3 ", "colour": "red", "x": ""}).body)["items"] == [
        {"age": 3.0, "colour": "red"}
    ]
    flat = about(inputs=[{"name": "i", "dtype": "float32", "shape": [-1, 2]}], can=["predict"])
    assert json.loads(numbers(flat, "[1, 2]").body)["inputs"] == [[1, 2]]
    assert json.loads(numbers(flat, "[[1, 2], [3, 4]]").body)["inputs"] == [[1, 2], [3, 4]]
    for text in ("3", "{}", "[1,", "[" * 100_000):
        with pytest.raises(QuestionError):
            numbers(flat, text)


@pytest.mark.parametrize(
    ("answer", "bars", "lines"),
    [
        ({"top": [{"name": "cat", "probability": 0.9}, {"class": 1, "probability": 0.1}]},
         (("cat", 0.9), ("1", 0.1)), ()),
        ({"probability": 0.2, "class": 0, "name": "benign"}, (("benign", 0.8), ("yes", 0.2)), ()),
        ({"next": [{"token": 1, "text": " the", "probability": 0.5}]}, ((" the", 0.5),), ()),
        ({"classes": [[0, 1], [1, 1]], "names": ["sky", "road"]}, (), ("road: 3 places", "sky: 1 places")),
        ({"values": {"price": 7.25}}, (), ("price: 7.25",)),
        ({"value": 1.5}, (), ("1.5",)),
    ],
)  # fmt: skip
def test_answers_become_bars_and_lines(answer: Any, bars: Any, lines: Any) -> None:
    (found,) = read_answers(json.dumps({"answers": [answer]}).encode())
    assert (found.bars, found.lines) == (bars, lines)


def test_several_outputs_and_rows_have_titles() -> None:
    both = {"answers": [{"kind": {"value": 1}, "size": {"value": 2}}] * 2}
    found = read_answers(json.dumps(both).encode())
    assert [each.title for each in found] == ["Row 1 kind", "Row 1 size", "Row 2 kind", "Row 2 size"]
    (raw,) = read_answers(json.dumps({"outputs": {"o": [[0.25, 3.5]]}}).encode())
    assert raw.lines == ("1: 3.5", "0: 0.25")


def test_hostile_answers_are_refused_or_bounded() -> None:
    for body in (b"", b"[]", b"\xff", b'{"answers": 3}', b"[" * 100_000):
        with pytest.raises(QuestionError):
            read_answers(body)
    strange = {"answers": [None, 3, {"top": "x"}, {"top": [3, {"probability": 7}]}, {"classes": "x"}]}
    assert len(read_answers(json.dumps(strange).encode())) == 5
    deep: Any = {"value": 1}
    for _ in range(400):
        deep = {"x": deep}
    assert read_answers(json.dumps({"answers": [deep]}).encode())
    many = {"answers": [{"values": list(range(100_000))}]}
    assert max(len(line) for each in read_answers(json.dumps(many).encode()) for line in each.lines) < 700


def test_hostile_answers_are_drawn_short_or_refused() -> None:
    huge = b"1" + b"0" * 400
    assert read_answers(b'{"outputs": {"a": [%b, 2]}}' % huge)[0].lines[0] == "0: inf"
    assert read_answers(b'{"answers": [{"values": [-%b, 2]}]}' % huge)[0].lines == ("-inf, 2",)
    long = "A" * 100_000
    top = {"top": [{"name": long, "probability": 0.5}, {"name": {long: long}, "probability": 0.1}]}
    yes = {"probability": 0.7, "class": 1, "name": long}
    places = {"classes": [[0, 0]], "names": [long]}
    told = read_answers(json.dumps({"answers": [top, yes, places, {long: {"values": {long: 1}}}]}).encode())
    drawn = [text for each in told for text in (each.title, *each.lines, *(name for name, _ in each.bars))]
    assert max(map(len, drawn)) < 300
    for body in (b'{"name": "\xff"}', b'{"name": "m", "more": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
        with pytest.raises(QuestionError, match="cannot be read"):
            read_description(body)
    wide = {"inputs": [{"name": "i", "dtype": "float32", "shape": [1] * 100}]}
    for given in (wide, {"takes": {"input_names": [long]}}, {"takes": {"input_names": ["a"] * 100_000}}):
        with pytest.raises(QuestionError, match="cannot be read"):
            about(**given)


def test_half_a_surrogate_pair_does_not_end_the_conversation() -> None:
    said = EventLines().take(b'data: {"choices": [{"text": "a\\ud800"}]}\n')
    assert json.loads(chatted(about(), [("assistant", said)]).body)["messages"][0]["content"] == "a?"


def test_a_refusal_is_told_in_the_words_of_the_server() -> None:
    assert read_error(400, b'{"error": {"code": "invalid", "text": "item 1: shaped (2,)"}}') == (
        "item 1: shaped (2,) (400)"
    )
    assert read_error(502, b"<html>") == "<html> (502)"


def test_streamed_text_comes_whole_whatever_the_cuts() -> None:
    parts = [{"choices": [{"delta": {"content": text}}]} for text in ("Hé", "llo", "")]
    told = [*parts, {"choices": [{"text": "!"}]}, {"choices": []}, {"usage": 3}]
    body = b": a comment\n\n" + b"".join(b"data: %s\r\n\r\n" % json.dumps(each).encode() for each in told)
    body += b"data: [DONE]\n\n"
    for size in (1, 7, len(body)):
        lines = EventLines()
        assert "".join(lines.take(body[at : at + size]) for at in range(0, len(body), size)) == "Héllo!"
        assert lines.is_over
    with pytest.raises(QuestionError, match="no place"):
        EventLines().take(b'data: {"error": {"message": "no place"}}\n')


def test_a_conversation_is_sent_whole() -> None:
    asked = chatted(about(), [("user", "a"), ("assistant", "b"), ("user", "c")])
    told = json.loads(asked.body)
    assert asked.path == "/v1/chat/completions" and told["stream"] is True
    assert [each["content"] for each in told["messages"]] == ["a", "b", "c"]
