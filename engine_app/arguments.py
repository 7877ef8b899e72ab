"""What commands take: files to read, files to write, numbers. Refused here, before any work begins."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import click

READABLE = (
    ".csv, .tsv, .parquet, .npz, .npy, .safetensors, .txt, IDX, a folder with one folder of images a class, "
    "or bundled:NAME"
)
_PATHS = "cyxwiz.paths"
_BOTH = "would be read and written over: name another output"


class OldPath(click.Path):
    """Of something that exists and that no file of the same command is written over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if _is_claimed(ctx, path, to_write=False):
            self.fail(f"{path} {_BOTH}", param, ctx)
        return path


class DataSourceType(click.ParamType):  # type: ignore[type-arg]
    """A file or folder that exists, or bundled:NAME."""

    name = "data"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path) or str(value).startswith("bundled:"):
            return Path(value)
        path = Path(value).expanduser().resolve()
        if not path.exists():
            self.fail(f"{value!r} does not exist; readable are {READABLE}", param, ctx)
        if _is_claimed(ctx, path, to_write=False):
            self.fail(f"{path} {_BOTH}", param, ctx)
        return path


class NewFile(click.Path):
    """To write, in a folder where this is possible, and none that the same command reads."""

    def __init__(self, ending: str = "") -> None:
        """With ``ending`` no other will do: the file is in the one format that has it."""
        super().__init__(dir_okay=False, path_type=Path, resolve_path=True)
        self._ending = ending

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.name.endswith(self._ending):
            self.fail(f"{path.name} is written as {self._ending}: name it so", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"no folder {path.parent} to write {path.name} to", param, ctx)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"folder {path.parent} may not be written to", param, ctx)
        if _is_claimed(ctx, path, to_write=True):
            self.fail(f"{path} {_BOTH}", param, ctx)
        return path


def _is_claimed(context: click.Context | None, path: Path, *, to_write: bool) -> bool:
    """Whether the command does the opposite with the path too. Options come in whatever order."""
    if context is None:
        return False
    claimed: dict[Path, bool] = context.meta.setdefault(_PATHS, {})
    return claimed.setdefault(path, to_write) is not to_write


class Number(click.FloatRange):
    """A range of numbers, of which nan is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


class DeviceType(click.ParamType):  # type: ignore[type-arg]
    """One device, as torch names it, or ``several`` of them with commas between."""

    name = "device"
    most = 64
    _NAME = re.compile(r"(cpu|mps|(cuda|xpu)(:[0-9]{1,3})?)")

    def __init__(self, *, several: bool = False) -> None:
        self._several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = str(value).split(",") if self._several else [str(value)]
        if len(names) > self.most:
            self.fail(f"{len(names)} devices, limit {self.most}", param, ctx)
        for name in names:
            if not self._NAME.fullmatch(name):
                self.fail(f"{name!r} is no device; allowed are cpu, cuda, cuda:0, mps, xpu:0", param, ctx)
        return str(value)


OLD_FILE = OldPath(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
OLD_FILE_OR_FOLDER = OldPath(exists=True, path_type=Path, resolve_path=True)
NEW_FILE = NewFile()
DATASET_FILE = NewFile(".safetensors")
DATA = DataSourceType()
START_FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
"""A model to go on from: it may be written over by what comes of it."""
DEVICE = DeviceType()
DEVICES = DeviceType(several=True)
