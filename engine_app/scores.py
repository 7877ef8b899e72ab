"""How well a trained model does, head by head: what ``cyxwiz train`` ends with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine_app.plain import plain

NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "mae": "MAE",
    "r2": "R²",
    "perplexity": "perplexity",
}
SHOWN_CLASSES = 12
"""Of more, only the worst confusions are told."""
WORST = 5


def print_scores(part: str, heads: Sequence[dict[str, Any]], *, brief: bool = False) -> None:
    """``brief``: without what was taken for what."""
    for head in heads:
        shown = {**head, "confusion": ()} if brief else head
        for line in scores_of(part, shown, alone=len(heads) == 1):
            print(line)


def scores_of(part: str, head: dict[str, Any], *, alone: bool) -> Iterator[str]:
    """A line of figures, and what was taken for what."""
    figures = [f"{text} {head[name]:.4f}" for name, text in NAMES.items() if head.get(name) is not None]
    of = "" if alone else f" {plain(head['output'])} ({plain(head['node'])})"
    yield f"{part}{of}: {', '.join(figures)}"
    confusion = head.get("confusion")
    if not confusion:
        return
    if len(confusion) <= SHOWN_CLASSES:
        yield from _matrix(confusion)
    else:
        yield from _worst(confusion)


def _matrix(confusion: Sequence[Sequence[int]]) -> Iterator[str]:
    width = max(5, *(len(str(count)) for row in confusion for count in row)) + 1
    yield "  is \\ taken for" + "".join(f"{column:>{width}}" for column in range(len(confusion)))
    for number, row in enumerate(confusion):
        yield f"  {number:>14}" + "".join(f"{count:>{width}}" for count in row)


def _worst(confusion: Sequence[Sequence[int]]) -> Iterator[str]:
    wrong = [
        (count, is_class, taken)
        for is_class, row in enumerate(confusion)
        for taken, count in enumerate(row)
        if count and is_class != taken
    ]
    for count, is_class, taken in sorted(wrong, key=lambda each: (-each[0], each[1], each[2]))[:WORST]:
        yield f"  {is_class} taken for {taken}: {count}"
