"""Turns the answers of a running coordinator into tables for people, or JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from p2p.plain import plain
from p2p.pricing import format_tokens

WIDE = 240
"""Columns where no terminal says how many it has."""


def output(answer: Any, as_json: bool, draw: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        draw(answer)


def status(answer: dict[str, Any]) -> None:
    states = ", ".join(f"{count} {name}" for name, count in answer["open_jobs"].items()) or "none"
    rows = [
        ("coordinator", answer["peer_id"]),
        *(("listens at", address) for address in answer["addresses"]),
        ("chain", f"{answer['chain']}, {answer['rpc_url']}, {answer['chain_restarts']} restarts"),
        ("arbiter", answer["arbiter"]),
        ("peers", f"{answer['peers_online']} of {answer['peers']} online"),
        ("open jobs", states),
        ("relay", _relay(answer["relay"])),
    ]
    for name, value in rows:
        click.echo(f"{name:<12} {value}")


def _relay(relay: dict[str, Any] | None) -> str:
    if relay is None:
        return "off"
    return (
        f"{relay['reserved']} peers kept reachable, {relay['circuits']} circuits open, "
        f"{relay['bytes_relayed']} bytes carried"
    )


def jobs(answer: list[dict[str, Any]]) -> None:
    _table(
        ("job", "state", "segments", "peer", "budget", "submitted", "last"),
        (
            (
                job["job_id"][:12],
                job["state"],
                f"{job['segments_done']}/{job['segments']}",
                (job["peer_id"] or "")[-8:],
                _tokens(job["budget"]),
                _when(job["submitted_at"]),
                job["text"],
            )
            for job in answer
        ),
    )


def revoke(answer: dict[str, Any]) -> None:
    click.echo(f"{answer['revoked']} tokens are taken back; peers hear of it with their next heartbeat")


def metrics(answer: list[dict[str, Any]]) -> None:
    names = ("step", "epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "test_accuracy")
    _table(names, ([_number(point[name]) for name in names] for point in answer))


def peers(answer: list[dict[str, Any]]) -> None:
    _table(
        ("peer", "online", "tier", "reputation", "jobs", "price per hour", "devices"),
        (
            (
                peer["peer_id"],
                "yes" if peer["online"] else "no",
                peer["tier"],
                f"{peer['reputation']:.3f}",
                f"{peer['running']}/{peer['slots']}",
                _tokens(peer["price_per_hour"]),
                ", ".join(device["name"] for device in peer["devices"]),
            )
            for peer in answer
        ),
    )


def explain(answer: dict[str, Any]) -> None:
    for line in answer["lines"]:
        click.echo(plain(line))
    for entry in answer["rejected"]:
        click.echo(plain(f"not {entry['peer_id']}: {entry['reason']}"))
    if answer["payments"]:
        payments(answer["payments"])


def payments(answer: list[dict[str, Any]]) -> None:
    _table(
        ("job", "escrow", "state", "amount", "vouched for", "paid", "returned", "transaction"),
        (
            (
                payment["job_id"][:12],
                payment["escrow"][:12],
                payment["state"],
                *(_tokens(payment[name]) for name in ("amount", "vouchered", "earned", "returned")),
                (payment["signature"] or payment["reason"] or "")[:12],
            )
            for payment in answer
        ),
    )


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Cells wrap where the terminal is narrow; where there is none, lines are as long as they need.

    Peers name their devices and their failures themselves: no control code of theirs gets out.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(plain(value)) for value in row))
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)


def _tokens(units: int) -> str:
    return format_tokens(units).partition(" ")[0]


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
