"""What ``help(Engine)`` teaches whoever writes a script."""

from __future__ import annotations

import inspect

import pytest

from p2p.api import AsyncEngine, Engine

ONLY_ASYNC = {"bytes_moved", "model"}
METHODS = [name for name, _ in inspect.getmembers(Engine, callable) if not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_does(name: str) -> None:
    text = getattr(Engine, name).__doc__
    assert text and "AsyncEngine" not in text


def test_nothing_of_the_async_engine_is_missing() -> None:
    public = {name for name in vars(AsyncEngine) if not name.startswith("_")}
    assert public - set(METHODS) == ONLY_ASYNC
