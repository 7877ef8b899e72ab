"""Deployments at peers, as commands see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from engine_app.config import Config
from engine_app.entry import CommandError, report
from engine_app.jobs import Heard, with_session
from engine_app.plain import plain
from engine_app.sessions import EngineEndedError, Session
from engine_app.show import Story, open_story, print_job, print_json, print_table
from p2p.errors import LocalProtocolError
from p2p.jobs import JobState
from p2p.pricing import format_tokens, parse_tokens
from p2p.transfer_rate import parse_bytes

SEEN_BY_PEER = "the peer that serves it sees everything that is asked of it"
LEFT = "left; its peer stops answering once a period is not paid: cyxwiz deployments watch"
PLACED_TIMEOUT_S = 120.0
ENDED_EARLY = frozenset({"failed", "refunded", "expired"})
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``cyxwiz deploy`` was told, and found."""

    model: Path
    tokenizer: Path | None
    name: str
    budget: int
    """Units of one replica; 0 for unpaid ones."""
    minutes: int
    replicas: int
    peers: tuple[str, ...]
    lan: str | None
    memory_bytes: int
    gpu_layers: int
    context: int


def read_order(options: dict[str, Any]) -> Wanted:
    """Ends the command for what cannot be used."""
    from engine_app.gateway.allowed_file import checked_peer
    from engine_app.serving import find_model, model_name

    try:
        model, tokenizer = find_model(options["model"], options["tokenizer"])
        return Wanted(
            model=model,
            tokenizer=tokenizer,
            name=model_name(options["name"] or options["model"].stem),
            budget=_units(options["budget"]),
            minutes=options["minutes"],
            replicas=max(options["replicas"], len(options["peers"])),
            peers=tuple(checked_peer(peer) for peer in options["peers"]),
            lan=options["lan"],
            memory_bytes=_bytes(options["memory"]),
            gpu_layers=options["gpu_layers"],
            context=options["context_tokens"],
        )
    except CommandError as error:
        report(error)


def deploy(config: Config, wanted: Wanted, as_json: bool) -> None:
    """Stays until all replicas are over, and what extends them."""
    watching = _Watching(as_json)

    async def use(session: Session) -> None:
        with open_story(as_json, names_jobs=wanted.replicas > 1) as story:
            async with trio.open_nursery() as nursery:
                for deployment in watching.known:
                    nursery.start_soon(watching.watch, session, story, deployment)
                while len(watching.known) < wanted.replicas:
                    taken = [await _placed(session, each) for each in watching.known]
                    deployment = await _submit(session, story, wanted, taken)
                    watching.known.append(deployment)
                    nursery.start_soon(watching.watch, session, story, deployment)
        watching.close()

    with_session(config, use, LEFT, lan=wanted.lan is not None, goes_on=True)


async def _submit(session: Session, story: Story, wanted: Wanted, taken: list[str]) -> str:
    """One replica more. Raises CommandError where it is not known whether it was begun."""
    try:
        job = await session.ask("deploy", **_parameters(wanted, taken))
    except EngineEndedError as error:
        raise CommandError(f"{error}: `cyxwiz deployments` lists what was begun") from error
    terms = "unpaid" if wanted.lan else f"budget {format_tokens(wanted.budget)}"
    story.line(f"deployment {job['job_id']} submitted, {terms}; {SEEN_BY_PEER}")
    return str(job["job_id"])


def _parameters(wanted: Wanted, taken: list[str]) -> dict[str, Any]:
    """Of one replica: never two at one peer, unless it was named several times."""
    number = len(taken)
    named = wanted.peers[number : number + 1] or wanted.peers[:1]
    return {
        "model": str(wanted.model),
        "name": wanted.name,
        "tokenizer": str(wanted.tokenizer) if wanted.tokenizer is not None else None,
        "budget": wanted.budget,
        "peer": wanted.lan,
        "allow": list(named),
        "deny": [] if named else list(taken),
        "periods": wanted.minutes,
        "memory_bytes": wanted.memory_bytes,
        "gpu_layers": wanted.gpu_layers,
        "context": wanted.context,
    }


async def _placed(session: Session, deployment: str) -> str:
    """The peer that it was given to. Raises CommandError."""
    with trio.move_on_after(PLACED_TIMEOUT_S):
        while True:
            found = next(each for each in await session.ask("deployments") if each["id"] == deployment)
            if found["peer_id"] is not None:
                return str(found["peer_id"])
            await trio.sleep(LOOK_S)
    raise CommandError(f"deployment {deployment[:12]} has no peer after {PLACED_TIMEOUT_S:g} s")


class _Watching:
    """Deployments that one command pays for, with whatever Engine."""

    def __init__(self, as_json: bool) -> None:
        self.known: list[str] = []
        self._as_json = as_json
        self._heard = Heard()
        self.ended: dict[str, dict[str, Any]] = {}

    async def watch(self, session: Session, story: Story, deployment: str) -> None:
        """To its end, and to that of what continues it, which is paid for as well."""
        self.ended[deployment] = await self._heard.follow(session, story, deployment)
        for each in await session.ask("deployments"):
            if each["continues"] == deployment and not JobState(each["state"]).is_final:
                story.line(f"extended by {each['id'][:12]}")
                await self.watch(session, story, each["id"])

    def close(self) -> None:
        """Raises CommandError where nothing was served, or not all of it though the user did not stop it."""
        jobs = self.ended.values()
        for job in jobs:
            print_json(job) if self._as_json else print_job(job)
        for job in jobs:
            if not job["segments_done"] or job["state"] in ENDED_EARLY:
                served = f"{job['segments_done']} of {job['segments']} periods served"
                raise CommandError(
                    f"deployment {job['job_id'][:12]} is {job['state']}, {served}: {job['text']}"
                )


def watch(config: Config, deployment: str, as_json: bool) -> None:
    watching = _Watching(as_json)

    async def use(session: Session) -> None:
        if not watching.known:
            watching.known.append(await find_deployment(session, deployment))
        with open_story(as_json) as story:
            await watching.watch(session, story, watching.known[0])
        watching.close()

    with_session(config, use, LEFT, goes_on=True)


def list_all(config: Config, as_json: bool) -> None:
    async def use(session: Session) -> None:
        found = await session.ask("deployments")
        if as_json:
            print_json(found)
        elif not found:
            print("no deployments yet: cyxwiz deploy MODEL --any --budget 1")
        else:
            columns = ("deployment", "model", "state", "peer", "served", "left", "paid", "last")
            print_table(columns, map(_row, found))

    with_session(config, use)


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["id"][:12],
        f"{each['name']} ({each['format']})",
        each["state"],
        (each["peer_id"] or "")[-12:],
        _minutes(each["served_s"]),
        _minutes(each["left_s"]),
        format_tokens(each["paid"]),
        each["text"],
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def status(config: Config, deployment: str, as_json: bool) -> None:
    async def use(session: Session) -> None:
        found = await session.ask("deployment_status", deployment=await find_deployment(session, deployment))
        if as_json:
            print_json(found)
            return
        for name, value in found.items():
            if value not in ("", [], None) and not isinstance(value, dict | list):
                print(f"{name.replace('_', ' '):<15} {plain(str(value))}")

    with_session(config, use)


def extend(config: Config, deployment: str, minutes: int, budget: str | None, as_json: bool) -> None:
    """Returns once the coordinator has it; whoever pays for the first one pays for the second, too."""
    units = _units(budget)

    async def use(session: Session) -> None:
        found = await find_deployment(session, deployment)
        job = await session.ask("extend", deployment=found, periods=minutes, budget=units)
        print_json(job) if as_json else print_job(job)

    with_session(config, use)


def stop(config: Config, deployment: str, as_json: bool) -> None:
    async def use(session: Session) -> None:
        job = await session.ask("cancel", job=await find_deployment(session, deployment))
        print_json(job) if as_json else print_job(job)

    with_session(config, use)


async def find_deployment(session: Session, name: str) -> str:
    """By id, the unique beginning of one, or the name of a running one. Raises CommandError."""
    known = await session.ask("deployments")
    found = [each for each in known if each["id"].startswith(name)] or [
        each for each in known if each["name"] == name and each["is_running"]
    ]
    if len(found) == 1:
        return str(found[0]["id"])
    what = "no deployment" if not found else f"{len(found)} deployments"
    raise CommandError(f"{what} called {name[:80]!r}: `cyxwiz deployments` lists them")


def _units(budget: str | None) -> int:
    """0 for none. Ends the command if it is no amount."""
    if budget is None:
        return 0
    try:
        return parse_tokens(budget)
    except ValueError as error:
        report(CommandError(f"budget {error}"))


def _bytes(text: str | None) -> int:
    """0 for none. Raises CommandError."""
    if text is None:
        return 0
    try:
        return parse_bytes(text)
    except LocalProtocolError as error:
        raise CommandError(f"memory of {error}") from error
