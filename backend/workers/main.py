"""A worker process: imports torch, warms it up, closes its sandbox, then does what it is told.

The main thread only reads commands, so it always answers; one thread trains, one serves. Nothing
of a stranger's is read before the sandbox is closed. Ends when the supervisor closes its end.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from backend.code_import.messages import ImportCode
from backend.exporting.messages import Export
from backend.importing.messages import ImportModel
from backend.reports import (
    AllowSegments,
    Cancel,
    ChangeLearningRate,
    Command,
    Evaluate,
    Event,
    Failed,
    FindRate,
    Pause,
    Ping,
    Pong,
    Ready,
    Resume,
    Samples,
    Train,
)
from backend.sample_plan import RESIDENT_BYTES, RESIDENT_SHARE
from backend.serving.messages import LoadModel, Predict, UnloadModel
from backend.workers import ipc
from backend.workers.sandbox import (
    Meeting,
    SandboxLimits,
    SandboxMode,
    close_process,
    device_files,
    die_with_parent,
)

if TYPE_CHECKING:
    from backend.distributed import Ranks


def main() -> None:
    options = _options()
    if options.parent:
        die_with_parent(options.parent)
    connection = Connection(socket.socket(fileno=options.descriptor))
    directory = Path(options.directory)

    if options.listener or options.calls:
        from backend.workers.http_worker import run_http_worker

        run_http_worker(options, connection, directory)
        return

    try:
        from backend.workers.warmup import choose_threads, runtime_name, warm_device, warm_up
    except ModuleNotFoundError as error:
        sys.exit(f"this needs torch: pip install 'cyxwiz[peer]' ({error})")

    warm_up(directory)
    on_cpu = options.device == "cpu"
    limits = SandboxLimits(options.memory_bytes if on_cpu else None, options.file_bytes)
    meeting, met = _meeting(options)
    files = device_files(options.device)
    active = close_process(SandboxMode(options.sandbox), directory, limits, files, meeting=meeting)
    choose_threads(options.threads)
    warm_device(options.device)
    connection.send(Ready(sandbox=active, runtime=runtime_name()))
    resident = min(RESIDENT_BYTES, options.memory_bytes // RESIDENT_SHARE)
    Worker(connection, directory, met[0] if met else None, resident).run()


def _meeting(options: argparse.Namespace) -> tuple[Meeting | None, list[Ranks]]:
    """For one of several workers of a training: how it meets the others, and where they are then found."""
    if options.ranks == 1:
        return None, []
    from backend.distributed import connect

    met: list[Ranks] = []
    store = Path(options.meeting) / "store"
    return Meeting(store.parent, lambda: met.append(connect(store, options.rank, options.ranks))), met


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="backend.workers", description="Started by a supervisor only.")
    parser.add_argument("--descriptor", type=int, required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--sandbox", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--listener", type=int, default=0, help="A listening socket: answer HTTP on it.")
    parser.add_argument(
        "--calls", type=int, default=0, help="A socket: answer the supervisor's requests on it."
    )
    parser.add_argument("--runtimes", default="", help="Of a model server, such as torch,onnx,llama.")
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--meeting", default="")
    return parser.parse_args()


class Connection:
    """The worker's end: blocking, written to by several threads."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb")
        self._writing = threading.Lock()

    def send(self, event: Event, body: bytes = b"") -> None:
        """Ends the process if the supervisor is gone."""
        head, tail = ipc.encode(event, body)
        with self._writing:
            try:
                self._socket.sendall(head)
                if tail:
                    self._socket.sendall(tail)
            except OSError:
                os._exit(0)

    def receive(self) -> tuple[Command, bytes] | None:
        """The next command; None when the supervisor has closed its end. Raises WorkerError."""
        header = self._reader.read(ipc.HEADER.size)
        if len(header) < ipc.HEADER.size:
            return None
        message_bytes, body_bytes = ipc.decode_header(header)
        message = self._reader.read(message_bytes)
        body = self._reader.read(body_bytes)
        if len(message) + len(body) < message_bytes + body_bytes:
            return None
        return ipc.decode_command(message), body


class Worker:
    """Commands in, threads told."""

    def __init__(
        self, connection: Connection, directory: Path, ranks: Ranks | None, resident_bytes: int
    ) -> None:
        from backend.workers.job import TrainingJob, run_evaluation
        from backend.workers.rate_job import run_rate_search
        from backend.workers.serving import Serving

        self._connection = connection
        self._directory = directory
        self._ranks = ranks
        self._resident_bytes = resident_bytes
        self._make_job = TrainingJob
        self._run_evaluation = run_evaluation
        self._run_rate_search = run_rate_search
        self._job: TrainingJob | None = None
        self._serving = Serving(directory, connection.send, self._training_held_still)

    def run(self) -> None:
        threading.Thread(target=self._serving.run, name="serving", daemon=True).start()
        while (received := self._connection.receive()) is not None:
            self._obey(*received)
        # Threads may be deep in a computation, and nothing here needs an orderly end.
        os._exit(0)

    def _obey(self, command: Command, body: bytes) -> None:
        match command:
            case Train():
                self._train(command, body)
            case Samples(number):
                if self._job is not None:
                    self._job.deliver(number, body)
            case Evaluate():
                self._evaluate(command)
            case Export() | ImportModel():
                self._convert(command)
            case ImportCode():
                self._import(command)
            case FindRate():
                self._find_rate(command, body)
            case LoadModel() | Predict() | UnloadModel():
                self._serving.ask(command, body)
            case Ping():
                self._connection.send(Pong(stalled_s=self._job.gate.stalled_s() if self._job else 0.0))
            case AllowSegments() | Pause() | Resume() | Cancel() | ChangeLearningRate():
                self._steer(command)

    def _train(self, command: Train, graph: bytes) -> None:
        if self._is_busy():
            return
        send, resident = self._connection.send, self._resident_bytes
        self._job = self._make_job(command, graph, self._directory, send, self._ranks, resident)
        threading.Thread(target=self._job.run, name="training", daemon=True).start()

    def _evaluate(self, command: Evaluate) -> None:
        if self._is_busy():
            return
        arguments = (command, self._directory, self._connection.send, self._resident_bytes)
        threading.Thread(target=self._run_evaluation, args=arguments, name="evaluation", daemon=True).start()

    def _convert(self, command: Export | ImportModel) -> None:
        if self._is_busy():
            return
        from backend.workers.converting import run_export, run_import

        run = run_export if isinstance(command, Export) else run_import
        arguments = (command, self._directory, self._connection.send)
        threading.Thread(target=run, args=arguments, name="conversion", daemon=True).start()

    def _import(self, command: ImportCode) -> None:
        """Only ever of a user's own worker, which does nothing else and is thrown away."""
        if self._is_busy():
            return
        from backend.code_import.answer import answer_import

        arguments = (command, self._directory, self._connection.send)
        threading.Thread(target=answer_import, args=arguments, name="import", daemon=True).start()

    def _find_rate(self, command: FindRate, graph: bytes) -> None:
        if self._is_busy():
            return
        arguments = (command, graph, self._directory, self._connection.send, self._resident_bytes)
        threading.Thread(target=self._run_rate_search, args=arguments, name="rates", daemon=True).start()

    def _is_busy(self) -> bool:
        busy = self._job is not None and not self._job.has_ended
        if busy:
            self._connection.send(Failed(code="internal", text="a training already runs in this worker"))
        return busy

    def _steer(self, command: AllowSegments | Pause | Resume | Cancel | ChangeLearningRate) -> None:
        if self._job is None:
            return
        gate = self._job.gate
        match command:
            case AllowSegments(upto=upto):
                gate.allow(upto)
            case Pause():
                gate.pause()
            case Resume():
                gate.resume()
            case Cancel():
                gate.cancel()
            case ChangeLearningRate(rate=rate):
                self._job.change_rate(rate)

    def _training_held_still(self) -> AbstractContextManager[None]:
        return self._job.gate.between_steps() if self._job is not None else nullcontext()
