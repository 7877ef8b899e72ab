"""What the window remembers between starts. A file that cannot be read counts as none; saved atomically."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine_app.ui.theme import PALETTES, SCALES
from p2p.datadir import write_atomic

MAX_RECENT = 12
MAX_BYTES = 1 << 16


class Settings(msgspec.Struct, frozen=True):
    palette: str = "dark"
    scale: float = 1.0
    recent: tuple[str, ...] = ()
    """Graph files, the newest first."""
    seen_tour: bool = False

    def with_recent(self, path: Path) -> Settings:
        others = [each for each in self.recent if each != str(path)]
        return msgspec.structs.replace(self, recent=(str(path), *others)[:MAX_RECENT])


def load_settings(path: Path) -> Settings:
    try:
        if path.stat().st_size > MAX_BYTES:
            return Settings()
        found = msgspec.json.decode(path.read_bytes(), type=Settings)
    except (OSError, msgspec.MsgspecError):
        return Settings()
    return msgspec.structs.replace(
        found,
        palette=found.palette if found.palette in PALETTES else "dark",
        scale=min(SCALES, key=lambda scale: abs(scale - found.scale)),
        recent=found.recent[:MAX_RECENT],
    )


def save_settings(path: Path, settings: Settings) -> None:
    """Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(settings))
