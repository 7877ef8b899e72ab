"""A worker whose runtime cannot be imported ends with what is missing, and what to install."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from backend.workers import http_worker, main


@pytest.mark.parametrize(
    ("runtime", "missing", "says"),
    [
        (
            "llama",
            "llama_cpp",
            r"a GGUF model needs llama-cpp-python: pip install 'cyxwiz\[llm\]' \(.*llama_cpp",
        ),
        ("tokenizers", "tokenizers", "a model of texts needs tokenizers: .*tokenizers"),
        ("onnx", "onnxruntime", "an ONNX model needs onnxruntime-gpu: .*onnxruntime"),
        ("torch", "torch", "a .cyxmodel needs torch: .*torch"),
    ],
)
def test_what_cannot_be_imported_is_told(
    runtime: str, missing: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for importer in ("backend.runtime.onnx_runtime", "backend.workers.warmup"):
        monkeypatch.delitem(sys.modules, importer, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=says):
        http_worker._import(runtime, Path())


def test_a_worker_without_torch_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = socket.socketpair()
    arguments = (
        f"--descriptor {its.detach()} --directory {tmp_path} --sandbox none --memory-bytes 1 --file-bytes 1"
    )
    monkeypatch.setattr(sys, "argv", ["backend.workers", *arguments.split()])
    monkeypatch.delitem(sys.modules, "backend.workers.warmup", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with ours, pytest.raises(SystemExit, match=r"this needs torch: pip install 'cyxwiz\[peer\]' \(.*torch"):
        main.main()
