"""What a worker does to change a model's format: orders in, one answer out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from backend.exporting.export import export_model
from backend.exporting.messages import Export
from backend.reports import Event
from backend.workers.job import failure_of


def run_export(order: Export, directory: Path, send: Callable[..., None]) -> None:
    """Ends with exactly one of Exported and Failed."""
    try:
        exported, certificate = export_model(order, directory, send)
        event: Event = exported
        body = msgspec.json.encode(certificate)
    except Exception as error:
        event, body = failure_of(error, archive_code="model"), b""
    send(event, body)
