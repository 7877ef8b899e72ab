"""Answers an ImportCode in a worker. What it runs may do anything that the sandbox lets it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from backend.code_import.messages import CodeImported, ImportCode
from backend.code_import.run import import_code
from backend.errors import CodeError
from backend.formats.tensors import pack_tensors
from backend.reports import Event
from backend.serialize import dump_graph
from backend.workers.job import failure_of

WEIGHTS_FILE = "weights.safetensors"


class Send(Protocol):
    def __call__(self, event: Event, body: bytes = b"") -> None: ...


def answer_import(command: ImportCode, directory: Path, send: Send) -> None:
    """Ends with exactly one of CodeImported and Failed, whatever the code does but end the process."""
    try:
        found = import_code(directory / command.file, command.name, command.inputs)
        packed = pack_tensors({key: value.numpy() for key, value in found.weights.items()})
        (directory / WEIGHTS_FILE).write_bytes(packed)
        body = dump_graph(found.graph)
    except Exception as error:
        send(failure_of(error))
    except BaseException as error:
        send(failure_of(CodeError(f"the code ended the program: {type(error).__name__}")))
    else:
        send(CodeImported(name=found.graph.name[:128], weights=WEIGHTS_FILE), body)
