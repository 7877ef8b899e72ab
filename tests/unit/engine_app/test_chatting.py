"""`cyxwiz chat`: what a terminal shows, what the model is told, and what Ctrl-C ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from engine_app.chatting import ChatOrder, Conversation, answer_to
from p2p.session.errors import SessionError

ORDER = ChatOrder("ab12", None, "be brief", {"max_tokens": 5, "temperature": None, "seed": None}, False)
END = {"finish_reason": "stop", "prompt_tokens": 3, "tokens": 2}


class Model:
    """A session that says ``pieces`` of each answer, or does not come back after the first."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.asked: list[list[dict[str, str]]] = []
        self.hangs_at: int | None = None
        self.fails_at: int | None = None
        self.began: Callable[[], None] = lambda: None

    async def ask(self, method: str, tell: Any = None, /, **parameters: Any) -> Any:
        assert (method, parameters["deployment"], parameters["max_tokens"]) == ("chat", "ab12", 5)
        self.asked.append(parameters["messages"])
        if len(self.asked) == self.fails_at:
            raise SessionError("the model is being started: \x1b[2J")
        for piece in self.pieces:
            tell({"kind": "piece", "text": piece})
            if len(self.asked) == self.hangs_at:
                self.began()
                await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return END


async def talked(model: Model, lines: str, order: ChatOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    interrupt, interrupts = trio.open_memory_channel[int](10)
    model.began = lambda: interrupt.send_nowait(2)
    with trio.fail_after(60):
        await Conversation(model, order).run(interrupts)


async def test_each_answer_is_given_with_all_that_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model("Hel", "lo\n")
    await talked(model, "hi\n\nand?\n/new\nagain\n", ORDER, monkeypatch)
    system, question = {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}
    first = [system, question]
    second = [*first, {"role": "assistant", "content": "Hello\n"}, {"role": "user", "content": "and?"}]
    assert model.asked == [first, second, [system, {"role": "user", "content": "again"}]]
    assert capsys.readouterr().out.count("Hello\n") == 3


async def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model("endless ", "story")
    model.hangs_at = 1
    await talked(model, "tell\nnext\n", ORDER, monkeypatch)
    assert [question[-1]["content"] for question in model.asked] == ["tell", "next"]
    assert len(model.asked[1]) == 2  # what was stopped was not said
    assert "(stopped)" in capsys.readouterr().out


async def test_a_refusal_does_not_end_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model("yes")
    model.fails_at = 1
    await talked(model, "one\ntwo\n", ORDER, monkeypatch)
    shown = capsys.readouterr()
    assert "being started: \\x1b[2J" in shown.err
    assert "yes" in shown.out


async def test_what_a_model_says_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = "\x1b]0;owned\x07a\rb\tc\u202e"
    answer = await answer_to(Model(said), ORDER, [])
    assert answer["text"] == said
    assert capsys.readouterr().out == "\\x1b]0;owned\\x07a\\rb    c\\u202e\n"


async def test_in_json_each_answer_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ChatOrder(ORDER.deployment, None, None, ORDER.options, True)
    await talked(Model("a", "b"), "x\n", order, monkeypatch)
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") : shown.rindex("}") + 1]) == {"text": "ab", **END}
