"""``cyxwiz find-rate``: tries learning rates in a worker of this machine and suggests one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from backend.errors import WorkerFailedError
from backend.graph import Graph
from backend.pipeline import read_optimizer
from backend.rate_finder import smoothed, suggest
from backend.reports import Failed, FindRate, RatesTried, RateTried
from backend.serialize import dump_graph, load_graph
from backend.workers.supervisor import PoolConfig, Worker, open_pool
from engine_app.attended import OnlyCancelled, attended, wait_for_turn
from engine_app.checks import DATA_FILE, BackendChecks
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.rate_plot import plot
from engine_app.show import Story, open_story, print_json
from engine_app.training_order import MEMORY_BYTES, RUNTIME_BYTES, START, copy_start
from engine_app.training_queue import Place, TrainingLine
from p2p.datadir import write_atomic


@dataclass(frozen=True, slots=True)
class RateWish:
    """What was asked for on the command line."""

    graph: Path
    data: Path
    device: str
    steps: int
    lowest: float
    highest: float
    at_once: bool
    output: Path | None
    """Where to write the graph with the rate that is suggested."""
    start: Path | None = None
    """A model with whose weights it begins."""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool
    suggestion: float | None


def find_rate(config: Config, wish: RateWish, as_json: bool) -> None:
    async def main() -> None:
        if wish.lowest >= wish.highest:
            raise CommandError(f"rates from {wish.lowest:g} to {wish.highest:g}: they must grow")
        with (
            open_story(as_json) as story,
            TrainingLine(config.data_dir).open("find-rate", wish.graph.name, wish.at_once) as place,
        ):
            try:
                found = await RateSearch(place, wish, story).run()
            finally:
                place.discard()
        _close(wish, found, as_json)

    run(main, config)


def _close(wish: RateWish, found: Found, as_json: bool) -> None:
    graph = load_graph(wish.graph.read_bytes())
    if wish.output is not None and found.suggestion is not None:
        changed = with_rate(graph, found.suggestion)
        write_atomic(wish.output, dump_graph(changed), mode=0o644)
    if as_json:
        print_json(_as_json(found))
        return
    if found.losses:
        print("\n".join(plot(found.rates, smoothed(found.losses), found.suggestion)))
    if found.suggestion is None:
        raise CommandError("the loss never fell: no rate can be suggested; try other limits or more steps")
    now = read_optimizer(graph).parameters["learning_rate"]
    print(f"suggested rate {found.suggestion:.2e}, where the loss falls fastest; the graph has {now:.2e}")


def _as_json(found: Found) -> dict[str, Any]:
    return {
        "suggestion": found.suggestion,
        "diverged": found.diverged,
        "rates": list(found.rates),
        "losses": list(found.losses),
        "smoothed": smoothed(found.losses),
    }


def with_rate(graph: Graph, rate: float) -> Graph:
    """With another learning rate, in three digits."""
    optimizer = read_optimizer(graph).node_id
    nodes = tuple(
        replace(node, parameters={**node.parameters, "learning_rate": float(f"{rate:.2e}")})
        if node.id == optimizer
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


class RateSearch:
    def __init__(self, place: Place, wish: RateWish, story: Story) -> None:
        self._place = place
        self._wish = wish
        self._story = story
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._controls = OnlyCancelled(
            place.name, "trying rates", lambda: (len(self._rates), self._wish.steps)
        )

    async def run(self) -> Found:
        """Raises WorkerError, and CommandError when the user stops it."""
        wish, controls = self._wish, self._controls
        found: Found | None = None
        async with attended(self._place, controls.control, controls.on_signal):
            with controls.scope:
                document = wish.graph.read_bytes()
                prepare = BackendChecks(here=True).prepare
                prepared = await trio.to_thread.run_sync(prepare, document, wish.data, self._place.directory)
                await wait_for_turn(self._place, self._story, controls.note_wait)
                config = PoolConfig(
                    directory=self._place.directory / "workers",
                    prewarmed=0,
                    memory_bytes=max(MEMORY_BYTES, RUNTIME_BYTES + 2 * prepared.memory_bytes),
                    device=wish.device,
                )
                async with open_pool(config) as pool:
                    found = await self._search(await pool.acquire(), prepared.graph)
        if found is None:
            raise CommandError("stopped: no rate was found")
        return found

    async def _search(self, worker: Worker, graph: bytes) -> Found:
        wish = self._wish
        source = self._place.directory / DATA_FILE
        await trio.to_thread.run_sync(shutil.copyfile, source, worker.directory / DATA_FILE)
        if wish.start is not None:
            await trio.to_thread.run_sync(copy_start, wish.start, worker.directory / START)
        command = FindRate(
            dataset=DATA_FILE,
            device=wish.device,
            steps=wish.steps,
            lowest=wish.lowest,
            highest=wish.highest,
            start=START if wish.start is not None else None,
            start_partly=wish.partial,
        )
        await worker.send(command, graph)
        while True:
            event, _ = await worker.receive()
            match event:
                case RateTried(step, rate, loss):
                    self._rates.append(rate)
                    self._losses.append(loss)
                    self._story.show("trying", step + 1, wish.steps, f"rate {rate:.2e}  loss {loss:.4f}")
                case Failed(code, text):
                    raise WorkerFailedError(code, text)
                case RatesTried(diverged):
                    suggestion = suggest(self._rates, self._losses)
                    return Found(tuple(self._rates), tuple(self._losses), diverged, suggestion)
