"""Builds escrow.so from escrow.c: ``python -m coordinator.chain.program.build [OUTPUT]``.

The same compiler version gives the same bytes, so that a test can prove where the committed file comes from.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from coordinator.chain.program.link import link

HERE = Path(__file__).parent
COMPILER = "clang-19"
FLAGS = [
    *("-target", "bpfel", "-mcpu=v2", "-mllvm", "-bpf-stack-size=4096", "-fno-jump-tables"),
    *("-O2", "-std=c11", "-ffreestanding", "-nostdlib", "-fno-builtin", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Werror"),
]
COMPILE_TIMEOUT_S = 120


def compiler() -> str | None:
    """Where the compiler is that made the committed file; None if it is not installed."""
    return shutil.which(COMPILER)


def build() -> bytes:
    """The program, compiled and linked anew. Raises FileNotFoundError without the compiler."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "escrow.o"
        command = [COMPILER, *FLAGS, "-c", "escrow.c", "-o", str(target)]
        subprocess.run(command, cwd=HERE, check=True, timeout=COMPILE_TIMEOUT_S)
        return link(target.read_bytes())


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "escrow.so"
    output.write_bytes(build())
