"""``cyxwiz trainings``, and orders to a local training that runs in another terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from msgspec import to_builtins

from engine_app.config import Config
from engine_app.entry import CommandError, report, run
from engine_app.local_training import resume_here
from engine_app.plain import plain
from engine_app.show import print_json, print_table
from engine_app.training_order import note_rate, read_rate, saved_progress
from engine_app.training_queue import CONTROL, Entry, TrainingLine
from p2p.control import call_control
from p2p.errors import ControlUnavailableError, P2PError, RemoteFailureError, StreamResetError

STATUS_TIMEOUT_S = 3.0
DONE = {
    "pause": "pauses after this step",
    "resume": "goes on",
    "cancel": "cancelled",
    "set_rate": "the new learning rate holds from the next step on",
}
DONE_LATER = {"set_rate": "goes on at the new learning rate, with resume"}
"""To a training that does not run."""


def list_trainings(config: Config, as_json: bool) -> None:
    async def main() -> None:
        rows: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:
            for entry in TrainingLine(config.data_dir).entries():
                rows.append({**to_builtins(entry.ticket), "name": entry.name})
                nursery.start_soon(_fill, rows[-1], entry)
        if as_json:
            print_json(rows)
        else:
            _print(rows)

    run(main, config)


async def _fill(row: dict[str, Any], entry: Entry) -> None:
    if not entry.is_alive:
        state = "failed" if entry.failure else "interrupted"
        row |= {"state": state, "reason": entry.failure, "pid": None, **_saved(entry.directory)}
        return
    try:
        row |= await call_control(entry.directory / CONTROL, "status", timeout_s=STATUS_TIMEOUT_S)
    except P2PError:
        row["state"] = "preparing"


def _saved(directory: Path) -> dict[str, Any]:
    found = saved_progress(directory)
    if not found.total_steps:
        return {}
    return {"step": found.step, "saved_step": found.step, "total_steps": found.total_steps}


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no training runs, waits, failed or was interrupted here")
        return
    table = [
        (row["name"], row["kind"], row["title"], _state(row), _position(row), _loss(row)) for row in rows
    ]
    print_table(("name", "kind", "of", "state", "step", "loss"), table)
    for row in rows:
        if row.get("reason"):
            print(f"{row['name']}: {plain(row['reason'])}")


def _state(row: dict[str, Any]) -> str:
    waits_for = row.get("waits_for") or []
    return f"waits for {', '.join(waits_for)}" if waits_for else str(row["state"])


def _position(row: dict[str, Any]) -> str:
    return f"{row['step']}/{row['total_steps']}" if row.get("total_steps") else ""


def _loss(row: dict[str, Any]) -> str:
    metrics = row.get("metrics")
    return f"{metrics['loss']:.4f}" if metrics else ""


def order(config: Config, name: str, training: str, as_json: bool, **parameters: Any) -> None:
    """pause, resume, cancel; resume of one that was cut short goes on with it here."""
    try:
        entry = _find(config, training)
    except CommandError as error:
        report(error)
    if not entry.is_alive and name == "resume":
        _go_on(config, entry, as_json)
        return

    async def main() -> None:
        answer = (
            await _ask(entry, name, parameters)
            if entry.is_alive
            else _settle(config, name, entry, parameters)
        )
        if as_json:
            print_json(answer)
        else:
            print(f"{entry.name}: {DONE[name] if entry.is_alive else DONE_LATER.get(name, DONE[name])}")

    run(main, config)


def _go_on(config: Config, entry: Entry, as_json: bool) -> None:
    if entry.ticket.kind == "sweep":
        from engine_app.sweep import resume_sweep

        resume_sweep(config, entry.name, None, at_once=False, as_json=as_json)
    else:
        resume_here(config, entry.name, at_once=False, as_json=as_json)


async def _ask(entry: Entry, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Raises CommandError."""
    try:
        answer: dict[str, Any] = await call_control(entry.directory / CONTROL, name, parameters)
    except StreamResetError as error:
        if name != "cancel":
            raise CommandError(str(error)) from error
        # Its process was gone before the answer was: that is what was asked for.
        return {"name": entry.name, "state": "cancelled"}
    except RemoteFailureError as error:
        raise CommandError(error.message) from error
    except ControlUnavailableError as error:
        raise CommandError(f"{name}: {entry.name} still prepares its data; Ctrl-C there ends it") from error
    except P2PError as error:
        raise CommandError(str(error)) from error
    return answer


def _settle(config: Config, name: str, entry: Entry, parameters: dict[str, Any]) -> dict[str, Any]:
    """What an order means for a training that does not run. Raises CommandError, RemoteFailureError."""
    state = "failed" if entry.failure else "interrupted"
    match name, entry.ticket.kind:
        case "cancel", _:
            TrainingLine(config.data_dir).forget(entry.name)
            state = "cancelled"
        case "set_rate", "train" if entry.can_go_on:
            note_rate(entry.directory, saved_progress(entry.directory).step, read_rate(parameters["rate"]))
        case _:
            raise CommandError(f"{name}: {entry.name} is {state}; cyxwiz resume|cancel {entry.name}")
    return {"name": entry.name, "state": state}


def _find(config: Config, training: str) -> Entry:
    for entry in TrainingLine(config.data_dir).entries():
        if entry.name == training:
            return entry
    raise CommandError(f"no local training {training}; `cyxwiz trainings` lists them")
