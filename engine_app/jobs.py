"""The commands about jobs: ask an Engine, show what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_app.config import Config
from engine_app.entry import CommandError, report, run
from engine_app.plain import plain
from engine_app.sessions import EngineEndedError, Session, open_session
from engine_app.show import (
    Story,
    open_story,
    print_job,
    print_jobs,
    print_json,
    print_neighbours,
    print_peers,
    print_table,
)
from p2p.errors import P2PError
from p2p.pricing import format_tokens, parse_tokens

LEFT_UNPAID = "stopped following; the peer trains on and keeps the model: cyxwiz follow"
LEFT = "stopped following; the job waits, the peer pauses after one segment: cyxwiz follow"


@dataclass(frozen=True, slots=True)
class Order:
    graph: Path
    data: Path
    budget: str | None
    """In CYXWIZ, as it was typed."""
    segments: int
    peer: str | None = None
    """On the own network, unpaid: an id, an address, or any."""
    stream: bool = False
    private: tuple[str, ...] = ("test",)
    start: Path | None = None
    """A model with whose weights it begins."""
    start_partly: bool = False

    def units(self) -> int:
        """Of the budget, 0 for an unpaid job. Ends the command if it is no amount."""
        if self.peer is not None:
            return 0
        try:
            return parse_tokens(self.budget or "")
        except ValueError as error:
            report(CommandError(f"budget {error}"))


def with_session(
    config: Config,
    use: Callable[[Session], Awaitable[None]],
    interrupted: str = "interrupted",
    *,
    lan: bool = False,
    goes_on: bool = False,
) -> None:
    """``goes_on``: ``use`` is begun again, with an Engine of its own, where that of another command ends."""

    async def main() -> None:
        is_over = False
        while not is_over:
            is_over = True
            try:
                async with open_session(config, lan) as session:
                    await use(session)
            except* EngineEndedError:
                if not goes_on:
                    raise
                is_over = False

    run(main, config, interrupted)


def submit(config: Config, order: Order, *, follow: bool, as_json: bool) -> None:
    budget = order.units()

    async def use(session: Session) -> None:
        with open_story(as_json) as story:
            job = await session.ask(
                "submit",
                graph=str(order.graph),
                data=str(order.data),
                budget=budget,
                segments=order.segments,
                peer=order.peer,
                stream=order.stream,
                private=list(order.private),
                start=str(order.start) if order.start is not None else None,
                start_partly=order.start_partly,
            )
            terms = "unpaid" if order.peer else f"budget {format_tokens(budget)}"
            story.line(f"job {job['job_id']} submitted, {terms}")
            for note in notes_on(order.graph, order.private if order.stream else ()):
                story.line(note)
            job = await session.ask("follow", story.tell, job=job["job_id"], until_training=not follow)
        _close(job, as_json, over=follow)

    with_session(config, use, LEFT_UNPAID if order.peer else LEFT, lan=order.peer is not None)


def notes_on(graph: Path, private: Sequence[str]) -> list[str]:
    """What a graph asks of its training that a peer does otherwise."""
    from backend.serialize import load_graph

    training = load_graph(graph.read_bytes()).training
    found = []
    if training.patience:
        found.append(f"patience {training.patience} does not end a job early: all its steps are agreed on")
    if training.keep == "best" and "validation" in private:
        found.append("keep best: the peer sees no validation samples and keeps the last epoch's weights")
    return found


def follow(config: Config, job: str, as_json: bool) -> None:
    heard = Heard()

    async def use(session: Session) -> None:
        with open_story(as_json) as story:
            answer = await heard.follow(session, story, job)
        _close(answer, as_json, over=True)

    with_session(config, use, LEFT, goes_on=True)


class Heard:
    """How far a command has told the stories of its jobs: it goes on from there with another Engine."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    async def follow(self, session: Session, story: Story, job: str) -> dict[str, Any]:
        """To the job's end, whose summary it returns."""

        def tell(news: dict[str, Any]) -> None:
            story.tell(news)
            self._numbers[job] = max(self._numbers.get(job, 0), news.get("number", 0))

        found: dict[str, Any] = await session.ask("follow", tell, job=job, after=self._numbers.get(job, 0))
        return found


def _close(job: dict[str, Any], as_json: bool, *, over: bool) -> None:
    """Raises CommandError for a job that is over without a model."""
    if as_json:
        print_json(job)
    else:
        print_job(job)
    if not over:
        if not as_json:
            pauses = "" if job["unpaid"] else ", and pauses after one segment until"
            print(f"The peer trains{pauses}: cyxwiz follow {job['job_id'][:12]}")
    elif job["result"] is None:
        raise CommandError(f"job {job['job_id'][:12]} is {job['state']} and has no model")


def list_peers(config: Config, lan: bool, as_json: bool) -> None:
    async def use(session: Session) -> None:
        peers = await session.ask("peers", lan=lan)
        if as_json:
            print_json(peers)
        elif lan:
            print_neighbours(peers)
        else:
            print_peers(peers)

    with_session(config, use, lan=lan)


def show_id(config: Config, as_json: bool) -> None:
    """Needs no session: the key alone says who this Engine is."""
    from p2p.identity import load_or_create_identity
    from p2p.session.places import Places

    try:
        peer_id = load_or_create_identity(Places(config.data_dir).identity).peer_id
    except (P2PError, OSError) as error:
        report(error)
    if as_json:
        print_json({"peer_id": peer_id})
    else:
        print(peer_id)


def list_jobs(config: Config, as_json: bool) -> None:
    async def use(session: Session) -> None:
        jobs = await session.ask("jobs")
        if as_json:
            print_json(jobs)
        else:
            print_jobs(jobs)

    with_session(config, use)


def order(config: Config, name: str, job: str, as_json: bool, **parameters: float) -> None:
    """pause, resume, cancel or set_rate."""

    async def use(session: Session) -> None:
        answer = await session.ask(name, job=job, **parameters)
        if as_json:
            print_json(answer)
        else:
            print_job(answer)

    with_session(config, use)


def fetch(config: Config, job: str, output: Path | None, as_json: bool) -> None:
    async def use(session: Session) -> None:
        target = output
        if target is None:
            known = [item for item in await session.ask("jobs") if item["job_id"].startswith(job)]
            name = known[0]["name"] if len(known) == 1 else ""
            target = Path.cwd() / f"{_file_name(name) or 'model'}.cyxmodel"
        answer = await session.ask("fetch", job=job, target=str(target))
        if as_json:
            print_json(answer)
        else:
            print(f"{answer['path']}  {answer['result']['blake3']}")

    with_session(config, use)


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text).strip("-")[:64]


def estimate(config: Config, order: Order, as_json: bool) -> None:
    """Ends with status 1 if there is a budget and no peer would do it for that."""
    budget = None if order.budget is None else order.units()

    async def use(session: Session) -> None:
        words = {"graph": str(order.graph), "data": str(order.data), "segments": order.segments}
        answer = await session.ask("estimate", **words)
        if as_json:
            print_json(answer)
        else:
            _print_estimate(answer)
        if budget is not None:
            _check_budget(budget, answer)

    with_session(config, use)


def _check_budget(budget: int, answer: dict[str, Any]) -> None:
    """Raises CommandError."""
    cheapest = min((quote["amount"] for quote in answer["quotes"]), default=None)
    if cheapest is not None and cheapest > budget:
        raise CommandError(
            f"budget {format_tokens(budget)}, the cheapest acceptable quote is {format_tokens(cheapest)}"
        )


def _print_estimate(answer: dict[str, Any]) -> None:
    print(
        f"{plain(answer['name'])}: {answer['parameters']} parameters, {answer['samples']} samples, ", end=""
    )
    print(f"{answer['training_flops'] / 1e9:.2f} GFLOP, {answer['memory_bytes'] / 1e6:.0f} MB")
    rows = [
        (
            quote["peer_id"],
            format_tokens(quote["amount"]),
            f"{quote['duration_ms'] / 1000:.1f} s",
            format_tokens(quote["price_per_hour"]),
            f"{quote['reputation']:.2f}",
        )
        for quote in answer["quotes"]
    ]
    if rows:
        print_table(("peer", "cost", "time", "an hour", "reputation"), rows)
    else:
        print("no peer fits now")
    for refused in answer["rejected"]:
        print(f"not {refused['peer_id']}: {plain(refused['reason'])}")
