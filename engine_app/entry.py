"""Where commands enter trio and come back: one clear line for an error, nothing left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from engine_app.config import Config, ConfigError
from engine_app.plain import plain

INTERRUPTED = 130


class CommandError(Exception):
    """What a command has to say instead of a result."""


def run(main: Callable[[], Awaitable[None]], config: Config, interrupted: str = "interrupted") -> None:
    """Ends the process with status 1 and a line on stderr when ``main`` raises an expected error."""
    import trio

    from p2p.logs import configure_logging

    configure_logging(config.log_level)
    try:
        trio.run(main)
    except BaseException as error:
        _leave(error, interrupted)


def report(error: Exception) -> NoReturn:
    """For commands that run no trio."""
    _leave(error, "interrupted")


def _leave(error: BaseException, interrupted: str) -> NoReturn:
    cause = cause_of(error)
    if isinstance(cause, BrokenPipeError):
        _close_stdout()
        sys.exit(1)
    if isinstance(cause, KeyboardInterrupt):
        print(f"\ncyxwiz: {interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if isinstance(cause, SystemExit):
        raise cause
    if not is_expected(cause):
        raise error
    print(f"cyxwiz: {plain(_text_of(cause), lines=True)}", file=sys.stderr)
    sys.exit(1)


def _close_stdout() -> None:
    """Whoever read this command's answers, such as ``head``, has had enough: nothing is said about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def cause_of(error: BaseException) -> BaseException:
    """The first that nurseries around it have wrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_expected(error: BaseException) -> bool:
    """It speaks to the user: a line says all of it."""
    from backend.errors import BackendError
    from engine_app.document.errors import DocumentError
    from p2p.errors import P2PError

    return isinstance(error, P2PError | BackendError | DocumentError | ConfigError | CommandError | OSError)
