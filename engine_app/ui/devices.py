"""The devices that a worker of this machine may use, by what the system shows: nothing is loaded to ask."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_NVIDIA = re.compile(r"nvidia\d+")


def local_devices(system: Path = Path("/dev")) -> tuple[str, ...]:
    """As torch names them; the CPU first."""
    try:
        count = sum(bool(_NVIDIA.fullmatch(entry.name)) for entry in system.iterdir())
    except OSError:
        count = 0
    found = ("cpu", *(f"cuda:{number}" for number in range(count)))
    return (*found, "mps") if sys.platform == "darwin" else found
