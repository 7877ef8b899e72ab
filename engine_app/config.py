"""What the Engine's commands are told: flags over environment over DATA_DIR/config.toml, read once."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p.errors import LocalProtocolError
from p2p.transfer_rate import parse_bytes

DEFAULT_DATA_DIR = "~/.cyxwiz/engine"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_SETTINGS = frozenset({"coordinator", "download_limit", "escrow", "log_level", "storage", "upload_limit"})


class ConfigError(Exception):
    """A setting that cannot be used."""


@dataclass(frozen=True, slots=True)
class Config:
    data_dir: Path
    coordinator: str | None
    """None: the one used last."""
    passphrase: str | None
    log_level: str
    escrow: str | None = None
    """PROGRAM or PROGRAM/MINT that is trusted on a real network."""
    upload_limit: int | None = None
    """Of all file transfers together, in bytes per second; None for no limit. So is the next."""
    download_limit: int | None = None
    storage: int | None = None
    """Bytes that data and models may take on disk; None for no limit worth the name."""


def read_config(
    data_dir: str | None,
    coordinator: str | None = None,
    upload_limit: str | None = None,
    download_limit: str | None = None,
    storage: str | None = None,
) -> Config:
    """Raises ConfigError for a file that cannot be read or holds unknown settings."""
    directory = Path(data_dir or os.environ.get("CYXWIZ_DATA_DIR", DEFAULT_DATA_DIR)).expanduser().absolute()
    settings = _read_file(directory / "config.toml")

    def setting(name: str, flag: str | None = None) -> str | None:
        return flag or os.environ.get(f"CYXWIZ_{name.upper()}") or settings.get(name)

    level = setting("log_level") or "error"
    if level not in LOG_LEVELS:
        raise ConfigError(f"log level {level!r}, allowed {', '.join(LOG_LEVELS)}")
    return Config(
        data_dir=directory,
        coordinator=setting("coordinator", coordinator),
        passphrase=os.environ.get("CYXWIZ_PASSPHRASE") or None,
        log_level=level,
        escrow=setting("escrow"),
        upload_limit=_bytes(setting("upload_limit", upload_limit)),
        download_limit=_bytes(setting("download_limit", download_limit)),
        storage=_bytes(setting("storage", storage)),
    )


def _bytes(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except LocalProtocolError as error:
        raise ConfigError(f"limit of {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    unknown = settings.keys() - _SETTINGS
    if unknown or not all(isinstance(value, str) for value in settings.values()):
        raise ConfigError(
            f"{path}: settings {', '.join(sorted(unknown)) or 'that are no text'}, "
            f"allowed {', '.join(sorted(_SETTINGS))}, all text"
        )
    return settings
