"""Who would take a job, for how much, in what order; and who would not, and why."""

from __future__ import annotations

from typing import Any

from engine_app.plain import plain, sentence
from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Column, Text
from engine_app.ui.widgets.buttons import ListRow
from p2p.pricing import format_tokens

MAX_SHOWN = 8


def placement(look: Look, estimate: dict[str, Any], names: dict[str, str], budget: int | None) -> Column:
    """``names``: hardware of peers by their ids. The cheapest comes first."""
    column = Column(look, gap=2)
    quotes, rejected = estimate["quotes"], estimate["rejected"]
    column.add_widget(Text(look, facts(estimate), theme.SMALL, look.palette.muted))
    is_taken = False
    for quote in quotes[:MAX_SHOWN]:
        fits = budget is None or quote["amount"] <= budget
        column.add_widget(_offer(look, quote, names, fits, is_first=fits and not is_taken))
        is_taken = is_taken or fits
    if len(quotes) > 1:
        text = "The coordinator weighs reputation, free capacity, price, uptime and answer time."
        column.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
    if not quotes:
        column.add_widget(Text(look, "No peer would take it now.", colour=look.palette.warning))
    for each in rejected[:MAX_SHOWN]:
        name = names.get(each["peer_id"], f"{each['peer_id'][:16]}...")
        reason = sentence(plain(each["reason"]))
        column.add_widget(
            ListRow(
                look, plain(name), reason, icon="close", mark=look.palette.muted, tip=plain(each["peer_id"])
            )
        )
    left = max(0, len(quotes) - MAX_SHOWN) + max(0, len(rejected) - MAX_SHOWN)
    if left:
        column.add_widget(Text(look, f"and {left} more", theme.SMALL, look.palette.muted))
    return column


def _offer(look: Look, quote: dict[str, Any], names: dict[str, str], fits: bool, is_first: bool) -> ListRow:
    name = names.get(quote["peer_id"], f"{quote['peer_id'][:16]}...")
    parts = [f"{quote['duration_ms'] / 1000:.1f} s", f"reputation {quote['reputation']:.2f}"]
    if not fits:
        parts.insert(0, "Above the budget")
    icon = "check" if is_first else "jobs" if fits else "warning"
    mark = look.palette.success if is_first else look.palette.muted if fits else look.palette.warning
    row = ListRow(
        look,
        plain(name),
        ", ".join(parts),
        icon=icon,
        mark=mark,
        figure=format_tokens(quote["amount"]),
        tip=f"{plain(quote['peer_id'])}, {format_tokens(quote['price_per_hour'])} an hour",
    )
    row.choose(is_first)
    return row


def facts(estimate: dict[str, Any]) -> str:
    return (
        f"{estimate['parameters']:,} parameters, {estimate['samples']:,} samples, "
        f"{estimate['training_flops'] / 1e9:.2f} GFLOP, {estimate['memory_bytes'] / 1e6:.0f} MB"
    )
