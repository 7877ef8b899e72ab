"""What goes wrong inside the server: clients learn that it did, the worker's output where, no one what."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.serving.http import HttpError


def failure(error: Exception) -> HttpError:
    """What was raised may quote a body or tell of the inside, so only its kind and place are kept."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (
        "nowhere" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    )
    print(f"{type(error).__name__} at {place}", file=sys.stderr, flush=True)
    return HttpError(500, "internal", "the server failed on this request")
