"""What a supervisor and a worker tell each other about models that change their format. Pure data."""

from __future__ import annotations

from typing import Literal

import msgspec

from backend.worker_message import FileName, WorkerMessage

ExportFormat = Literal["cyxmodel", "onnx", "safetensors", "gguf", "pytorch"]
TensorType = Literal["f32", "f16", "q8_0"]


class ExportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``with_preprocessing``: what training did to samples before the model becomes part of an ONNX."""

    format: ExportFormat
    with_preprocessing: bool = False
    tensor_type: TensorType = "f32"
    """Of a GGUF."""


# -- supervisor to worker ------------------------------------------------------------------------


class Export(WorkerMessage, frozen=True):
    """Writes a .cyxmodel in another format, runs what was written and compares the answers.

    ``data``: a dataset file to take inputs from; without one they are drawn. Answered by Stages, then
    Exported or Failed.
    """

    model: FileName
    options: ExportOptions
    data: FileName | None = None


# -- worker to supervisor ------------------------------------------------------------------------


class Stage(WorkerMessage, frozen=True):
    """What is being done now: the ``number``-th of ``total`` parts."""

    text: str
    number: int
    total: int


class Exported(WorkerMessage, frozen=True):
    """The body is the certificate as JSON. ``about``: what the user got, in a sentence."""

    file: FileName
    about: str
    weights: FileName | None = None
    """A second file, to lie beside the first: the weights of a program."""
