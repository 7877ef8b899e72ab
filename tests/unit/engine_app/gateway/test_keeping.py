"""A gateway goes on with the deployments that it answers for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import trio

from engine_app.gateway.keeping import Keeper
from p2p.errors import ConnectionFailedError, P2PError
from tests.unit.engine_app.gateway.gateways import until


@dataclass
class Line:
    number: int


@pytest.mark.virtual_clock
async def test_each_is_gone_on_with_until_it_is_over_also_after_trouble() -> None:
    followed: list[tuple[str, int]] = []
    troubles: list[tuple[str, str]] = []
    stories: dict[str, list[list[Line | P2PError]]] = {
        "a": [[Line(1), Line(2), ConnectionFailedError("no coordinator")], [Line(3)]],
        "b": [[Line(1)]],
    }

    async def follow(job: str, after: int) -> AsyncIterator[Line]:
        followed.append((job, after))
        await trio.lowlevel.checkpoint()
        for line in stories[job].pop(0):
            if isinstance(line, P2PError):
                raise line
            yield line

    async with trio.open_nursery() as nursery:
        keeper = Keeper(nursery, follow, lambda job, text: troubles.append((job, text)))
        keeper.keep(["a"])
        keeper.keep(["a", "b"])
        await until(lambda: not any(stories.values()))
    assert sorted(followed) == [("a", 0), ("a", 2), ("b", 0)]
    assert troubles == [("a", "no coordinator")]
