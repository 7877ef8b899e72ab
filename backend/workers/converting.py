"""What a worker does to change a model's format: orders in, one answer out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from backend.exporting.export import export_model
from backend.exporting.messages import Export
from backend.importing.messages import ImportModel
from backend.importing.run import import_model
from backend.reports import Event
from backend.workers.job import failure_of

Send = Callable[..., None]


def run_export(order: Export, directory: Path, send: Send) -> None:
    """Ends with exactly one of Exported and Failed."""
    _answer(send, lambda: export_model(order, directory, send))


def run_import(order: ImportModel, directory: Path, send: Send) -> None:
    """Ends with exactly one of ModelImported and Failed."""
    _answer(send, lambda: import_model(order, directory, send))


def _answer(send: Send, convert: Callable[[], tuple[Event, object]]) -> None:
    """Sends what came of it, with the certificate as its body if there is one."""
    try:
        event, certificate = convert()
        body = msgspec.json.encode(certificate) if certificate is not None else b""
    except Exception as error:
        event, body = failure_of(error, archive_code="model"), b""
    send(event, body)
