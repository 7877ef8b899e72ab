"""Models of deployments answer here first: one at a time, and once for all replicas that wait for it.

So that the last of many replicas knows its questions about when the first does. Each has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from p2p.disk import RunBlocking
from p2p.session.errors import SessionError
from p2p.session.owner import DataOwner
from p2p.session.trial import QUESTIONS, Trial

MAX_TRIED_BYTES = 512 << 20
"""Of a model that is loaded here to know what it answers."""
SEED_BITS = 52
"""As much as a record holds."""


@dataclass(slots=True, eq=False)
class _Wish:
    seeds: tuple[int, ...]
    trial: Trial | None = None


class Trying:
    def __init__(
        self, owner: DataOwner, workspace: Path, run_blocking: RunBlocking, draw_bits: Callable[[int], int]
    ) -> None:
        """``draw_bits``: so many that nobody can foretell."""
        self._owner = owner
        self._workspace = workspace
        self._run_blocking = run_blocking
        self._draw_bits = draw_bits
        self._wishes: dict[Path, list[_Wish]] = {}
        """That wait, by model."""
        self._trying = trio.Lock()
        """Each try takes the memory of a worker."""

    async def tried(self, model: Path, size: int) -> Trial:
        """What it answers, or why that is not known."""
        if size > MAX_TRIED_BYTES:
            return await self._untried(model, f"model of {size} bytes, tried here up to {MAX_TRIED_BYTES}")
        wish = _Wish(tuple(self._draw_bits(SEED_BITS) for _ in range(QUESTIONS)))
        wishes = self._wishes.setdefault(model, [])
        wishes.append(wish)
        try:
            async with self._trying:
                return wish.trial or await self._try_for(model, wish, wishes)
        finally:
            wishes.remove(wish)
            if not wishes:
                self._wishes.pop(model, None)

    async def _try_for(self, model: Path, wish: _Wish, all_of_it: Sequence[_Wish]) -> Trial:
        """For the others that wait as well, as far as there is time: their questions take turns."""
        wishes = (wish, *(other for other in all_of_it if other is not wish and other.trial is None))
        turns = zip(*(each.seeds for each in wishes), strict=True)
        self._workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(dir=self._workspace) as name:
                trial = await self._owner.try_model(model, Path(name), list(chain.from_iterable(turns)))
            shares = [_share(trial, each) for each in wishes]
        except (SessionError, OSError, msgspec.ValidationError) as error:
            trial = await self._untried(model, str(error)[:4000])
            shares = [trial] * len(wishes)
        for each, share in zip(wishes, shares, strict=True):
            if share.questions or share.untried:
                each.trial = share
        return shares[0]

    async def _untried(self, model: Path, reason: str) -> Trial:
        takes_all = await self._run_blocking(self._owner.takes_all, model)
        return Trial(untried=reason, takes_all=takes_all)


def _share(trial: Trial, wish: _Wish) -> Trial:
    """As it is read again. Raises msgspec.ValidationError."""
    answered = {question.seed: question for question in trial.questions}
    questions = tuple(answered[seed] for seed in wish.seeds if seed in answered)
    return msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(trial, questions=questions)), Trial)
