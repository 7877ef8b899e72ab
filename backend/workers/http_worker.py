"""A worker that is a model server: its runtimes imported, its sandbox closed, HTTP in a thread.

The main thread only reads commands, so it always answers its supervisor.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backend.reports import Failed, Ping, Pong, Ready
from backend.runtime.base import Runtime, load_model
from backend.runtime.chat_template import Render, render
from backend.serving.http import HttpError
from backend.serving.messages import Serve, ServedModel, Serving, ServingStopped, SetKeys, StopServing
from backend.serving.server import ModelServer
from backend.workers.renderer import start_renderer
from backend.workers.sandbox import SandboxLimits, SandboxMode, close_process, device_files, hide_io_uring

if TYPE_CHECKING:
    from backend.workers.main import Connection

OPEN_FILES = 4096
_NEEDS = {
    "torch": "a .cyxmodel needs torch: pip install 'cyxwiz[peer]'",
    "onnx": "an ONNX model needs onnxruntime-gpu: pip install 'cyxwiz[serve]'",
    "llama": "a GGUF model needs llama-cpp-python: pip install 'cyxwiz[llm]'",
    "tokenizers": "a model of texts needs tokenizers: pip install 'cyxwiz[serve]'",
}


def run_http_worker(options: argparse.Namespace, connection: Connection, directory: Path) -> None:
    """Never returns while the supervisor keeps its end open."""
    runtimes = tuple(name for name in options.runtimes.split(",") if name)
    # Before there is a second thread, or anything that it need not share.
    render_chat = start_renderer(SandboxMode(options.sandbox), directory) if "llama" in runtimes else render
    hide_io_uring(SandboxMode(options.sandbox))
    server = ModelServer(_socket(options.listener), _socket(options.calls), directory)
    for name in runtimes:
        _import(name, directory)
    memory = options.memory_bytes if options.device == "cpu" else None
    active = close_process(
        SandboxMode(options.sandbox),
        directory,
        SandboxLimits(memory, options.file_bytes, OPEN_FILES),
        device_files(options.device),
        options.listener or None,
    )
    if "torch" in runtimes:
        from backend.workers.warmup import choose_threads, warm_device

        choose_threads(options.threads)
        warm_device(options.device)
    connection.send(Ready(sandbox=active, runtime=", ".join(runtimes)))
    HttpWorker(connection, directory, server, render_chat).run()


def _socket(descriptor: int) -> socket.socket | None:
    return socket.socket(fileno=descriptor) if descriptor else None


def _import(runtime: str, directory: Path) -> None:
    """Before the sandbox closes: imports look for files, programs and processors. Ends the process, which
    its supervisor tells, where one is not installed."""
    try:
        _import_whole(runtime, directory)
    except ImportError as error:
        sys.exit(f"{_NEEDS[runtime]} ({str(error)[:200]})")


def _import_whole(runtime: str, directory: Path) -> None:
    match runtime:
        case "torch":
            from backend.workers.warmup import warm_up

            warm_up(directory)
            _import_readers()
        case "onnx":
            import backend.runtime.onnx_runtime  # noqa: F401

            _import_readers()
        case "llama":
            import llama_cpp  # noqa: F401
        case "tokenizers":
            import tokenizers  # noqa: F401


def _import_readers() -> None:
    """What images and texts need; a base install without them serves arrays."""
    with suppress(ImportError):
        import PIL.Image
        import tokenizers  # noqa: F401

        import backend.readers.images
        import backend.readers.text  # noqa: F401

        PIL.Image.init()


class HttpWorker:
    """Commands in, the server's thread told."""

    def __init__(
        self, connection: Connection, directory: Path, server: ModelServer, render_chat: Render
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._server = server
        self._render_chat = render_chat

    def run(self) -> None:
        while (received := self._connection.receive()) is not None:
            match received[0]:
                case Serve() as order:
                    self._serve(order)
                case SetKeys(keys):
                    self._server.set_keys(keys)
                case StopServing(grace_s):
                    self._server.stop(grace_s)
                case Ping():
                    self._connection.send(Pong(stalled_s=self._server.stalled_s()))
                case command:
                    text = f"a model server takes no {type(command).__name__}"
                    self._connection.send(Failed(code="internal", text=text))
        os._exit(0)

    def _serve(self, order: Serve) -> None:
        send = self._connection.send
        self._server.start(
            order,
            self._load,
            on_ready=lambda lines: send(Serving(models=lines)),
            on_failure=lambda error: send(_failure(error)),
            on_stopped=lambda unanswered: send(ServingStopped(unanswered=unanswered)),
        )

    def _load(self, model: ServedModel) -> Runtime:
        return load_model(self._directory / model.file, model.device, model.options, self._render_chat)


def _failure(error: Exception) -> Failed:
    if isinstance(error, HttpError):
        return Failed(code=error.code, text=error.text[:2000])
    return Failed(code="internal", text=f"{type(error).__name__}: {str(error)[:2000]}")
