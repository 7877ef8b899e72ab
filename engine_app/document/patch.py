"""What differs between two graphs: the inverse of every edit, and what a redo makes again.

Graphs share all that did not change, so a patch of a small edit is small, however large the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from backend.graph import Graph, JsonValue, Link, Node, TrainingSettings
from engine_app.document.errors import EditError

T = TypeVar("T", Node, Link)


@dataclass(frozen=True, slots=True)
class Splice:
    """At ``start``, ``old`` stands before and ``new`` after."""

    start: int
    old: tuple[Node, ...] | tuple[Link, ...]
    new: tuple[Node, ...] | tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """All of a graph but nodes and links."""

    name: str
    training: TrainingSettings
    view: dict[str, JsonValue]
    format_version: int
    extra: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Patch:
    """Splices in ascending order, told in places of the graph before; settings as (before, after)."""

    nodes: tuple[Splice, ...] = ()
    links: tuple[Splice, ...] = ()
    settings: tuple[Settings, Settings] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.nodes or self.links or self.settings)

    def reversed(self) -> Patch:
        settings = (self.settings[1], self.settings[0]) if self.settings else None
        return Patch(_reversed(self.nodes), _reversed(self.links), settings)


def difference(before: Graph, after: Graph) -> Patch:
    """What leads from one to the other."""
    old, new = _settings(before), _settings(after)
    return Patch(
        _splices(before.nodes, after.nodes),
        _splices(before.links, after.links),
        None if old == new else (old, new),
    )


def patched(graph: Graph, patch: Patch) -> Graph:
    """Raises EditError if the graph is not the one that the patch starts from."""
    settings = _settings(graph)
    if patch.settings is not None:
        if settings != patch.settings[0]:
            raise EditError("the graph's settings are not those that this step starts from")
        settings = patch.settings[1]
    return replace(
        graph,
        nodes=_spliced(graph.nodes, patch.nodes),
        links=_spliced(graph.links, patch.links),
        name=settings.name,
        training=settings.training,
        view=settings.view,
        format_version=settings.format_version,
        extra=settings.extra,
    )


def _settings(graph: Graph) -> Settings:
    return Settings(graph.name, graph.training, dict(graph.view), graph.format_version, dict(graph.extra))


def _splices(old: tuple[T, ...], new: tuple[T, ...]) -> tuple[Splice, ...]:
    if old is new:
        return ()
    if len(old) == len(new):
        return _replaced(old, new)
    start = 0
    limit = min(len(old), len(new))
    while start < limit and (old[start] is new[start] or old[start] == new[start]):
        start += 1
    end = 0
    while end < limit - start and (old[-1 - end] is new[-1 - end] or old[-1 - end] == new[-1 - end]):
        end += 1
    return (Splice(start, old[start : len(old) - end], new[start : len(new) - end]),)


def _replaced(old: tuple[T, ...], new: tuple[T, ...]) -> tuple[Splice, ...]:
    """Equal lengths: one splice for each run of places that differ."""
    found: list[Splice] = []
    start = None
    for index in range(len(old) + 1):
        same = index == len(old) or old[index] is new[index] or old[index] == new[index]
        if same and start is not None:
            found.append(Splice(start, old[start:index], new[start:index]))
            start = None
        elif not same and start is None:
            start = index
    return tuple(found)


def _reversed(splices: tuple[Splice, ...]) -> tuple[Splice, ...]:
    shift = 0
    found = []
    for splice in splices:
        found.append(Splice(splice.start + shift, splice.new, splice.old))
        shift += len(splice.new) - len(splice.old)
    return tuple(found)


def _spliced(values: tuple[T, ...], splices: tuple[Splice, ...]) -> tuple[T, ...]:
    if not splices:
        return values
    found = list(values)
    for splice in reversed(splices):
        end = splice.start + len(splice.old)
        if tuple(found[splice.start : end]) != splice.old:
            raise EditError(f"place {splice.start} is not as this step left it")
        found[splice.start : end] = list(splice.new)  # type: ignore[arg-type]
    return tuple(found)
