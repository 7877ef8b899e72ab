"""Chat templates as Hugging Face's transformers would render them, and those that are not let do more."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import InputError
from backend.runtime.chat_template import Conversation, render

pytest.importorskip("jinja2")
MESSAGES = [{"role": "user", "content": "Hi <you>"}, {"role": "assistant", "content": "Ho"}]


def rendered(template: str, messages: list[dict[str, str]] | None = None) -> str:
    return render(Conversation(template, messages or MESSAGES, "<s>", "</s>"))


def test_a_template_writes_a_conversation() -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}\n"
        "{% generation %}[{{ message.role }}] {{ message['content'] | trim }}{% endgeneration %}"
        "{{ eos_token }}\n"
        "{% if loop.last %}{% break %}{% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert rendered(template) == "<s>[user] Hi <you></s>\n[assistant] Ho</s>\n[assistant]"
    assert rendered("{{ messages[0] | tojson }}") == '{"role": "user", "content": "Hi <you>"}'
    assert len(rendered("{{ strftime_now('%Y') }}")) == 4


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system messages') }}", "no system messages"),
        ("{% for %}", "refuses this"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "refuses this"),
        ("{{ nothing.there }}", "undefined"),
        ("{{ '%01100000d' | format(1) }}", "prompt of 1100000 characters, limit 1048576"),
    ],
)
def test_what_a_template_may_not_do_is_refused(template: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rendered(template)


def test_a_conversation_cannot_become_a_template() -> None:
    content: Any = "{{ 7 * 7 }}{% raw %}"
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": content}]) == content
