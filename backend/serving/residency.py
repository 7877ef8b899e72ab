"""Which loaded models give way to another one: the one used longest ago. Pure.

A model that answers a request, or loads, is never among them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Resident:
    size_bytes: int
    in_flight: int = 0


class Residency:
    """What is loaded, in the order of its last use."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._residents: OrderedDict[str, _Resident] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return sum(resident.size_bytes for resident in self._residents.values())

    def in_flight(self, name: str) -> int:
        resident = self._residents.get(name)
        return 0 if resident is None else resident.in_flight

    def room_for(self, size_bytes: int) -> list[str] | None:
        """The models to unload so that ``size_bytes`` more fit; None if those in use leave no room now.

        A model that is larger than the whole budget may come in alone.
        """
        free = self._budget_bytes - self.held_bytes
        leaving: list[str] = []
        for name, resident in self._residents.items():
            if free >= size_bytes:
                break
            if not resident.in_flight:
                leaving.append(name)
                free += resident.size_bytes
        alone = len(leaving) == len(self._residents)
        return leaving if free >= size_bytes or alone else None

    def add(self, name: str, size_bytes: int) -> None:
        self._residents[name] = _Resident(size_bytes)

    def resize(self, name: str, size_bytes: int) -> None:
        self._residents[name].size_bytes = size_bytes

    def remove(self, name: str) -> None:
        del self._residents[name]

    def enter(self, name: str) -> None:
        """A request begins to use it."""
        self._residents[name].in_flight += 1
        self._residents.move_to_end(name)

    def leave(self, name: str) -> None:
        self._residents[name].in_flight -= 1
