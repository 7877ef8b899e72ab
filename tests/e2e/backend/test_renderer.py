"""The process that renders chat templates: what a hostile one does to it, nobody else notices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import InputError
from backend.runtime.chat_template import Conversation
from backend.workers import renderer
from backend.workers.process import choose_sandbox
from backend.workers.sandbox import SandboxMode

pytestmark = pytest.mark.e2e
pytest.importorskip("jinja2")


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[renderer.TemplateRenderer]:
    monkeypatch.setattr(renderer, "PROCESSOR_S", 1)
    monkeypatch.setattr(renderer, "LONGEST_S", 250.0)  # on a busy machine that second takes long
    made = renderer.start_renderer(choose_sandbox(SandboxMode.AUTO), tmp_path)
    yield made
    made.close()
    os.wait()  # without an end to read from the keeper leaves


def of(template: str) -> Conversation:
    return Conversation(template, [{"role": "user", "content": "Hi"}], "<s>", "</s>")


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": ENDLESS,
    "counts": "{{ 9 ** (9 ** 9) }}",
    "doubles": (
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
    ),
    "multiplies": "{{ 'x' * 10 ** 11 }}",
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nests": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
}


def test_a_hostile_template_is_refused_and_others_go_on(render: renderer.TemplateRenderer) -> None:
    for template in HOSTILE.values():
        with pytest.raises(InputError, match="chat template"):
            render(of(template))
        assert render(of("[{{ messages[0].content }}]")) == "[Hi]"


def test_a_template_that_ends_with_every_conversation_is_soon_tried_no_more(
    render: renderer.TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="too long"):
        render(of(ENDLESS))
    monkeypatch.setattr(render, "_ask", None)
    with pytest.raises(InputError, match=r"conversation of 6 characters, limit 2: .* too long for more"):
        render(of(ENDLESS))


def test_a_conversation_that_a_template_cannot_bear_is_refused_and_shorter_ones_go_on(
    render: renderer.TemplateRenderer,
) -> None:
    slow = "{% if messages[0].content | length > 40 %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    for text, refused in (("x" * 100, "too long"), ("x" * 60, "limit 51"), ("Hi", None), ("y" * 40, None)):
        said = Conversation(slow, [{"role": "user", "content": text}], "<s>", "</s>")
        if refused is None:
            assert render(said) == text
        else:
            with pytest.raises(InputError, match=refused):
                render(said)


def test_a_conversation_of_nothing_is_not_tried_again_either(
    render: renderer.TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Conversation(ENDLESS, [{"role": "", "content": ""}], "<s>", "</s>")
    with pytest.raises(InputError, match="too long"):
        render(nothing)
    monkeypatch.setattr(render, "_ask", None)
    with pytest.raises(InputError, match="limit 0"):
        render(nothing)


def test_no_conversation_ends_the_template_for_others(render: renderer.TemplateRenderer) -> None:
    said = [{"role": "user", "content": "x" * (65 << 20)}]
    with pytest.raises(InputError, match="conversation of 68157444 characters, limit"):
        render(Conversation("{{ messages[0].content }}", said, "<s>", "</s>"))
    assert render(of("{{ messages[0].content }}")) == "Hi"


def test_a_template_is_late_but_not_to_blame_where_the_machine_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "LONGEST_S", 0.3)
    made = renderer.start_renderer(choose_sandbox(SandboxMode.AUTO), tmp_path)
    made._end.settimeout(60)
    for _ in range(2):
        with pytest.raises(InputError, match="not done after"):
            made(of(ENDLESS))
    made.close()
    os.wait()


def test_the_renderer_is_closed_and_shares_no_connection_with_its_worker(
    render: renderer.TemplateRenderer,
) -> None:
    assert render(of("x")) == "x"
    keeper = children(os.getpid())[-1]
    (inner,) = children(keeper)
    status = Path(f"/proc/{inner}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    for pid, count in ((keeper, 2), (inner, 1)):
        opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum(each.startswith("socket:") for each in opened) == count, opened


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_without_its_keeper_a_worker_refuses_chats(render: renderer.TemplateRenderer) -> None:
    render.close()
    for _ in range(2):
        with pytest.raises(InputError, match="no longer"):
            render(of("x"))
