"""Data that needs more than its file to be read: written once as a dataset file, with its progress.

What comes of it is trained on and sent like any dataset; it is kept beside the trained models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from backend.errors import BackendError
from backend.readers.source import ReadOptions
from engine_app.config import Config
from engine_app.ui.observed import OneAtATime

if TYPE_CHECKING:
    from engine_app.ui.loop import Tasks

TABLES = (".csv", ".tsv", ".parquet")
TEXTS = (".txt", ".jsonl")
ARRAYS = (".npy", ".gz", "")
STEPS = 200
"""How often progress is told at most."""


@dataclass(frozen=True, slots=True)
class Sections:
    """Which options concern a source, by its name."""

    table: bool
    text: bool
    images: bool
    arrays: bool


def sections_of(source: Path) -> Sections:
    suffix = source.suffix.lower()
    is_folder = source.is_dir()
    return Sections(
        table=suffix in TABLES,
        text=suffix in TABLES or suffix in TEXTS,
        images=is_folder,
        arrays=not is_folder and suffix in ARRAYS,
    )


class Converter(OneAtATime):
    """At most one at a time. Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._config = config
        self.origins: dict[str, tuple[Path, ReadOptions]] = {}
        """Of files that were made: from what, and how."""
        self.share = 0.0

    def start(self, source: Path, options: ReadOptions, done: Callable[[str], None]) -> None:
        """``done`` gets the dataset file. Nothing while one is written."""
        if not self.is_busy:
            self.share = 0.0
            self._begin(partial(self._convert, source, options, done))

    async def _convert(self, source: Path, options: ReadOptions, done: Callable[[str], None]) -> None:
        found: Path | None = None
        try:
            found = await trio.to_thread.run_sync(self._write, source, options)
        except (BackendError, OSError) as error:
            self.problem = str(error)
        finally:
            self._end()
        if found is not None:
            self.origins[str(found)] = (source, options)
            done(str(found))

    def _write(self, source: Path, options: ReadOptions) -> Path:
        """In a thread; ends where the task is cancelled. Raises BackendError, OSError."""
        from backend.readers import open_source, write_dataset

        folder = self._config.data_dir / "datasets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / f"{source.stem[:60]}-{_digest(source, options)}.safetensors"
        told = 0

        def progress(finished: int, total: int) -> None:
            nonlocal told
            trio.from_thread.check_cancelled()
            if total and finished * STEPS // total > told:
                told = finished * STEPS // total
                trio.from_thread.run_sync(self._on_progress, finished / total)

        write_dataset(open_source(source, options), target, progress)
        return target

    def _on_progress(self, share: float) -> None:
        self.share = share
        self._tell()


def _digest(source: Path, options: ReadOptions) -> str:
    """Of where it is, its newest state, and how it is read. Raises OSError."""
    text = f"{source.absolute()} {source.stat().st_mtime_ns} {options}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=5).hexdigest()
