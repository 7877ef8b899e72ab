"""How answers look: lines and bars for people on stderr, JSON lines on stdout for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from engine_app.plain import plain
from p2p.pricing import format_tokens

WIDE = 240
"""Columns where no terminal says how many it has."""
COLORS = {"money": "yellow", "result": "green", "checkpoint": "cyan", "state": "bold", "note": "magenta"}


def print_json(answer: Any) -> None:
    print(json.dumps(answer, separators=(",", ":")), flush=True)


class Story:
    """Shows a job's news. Use ``open_story``."""

    def __init__(self, progress: Progress, as_json: bool, *, names_jobs: bool = False) -> None:
        self._progress = progress
        self._as_json = as_json
        self._names_jobs = names_jobs
        self._bars: dict[str, TaskID] = {}

    def tell(self, news: dict[str, Any]) -> None:
        """One answer of ``follow``."""
        if self._as_json:
            print_json(news)
            return
        match news.get("kind"):
            case "progress":
                self._show_metrics(news["metrics"])
            case "transfer":
                self._move("fetching", news["done"], news["total"], f"{news['done'] >> 10} KiB")
            case "stage" if "total" in news:
                self._stage(str(news["text"]), news["number"], news["total"])
            case kind:
                self.line(str(news.get("text", "")), str(kind), news)

    def line(self, text: str, kind: str = "note", news: dict[str, Any] | None = None) -> None:
        if self._as_json:
            return
        news = news or {}
        at = time.strftime("%H:%M:%S", time.localtime(news.get("at", time.time())))
        label = str(news.get("state") or kind)
        whose = f"{news['job_id'][:8]}  " if self._names_jobs and news.get("job_id") else ""
        line = f"{at}  {whose}{label:<15} {plain(text)}"
        if news.get("signature"):
            line += f"  [{news['signature'][:16]}]"
        self._progress.console.print(
            line, style=COLORS.get(kind), markup=False, highlight=False, soft_wrap=True
        )

    def _stage(self, text: str, number: int, total: int) -> None:
        self.line(f"{number} of {total}: {text}", "stage")
        self._move("stage", number - 1, total, text)

    def _show_metrics(self, metrics: dict[str, Any]) -> None:
        found = [f"loss {metrics['loss']:.4f}"]
        for name in ("accuracy", "validation_loss", "validation_accuracy", "test_accuracy"):
            if metrics.get(name) is not None:
                found.append(f"{name.replace('_', ' ')} {metrics[name]:.3f}")
        if metrics.get("learning_rate") is not None:
            found.append(f"rate {metrics['learning_rate']:.3g}")
        if metrics.get("samples_per_s"):
            found.append(f"{metrics['samples_per_s']:.0f} samples/s")
        if metrics.get("sample_wait_s") is not None:
            found.append(f"waited {metrics['sample_wait_s']:.1f} s for samples")
        self._move("training", metrics["step"], metrics["total_steps"], "  ".join(found))

    def show(self, name: str, done: int, total: int, text: str) -> None:
        """A bar of a name of its own; nothing in JSON."""
        if not self._as_json:
            self._move(name, done, total, text)

    def _move(self, name: str, done: int, total: int, text: str) -> None:
        text = plain(text)
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, text="")
        self._progress.update(self._bars[name], completed=done, total=total, text=text)


BARS = (
    TextColumn("{task.description:>9}"),
    BarColumn(),
    TextColumn("{task.completed}/{task.total}"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(elapsed_when_finished=False),
)
"""Of a bar's line, which fits 80 columns."""


class _Bars(Progress):
    """Each with what is told of it on lines of its own: beside a bar there is no room for that."""

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if told := str(task.fields["text"]):
                yield Padding(Text(told, style="dim"), (0, 0, 0, 10))


@contextmanager
def open_story(as_json: bool, *, names_jobs: bool = False) -> Iterator[Story]:
    """Bars live as long as the block, and only on a terminal. ``names_jobs``: at each line, by their ids."""
    console = Console(stderr=True)
    disable = as_json or not console.is_terminal
    with _Bars(*BARS, console=console, disable=disable) as progress:
        yield Story(progress, as_json, names_jobs=names_jobs)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """A name and what is known of it, on as many lines as the terminal needs."""
    print_table(("", ""), facts)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Columns without any name have no head."""
    columns = tuple(columns)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(plain(str(cell), lines=True)) for cell in row)
        )  # no markup: names may look like it
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table)


def print_jobs(jobs: list[dict[str, Any]]) -> None:
    if not jobs:
        print("no jobs yet")
        return
    rows = [
        (
            job["job_id"][:12],
            job["name"],
            job["state"].replace("_", " ") + (" (paused)" if job["paused"] else ""),
            f"{job['segments_done']}/{job['segments']}",
            "unpaid" if job["unpaid"] else format_tokens(paid(job)),
            job["text"],
        )
        for job in jobs
    ]
    print_table(("job", "name", "state", "segments", "vouchered", "last"), rows)


def print_neighbours(peers: list[dict[str, Any]]) -> None:
    """Peers of the own network."""
    if not peers:
        print("no peer answers on this network")
    for peer in peers:
        allowed = "lets you in" if peer["allowed"] else "does not let you in"
        _print_peer(peer, f"{peer['waiting']} waiting, {allowed}", peer["addresses"][0])


def print_peers(peers: list[dict[str, Any]]) -> None:
    """Peers of the coordinator's registry."""
    if not peers:
        print("the coordinator knows no peer")
    for peer in peers:
        if "refused" in peer:
            print(plain(f"not {peer['peer_id']}: {peer['refused']}"))
            continue
        price, online = format_tokens(peer["price_per_hour"]), "online" if peer["online"] else "away"
        _print_peer(peer, f"{price} an hour, reputation {peer['reputation']:.2f}, {online}")


def _print_peer(peer: dict[str, Any], *more: str) -> None:
    """Ids and addresses on lines of their own: whole, to be copied."""
    print(plain(peer["peer_id"]))
    for line in (f"{_devices(peer['devices'])}; {peer['free']} of {len(peer['devices'])} free", *more):
        print(f"  {plain(line)}")


def _devices(devices: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{device['name']} ({device['kind']}, {device['memory_bytes'] / (1 << 30):.0f} GiB, "
        f"{device['flops_per_s'] / 1e9:.0f} GFLOP/s)"
        for device in devices
    )


def paid(job: dict[str, Any]) -> int:
    """Units that the user's vouchers promise."""
    return sum(escrow["earned"] for escrow in job["escrows"])


def print_job(job: dict[str, Any]) -> None:
    """The closing lines of a command about one job."""
    print(f"job        {job['job_id']}")
    paused = " (paused)" if job["paused"] else ""
    print(f"state      {job['state']}{paused}" + (f": {plain(job['text'])}" if job["text"] else ""))
    if job["peer_id"]:
        print(f"peer       {job['peer_id']}")
    if job["escrows"]:
        print(f"vouchered  {format_tokens(paid(job))} of {format_tokens(job['budget'])} budget")
    if job["result"]:
        print(f"model      {job['result']['blake3']} ({job['result']['size']} bytes)")
    metrics, own = job["metrics"] or {}, job["evaluated_by_owner"]
    if metrics.get("test_accuracy") is not None:
        by_whom = " (evaluated here)" if "test" in own else ""
        print(f"test       accuracy {metrics['test_accuracy']:.4f}{by_whom}")
    if "validation" in own and own["validation"]["accuracy"] is not None:
        print(f"validation accuracy {own['validation']['accuracy']:.4f} (evaluated here)")
