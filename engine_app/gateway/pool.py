"""The endpoints of a gateway by model: what each carries, whether it answers, and who is asked next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog
import trio

from backend.serving.stats import ModelStats
from engine_app.gateway.balance import Load, begun, choose, ended, measured
from engine_app.gateway.endpoint import Endpoint, Place
from engine_app.gateway.errors import EndpointLostError
from engine_app.gateway.health import WELL, Health, after_late, after_loss
from engine_app.gateway.measures import EndpointReading

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
LOOK_TIMEOUT_S = 5.0


@dataclass(slots=True, eq=False)
class Member:
    """An endpoint, and what is known of it here."""

    endpoint: Endpoint
    place: Place
    load: Load
    health: Health = WELL
    stats: ModelStats = field(default_factory=ModelStats)
    retried: int = 0
    uses: set[Use] = field(default_factory=set)

    def give_up(self) -> None:
        for use in tuple(self.uses):
            use.give_up()


class Use:
    """One request's use of an endpoint, until ``scope`` is left; what becomes of it is noted once."""

    def __init__(self, member: Member, pool: Pool) -> None:
        self.member = member
        self.scope = trio.CancelScope()
        self.is_given_up = False
        self._pool = pool
        self._began_at = trio.current_time()
        self._noted = False

    def answered(self, status: int) -> None:
        """Its answer has begun. How fast a refusal comes says nothing of how fast it works."""
        took_s = trio.current_time() - self._began_at
        self._note(_outcome(status), took_s if status < 400 else None)
        self._pool.set_health(self.member, WELL)

    def busy(self) -> None:
        """Which says neither that it works nor that it is gone: its worker may be on its way."""
        self._note("busy", None)

    def lost(self) -> None:
        self._note("lost", None)
        self._pool.note_loss(self.member)

    def late(self) -> None:
        self._note("late", None)
        self._pool.note_late(self.member)

    def give_up(self) -> None:
        """Its endpoint is gone; unless an answer has begun, another one shall give it."""
        if not self._noted:
            self.is_given_up = True
            self._note("lost", None)
            self.scope.cancel()

    def end(self) -> None:
        """Whatever happened to it."""
        if not self._noted:
            self._note("left", None)

    def _note(self, outcome: str, latency_s: float | None) -> None:
        member = self.member
        if self._noted:
            return
        self._noted = True
        if latency_s is None:
            member.stats.requests[outcome] += 1
        else:
            member.stats.note_request(outcome, latency_s)
            member.load = measured(member.load, latency_s, trio.current_time())


class Pool:
    """``is_allowed`` is asked for every request and every look. ``draw``: numbers from 0 up to 1."""

    def __init__(
        self,
        is_allowed: Callable[[Place], bool],
        draw: Callable[[], float],
        on_change: Callable[[Member], None],
    ) -> None:
        self._is_allowed = is_allowed
        self._draw = draw
        self._on_change = on_change
        self._members: dict[str, list[Member]] = {}
        self._choices = 0
        self._removed: list[Member] = []
        """Those that still have requests."""
        self._withdrawn: set[str] = set()
        self._changed = trio.Event()
        """Set when the health of any changes."""

    def add(self, endpoint: Endpoint, place: Place, *, is_ready: bool = True) -> Member:
        """Its health must be watched by ``watch``. One that is not ready is asked nothing until it is."""
        member = Member(endpoint, place, Load(endpoint.name))
        if not is_ready:
            member.health = after_loss(WELL, trio.current_time(), self._draw())
        self._members.setdefault(place.model, []).append(member)
        self._rescue(place.model)
        return member

    def remove(self, member: Member) -> None:
        """An answer that has begun goes on; what waits for one goes elsewhere, as soon as that can be."""
        model = member.place.model
        left = [each for each in self._members.get(model, ()) if each is not member]
        if left:
            self._members[model] = left
        else:
            self._members.pop(model, None)
        self._removed = [each for each in (*self._removed, member) if each.uses]
        if not self._is_allowed(member.place):
            member.give_up()  # nothing is sent there again, as after a loss it would be
        self._rescue(model)

    @property
    def members(self) -> list[Member]:
        """Those that are not allowed left out, as everywhere."""
        return [each for model in self._members for each in self.of(model)]

    def of(self, model: str) -> list[Member]:
        return [each for each in self._members.get(model, ()) if self._is_allowed(each.place)]

    def ready(self) -> dict[str, bool]:
        """By model, whether one of its endpoints answers."""
        found: dict[str, bool] = {}
        for member in self.members:
            model = member.place.model
            is_up = member.health.is_up and model not in self._withdrawn
            found[model] = found.get(model, False) or is_up
        return found

    def withdraw(self, model: str) -> None:
        """Takes no more requests for it, until ``restore``."""
        self._withdrawn.add(model)

    def restore(self, model: str) -> None:
        self._withdrawn.discard(model)

    def is_withdrawn(self, model: str) -> bool:
        return model in self._withdrawn

    def choose(self, model: str, tried: set[str]) -> Member | None:
        up = {each.endpoint.name: each for each in self.of(model) if each.health.is_up}
        best = choose((each.load for each in up.values()), tried, trio.current_time())
        return None if best is None else up[best.name]

    def is_up(self, model: str) -> bool:
        return any(each.health.is_up for each in self.of(model))

    async def wait_until_up(self, model: str) -> None:
        while not self.is_up(model):
            await self._changed.wait()

    @contextmanager
    def use(self, member: Member) -> Iterator[Use]:
        self._choices += 1
        member.load = begun(member.load, self._choices)
        use = Use(member, self)
        member.uses.add(use)
        try:
            yield use
        finally:
            use.end()
            member.uses.discard(use)
            member.load = ended(member.load)

    def note_loss(self, member: Member) -> None:
        self.set_health(member, after_loss(member.health, trio.current_time(), self._draw()))

    def note_late(self, member: Member) -> None:
        self.set_health(member, after_late(member.health, trio.current_time(), self._draw()))

    def set_health(self, member: Member, health: Health) -> None:
        was_up, member.health = member.health.is_up, health
        if was_up != health.is_up:
            log.info("endpoint changed", endpoint=member.endpoint.name, is_up=health.is_up)
            self._changed.set()
            self._changed = trio.Event()
            self._on_change(member)
            self._rescue(member.place.model)

    def _rescue(self, model: str) -> None:
        """What waits at endpoints that are gone goes to one that is up, if there is one."""
        if not self.is_up(model):
            return
        for member in self._members.get(model, ()):
            if not member.health.is_up:
                member.give_up()
        for member in self._removed:
            if member.place.model == model:
                member.give_up()

    def readings(self) -> list[EndpointReading]:
        return [
            EndpointReading(
                each.place.model,
                each.endpoint.name,
                each.stats,
                each.retried,
                each.load.in_flight,
                each.load.queue_depth,
                each.health.is_up,
            )
            for each in self.members
        ]

    async def watch(self, member: Member) -> None:
        """Asks it how it is, now and then; more seldom the longer it does not answer."""
        while True:
            if self._is_allowed(member.place) and not self.is_withdrawn(member.place.model):
                await self._look(member)
            await self._until_due(member, trio.current_time() + LOOK_EVERY_S)

    async def _until_due(self, member: Member, next_look: float) -> None:
        """Until ``next_look``, or while it is down until it may be back."""
        while True:
            due = next_look if member.health.is_up else member.health.look_at
            if trio.current_time() >= due:
                return
            with trio.move_on_at(due):
                await self._changed.wait()

    async def _look(self, member: Member) -> None:
        try:
            with trio.fail_after(LOOK_TIMEOUT_S):
                status = await member.endpoint.status()
        except (EndpointLostError, trio.TooSlowError):
            self.note_loss(member)
            return
        member.load = replace(member.load, queue_depth=status.queue_depth)
        if status.is_ready:
            self.set_health(member, WELL)
        else:
            self.note_loss(member)


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status in (429, 503):
        return "busy"
    return "refused" if status < 500 else "failed"
