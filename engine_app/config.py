"""What the Engine's commands are told: flags over environment over DATA_DIR/config.toml, read once."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_DATA_DIR = "~/.cyxwiz/engine"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


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


def read_config(data_dir: str | None, coordinator: str | None = None) -> Config:
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
        passphrase=os.environ.get("CYXWIZ_PASSPHRASE"),
        log_level=level,
        escrow=setting("escrow"),
    )


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    unknown = settings.keys() - {"coordinator", "escrow", "log_level"}
    if unknown or not all(isinstance(value, str) for value in settings.values()):
        raise ConfigError(
            f"{path}: settings {', '.join(sorted(unknown)) or 'that are no text'}, "
            "allowed coordinator, escrow and log_level, all text"
        )
    return settings
