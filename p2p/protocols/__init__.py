"""One module per libp2p protocol: its id, its messages, its limits. Data only."""

from __future__ import annotations

from typing import Generic, TypeVar

from p2p.codec import Message
from p2p.identifiers import Label, Sequence, Text

T = TypeVar("T")

FAILURE_CODES = frozenset(
    {
        "invalid",  # the request is malformed, or names something impossible
        "unauthorized",  # the caller may not do this
        "not_found",  # no such job, file, peer or model
        "refused",  # allowed in form, refused by policy (budget, ban, escrow)
        "conflict",  # not in this state, or an old lease
        "busy",  # a limit is reached; try later
        "internal",  # our fault
    }
)


class Failure(Message, frozen=True):
    """The answer of a side that refuses or failed."""

    code: Label
    message: Text


class Done(Message, frozen=True):
    """The answer where there is nothing else to say."""


class Request(Message, Generic[T], frozen=True):
    """A call on a kept-open stream; answers may come in any order."""

    id: Sequence
    call: T


class Response(Message, Generic[T], frozen=True):
    id: Sequence
    answer: T
