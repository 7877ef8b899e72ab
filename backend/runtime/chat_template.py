"""A conversation to the prompt that a model's own template makes of it.

A template is a stranger's program. jinja2's sandbox keeps it from the rest of Python, not from running or
growing without end: a server renders it in a process of its own, see ``backend.workers.renderer``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from backend.errors import InputError

MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_PROMPT_CHARACTERS = 1 << 20


class Conversation(msgspec.Struct, frozen=True):
    """What a template is given."""

    template: str
    messages: list[dict[str, str]]
    begin: str
    """The model's token of the beginning of a text, and that of its end."""
    end: str


Render = Callable[[Conversation], str]


def render(conversation: Conversation) -> str:
    """Raises InputError, also for a conversation that the template refuses."""
    try:
        prompt: str = _compiled(conversation.template).render(
            messages=conversation.messages,
            bos_token=conversation.begin,
            eos_token=conversation.end,
            add_generation_prompt=True,
            tools=None,
            raise_exception=_refuse,
            strftime_now=_now_as,
        )
    except MemoryError:
        raise InputError("the model's chat template takes too much memory") from None
    except Exception as error:  # it raises what it likes
        raise InputError(f"the model's chat template refuses this: {str(error)[:300]}") from error
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"prompt of {len(prompt)} characters, limit {MAX_PROMPT_CHARACTERS}")
    return prompt


@lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    """With the extensions that Hugging Face's transformers has, for which templates are written."""
    from jinja2 import BaseLoader, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what a training learns; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - the library's own word

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(text: str) -> None:
    raise InputError(text)


def _now_as(form: str) -> str:
    return datetime.now().strftime(form)
