"""Patterns that check what others send must end at the end: ``$`` also fits before a trailing newline."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from backend.worker_message import FileName
from p2p.jobs import ServingSpec
from p2p.protocols.inference import ContentType
from p2p.protocols.inference import Path as AskedPath

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("p2p", "coordinator", "peer", "backend", "engine_app")


def loose_patterns(source: str) -> list[str]:
    """Those that end with ``$`` and are not about the lines of a text."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        by_line = any(ast.unparse(each) in ("re.M", "re.MULTILINE") for each in call.args)
        is_pattern = ast.unparse(call.func).startswith("re.")
        given = [keyword.value for keyword in call.keywords if keyword.arg == "pattern"]
        for each in (*given, *(call.args[:1] if is_pattern and not by_line else ())):
            text = each.value if isinstance(each, ast.Constant) else ""
            if isinstance(text, bytes):
                text = text.decode("latin-1")
            if isinstance(text, str) and text.endswith("$") and not text.endswith(r"\$"):
                found.append(text)
    return found


def test_no_pattern_of_the_product_lets_a_newline_follow() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    loose = {path.name: loose_patterns(path.read_text()) for path in files}
    assert not {name: found for name, found in loose.items() if found}


def test_the_scan_sees_them() -> None:
    assert loose_patterns('re.compile(r"^[a-z]+$")\nMeta(max_length=3, pattern="^x$")\nre.match(b"y$", z)')
    assert not loose_patterns('re.compile(r"x$", re.M)\nre.compile(r"[a-z]+\\Z")\nre.compile(r"\\$")')


@pytest.mark.parametrize(
    ("kind", "good"),
    [(AskedPath, "/v1/model"), (ContentType, "text/plain"), (FileName, "model.onnx")],
    ids=["path", "content type", "file name"],
)
def test_a_name_with_a_newline_at_its_end_is_refused(kind: type, good: str) -> None:
    assert msgspec.convert(good, kind) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good + "\n", kind)


def test_a_served_name_with_a_newline_at_its_end_is_refused() -> None:
    spec = {"name": "m", "format": "onnx", "memory_bytes": 1}
    assert msgspec.convert(spec, ServingSpec).name == "m"
    for field in ("name", "format"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(spec | {field: f"{spec[field]}\n"}, ServingSpec)
