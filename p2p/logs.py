"""Logging of every program: structlog on stderr, event first, then values, never a secret."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from p2p.plain import plain

_SECRET_NAMES = ("secret", "passphrase", "password", "token", "private_key", "prompt")
_NOISY = ("libp2p", "multiaddr", "httpx", "httpcore", "httpx2", "async_service", "noise")


def configure_logging(level: str = "info", json: bool = False) -> None:
    """Once, in an entry point. ``level`` as in ``logging``, in any case. Raises ValueError for others."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}, allowed debug, info, warning, error, critical")
    renderer: Any = structlog.processors.JSONRenderer() if json else _console()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact_secrets,
    ]
    processors.append(structlog.processors.format_exc_info if json else without_control_codes)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _quiet_libraries(number)


def _console() -> structlog.dev.ConsoleRenderer:
    # Its own choice of traceback shows local variables: keys, prompts and tensors among them.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=plain
    )


def redact_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces the value of every key named like a secret: the last line of defence."""
    for key in event:
        if any(key == name or key.endswith(f"_{name}") for name in _SECRET_NAMES):
            event[key] = "(hidden)"
    return event


def without_control_codes(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A stranger's text in a line of the log must not be acted on by the terminal that shows it."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = plain(value)
    return event


def _quiet_libraries(level: int) -> None:
    """Libraries log through ``logging``: only their errors, and those of asyncio never to a file."""
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING), format="%(name)s: %(message)s")
    # libp2p clears its own handlers and level whenever it is imported; what is left goes here.
    logging.lastResort = logging.NullHandler()
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
