"""What goes wrong inside the server: clients learn that it did, the worker's output where, no one what."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.serving.http import HttpError


def failure(error: Exception) -> HttpError:
    """What was raised may quote a body or tell of the inside, so only its kind and place are kept."""
    place = next(iter(getattr(error, "__notes__", ())), "") or _place(error)
    print(f"{type(error).__name__} {place}".rstrip(), file=sys.stderr, flush=True)
    return HttpError(500, "internal", "the server failed on this request")


def without_frames(error: Exception) -> Exception:
    """For errors that are handed on instead of raised: they hold the frames that they came through, and with
    them all that these and their callers hold, inputs and bodies, until cycles are collected."""
    if place := _place(error):
        error.add_note(place)
    return error.with_traceback(None)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
