"""The line of local trainings of a data directory: who runs, who waits for whom, what was cut short.

Each is a directory ``trainings/local-N`` whose process holds a lock on it while it lives, so a
process that was killed is in nobody's way. One at a time holds the slot; the rest wait by number.
Starts no training and reads no clock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_app.entry import CommandError
from p2p.datadir import write_atomic

NAME = re.compile(r"local-([1-9][0-9]{0,8})")
LOCK, TICKET, ORDER, SLOT, CONTROL = "lock", "ticket.json", "order.json", "slot", "control"
FAILURE = "failure.txt"
MAX_REASON = 2000
MAX_FAILED = 20
"""So many that failed for good are remembered."""


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Written once a process takes the place, and again by one that goes on with it."""

    kind: str
    """train, find-rate or sweep."""
    title: str
    pid: int
    at_once: bool
    """Runs beside others and waits for none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A training as others see it."""

    name: str
    directory: Path
    ticket: Ticket
    is_alive: bool
    can_go_on: bool
    """Was told all it needs (its order is on disk)."""
    failure: str = ""
    """Why it failed; empty for one that runs, or was only cut short."""

    @property
    def number(self) -> int:
        return number_of(self.name)

    @property
    def is_worth_listing(self) -> bool:
        return self.is_alive or self.can_go_on or bool(self.failure)


def number_of(name: str) -> int:
    """Raises CommandError for what is no name of a local training."""
    found = NAME.fullmatch(name)
    if found is None:
        raise CommandError(f"no local training is called {name!r}; `cyxwiz trainings` lists them")
    return int(found[1])


def is_local(name: str) -> bool:
    """Whether a command means a local training, not a job."""
    return NAME.fullmatch(name) is not None


def ahead_of(number: int, entries: Iterable[Entry]) -> list[Entry]:
    """Those that a training waits for by their number, first come first."""
    waited = (each for each in entries if each.is_alive and not each.ticket.at_once)
    return sorted((each for each in waited if each.number < number), key=lambda each: each.number)


class Place:
    """A training's directory, held by this process. Made by ``TrainingLine``."""

    def __init__(self, line: TrainingLine, name: str, ticket: Ticket, held: ExitStack) -> None:
        self._line = line
        self._held = held
        self.name = name
        self.ticket = ticket
        self.directory = line.directory / name

    @property
    def control(self) -> Path:
        return self.directory / CONTROL

    def write_order(self, order: msgspec.Struct) -> None:
        """From now on it can be gone on with after a crash."""
        write_atomic(self.directory / ORDER, msgspec.json.encode(order))

    def waits_for(self) -> list[str]:
        """Empty when it may start: it then holds the slot until its process ends."""
        return self._line.try_start(self, self._held)

    def discard(self) -> None:
        """Forgets it, with its data and checkpoint."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def fail(self, reason: str, can_go_on: bool) -> None:
        """Has others see why it ended; one that cannot go on keeps nothing else."""
        write_atomic(self.directory / FAILURE, reason[:MAX_REASON].encode())
        if not can_go_on:
            for path in self.directory.iterdir():
                if path.name not in (LOCK, TICKET, FAILURE):
                    _remove(path)


class TrainingLine:
    """All local trainings of a data directory. Every look and every change is made under one lock."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / "trainings"

    @contextmanager
    def open(self, kind: str, title: str, at_once: bool) -> Iterator[Place]:
        """A new place at the end of the line."""
        ticket = Ticket(kind, title[:128], os.getpid(), at_once)
        with ExitStack() as held:
            with self._turn() as counter:
                self._sweep()
                name = f"local-{_next_number(counter, self._names())}"
                (self.directory / name).mkdir(mode=0o700)
                held.enter_context(_locked(self.directory / name / LOCK))
                write_atomic(self.directory / name / TICKET, msgspec.json.encode(ticket))
            yield Place(self, name, ticket, held)

    @contextmanager
    def reopen(self, name: str, at_once: bool) -> Iterator[Place]:
        """The place of a training that was cut short. Raises CommandError."""
        number_of(name)
        with ExitStack() as held:
            with self._turn():
                entry = self._entry(name)
                if entry is None or not entry.is_worth_listing:
                    raise CommandError(f"no training {name}; `cyxwiz trainings` lists them")
                if not entry.can_go_on:
                    raise CommandError(f"{name} failed and cannot go on: {entry.failure}")
                if entry.is_alive:
                    raise CommandError(f"{name} is in use by process {entry.ticket.pid}")
                held.enter_context(_locked(entry.directory / LOCK))
                ticket = msgspec.structs.replace(entry.ticket, pid=os.getpid(), at_once=at_once)
                write_atomic(entry.directory / TICKET, msgspec.json.encode(ticket))
                (entry.directory / FAILURE).unlink(missing_ok=True)
            yield Place(self, name, ticket, held)

    def forget(self, name: str) -> None:
        """One that does not run, with all that is kept of it. Raises CommandError."""
        number_of(name)
        with self._turn():
            entry = self._entry(name)
            if entry is not None and entry.is_alive:
                raise CommandError(f"{name} is in use by process {entry.ticket.pid}")
            shutil.rmtree(self.directory / name, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """By number; without those that were cut short before anything of them was worth keeping."""
        if not self.directory.is_dir():
            return []
        with self._turn():
            found = (self._entry(name) for name in self._names())
            return [entry for entry in found if entry and entry.is_worth_listing]

    def try_start(self, place: Place, held: ExitStack) -> list[str]:
        if place.ticket.at_once:
            return []
        with self._turn():
            entries = [entry for name in self._names() if (entry := self._entry(name))]
            ahead = [each.name for each in ahead_of(number_of(place.name), entries)]
            if ahead:
                return ahead
            slot = ExitStack()
            try:
                descriptor = slot.enter_context(_locked(self.directory / SLOT))
            except BlockingIOError:
                return [_text(self.directory / SLOT) or "another training"]
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, place.name.encode(), 0)
            held.enter_context(slot)
            return []

    # -- under the lock ------------------------------------------------------------------------

    @contextmanager
    def _turn(self) -> Iterator[int]:
        """Holds the line's lock, for moments only; gives the descriptor of its file."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.directory / LOCK, wait=True) as descriptor:
            yield descriptor

    def _names(self) -> list[str]:
        found = [path.name for path in self.directory.iterdir() if NAME.fullmatch(path.name)]
        return sorted(found, key=number_of)

    def _entry(self, name: str) -> Entry | None:
        directory = self.directory / name
        try:
            ticket = msgspec.json.decode((directory / TICKET).read_bytes(), type=Ticket)
            # It may be discarded while it is looked at: that takes no turn.
            is_alive = _is_locked(directory / LOCK)
        except (OSError, msgspec.MsgspecError):
            return None
        failure = "" if is_alive else _text(directory / FAILURE, MAX_REASON)
        return Entry(name, directory, ticket, is_alive, (directory / ORDER).exists(), failure)

    def _sweep(self) -> None:
        """Removes what died before it could be gone on with, and what failed long ago."""
        failed = 0
        for name in reversed(self._names()):
            entry = self._entry(name)
            failed += bool(entry and entry.failure and not entry.can_go_on)
            if entry is None or not entry.is_worth_listing or (not entry.can_go_on and failed > MAX_FAILED):
                shutil.rmtree(self.directory / name, ignore_errors=True)


def _next_number(counter: int, names: list[str]) -> int:
    """One above all numbers given so far, which the lock's own file remembers."""
    text = os.pread(counter, 32, 0).decode(errors="replace").strip()
    last = max([int(text) if text.isdecimal() else 0, *map(number_of, names)])
    os.pwrite(counter, f"{last + 1:<31}\n".encode(), 0)
    return last + 1


@contextmanager
def _locked(path: Path, *, wait: bool = False) -> Iterator[int]:
    """Raises BlockingIOError where another holds it. The file stays: see ``p2p.datadir``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        with _locked(path):
            return False
    except BlockingIOError:
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _text(path: Path, most: int = 32) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")[:most]
    return ""
