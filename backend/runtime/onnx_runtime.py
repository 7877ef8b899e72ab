"""Answers with an ONNX model through ONNX Runtime, from bytes that were checked before.

External data, custom operators and operator libraries never get here: the check refuses them. A run
that reaches its deadline is told to stop, which also ends loops without end.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ArchiveError, DatasetError, DeadlineError, InputError
from backend.facts import decode_notes
from backend.formats.onnx_check import check_onnx
from backend.formats.tensors import Array
from backend.model_form import FORM_KEY, ModelForm, decode_form
from backend.runtime.base import RuntimeFacts, in_order
from backend.serving.messages import RuntimeOptions, TensorSpec

# Read by its first import: without it, ONNX Runtime sends telemetry and leaves a device id on disk.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

MAX_BYTES = 2 << 30
_LOOK_EVERY_S = 0.05
_TERMINATED = "terminate"
_FATAL_ONLY = 4
_OWN = "cyxwiz."
"""Before the entries of our own exports in a file's metadata."""
ELEMENT_KINDS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


_TABLE = re.compile(r"seq\(map\((string|int64),tensor\(float\)\)\)")


class OnnxRuntime:
    """One session."""

    def __init__(self, data: bytes, device: str, options: RuntimeOptions) -> None:
        self._session = open_session(data, options.threads, device)
        self._terminator = Terminator(time.monotonic)
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs, left_out = _outputs(self._session.get_outputs())
        self.form = _form(self._session.get_modelmeta().custom_metadata_map, self.inputs, self.outputs)
        """What may be sent instead of arrays, where whoever exported the model said so."""
        self._answers = [spec.name for spec in self.outputs]
        self.facts = RuntimeFacts(
            format="onnx",
            runtime=f"onnxruntime {onnxruntime.__version__}{left_out}",
            devices=tuple(self._session.get_providers()),
            size_bytes=2 * len(data),
        )

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        """Raises InputError, DeadlineError."""
        in_order(inputs, self.inputs)
        options = None if deadline is None else self._terminator.begin(deadline)
        try:
            answers = self._session.run(self._answers, inputs, options)
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise _cause(error) from error
        finally:
            if options is not None:
                self._terminator.end()
        answers = [_table(answer) if isinstance(answer, list) else answer for answer in answers]
        if not all(isinstance(answer, np.ndarray) and answer.dtype != object for answer in answers):
            raise InputError("the model answers with something that is no array of numbers")
        return dict(zip(self._answers, answers, strict=True))


class Terminator:
    """Tells the run that goes on to stop once its deadline has passed; one thread for all runs."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._deadline = 0.0
        self._running: Any = None
        """The options of the run that goes on."""
        self._options: Any = None
        """For the next run: as those of the last, unless it was stopped."""
        self._thread: threading.Thread | None = None

    def begin(self, deadline: float) -> Any:
        """The options for a run, which ``end`` must follow."""
        if self._options is None:
            self._options = onnxruntime.RunOptions()
            self._options.log_severity_level = _FATAL_ONLY
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
            self._thread.start()
        with self._lock:
            self._deadline, self._running = deadline, self._options
        return self._options

    def end(self) -> None:
        with self._lock:
            if self._running.terminate:
                self._options = None
            self._running = None

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_EVERY_S):
            with self._lock:
                if self._running is not None and self._now() > self._deadline:
                    self._running.terminate = True


def load_onnx(path: Path, device: str, options: RuntimeOptions) -> OnnxRuntime:
    """Raises ArchiveError."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArchiveError(f"ONNX file of {size} bytes, limit {MAX_BYTES}")
    data = path.read_bytes()
    check_onnx(data)
    try:
        return OnnxRuntime(data, device, options)
    except (MemoryError, ArchiveError):
        raise
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise ArchiveError(f"ONNX Runtime cannot open the model: {str(error)[:500]}") from error


def open_session(data: bytes, threads: int, device: str = "cpu") -> Any:
    """Of a model that was checked or made here. Raises whatever ONNX Runtime does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    # A spinning pool would take the processor that the server itself needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=_providers(device))


def run_until(session: Any, inputs: Mapping[str, Array], deadline: float | None) -> Any:
    """All outputs of a run that is stopped at its deadline, for runs that are few and may hold loops.

    Raises DeadlineError, InputError, MemoryError.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    left_s = threading.TIMEOUT_MAX if deadline is None else max(0.0, deadline - time.monotonic())
    timer = threading.Timer(left_s, setattr, (options, "terminate", True))
    timer.daemon = True
    if deadline is not None:
        timer.start()
    try:
        return session.run(None, inputs, options)
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise _cause(error) from error
    finally:
        timer.cancel()


def _providers(device: str) -> list[Any]:
    """Those to try: which of them loaded, the session says."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _spec(end: Any) -> TensorSpec:
    """Raises ArchiveError for what is no tensor of numbers."""
    dtype = ELEMENT_KINDS.get(end.type)
    if dtype is None:
        raise ArchiveError(
            f"input {end.name[:80]!r} is {end.type}, served are {', '.join(ELEMENT_KINDS.values())}"
        )
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in end.shape or ())
    return TensorSpec(end.name, dtype, shape)


def _outputs(ends: list[Any]) -> tuple[tuple[TensorSpec, ...], str]:
    """What is answered, and in words what is left out. Raises ArchiveError if that is all of it."""
    kept = [end for end in ends if end.type in ELEMENT_KINDS or _TABLE.fullmatch(end.type)]
    if not kept:
        raise ArchiveError(f"no output is of numbers: {ends[0].name[:80]!r} is {ends[0].type}")
    specs = [
        _spec(end) if end.type in ELEMENT_KINDS else TensorSpec(end.name, "float32", (-1, -1)) for end in kept
    ]
    others = ", ".join(f"{end.name[:80]} ({end.type})" for end in ends if end not in kept)
    return tuple(specs), f", without {others}" if others else ""


def _table(rows: list[Any]) -> Array | None:
    """Numbers by class, a map for each row, as classifiers of scikit-learn answer: in the classes' order.

    None for anything else.
    """
    try:
        return np.array([list(row.values()) for row in rows], np.float32)
    except (AttributeError, TypeError, ValueError):
        return None


def _form(
    metadata: Mapping[str, str], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> ModelForm | None:
    text = metadata.get(FORM_KEY)
    if text is None:
        return None
    own = {key.removeprefix(_OWN): value for key, value in metadata.items() if key.startswith(_OWN)}
    try:
        notes = decode_notes(own)
    except DatasetError:
        return None
    taken, given = ([(end.name, end.shape, end.dtype) for end in ends] for ends in (inputs, outputs))
    return decode_form(text, notes, taken, given)


def _cause(error: Exception) -> Exception:
    text = str(error)
    if _TERMINATED in text.lower():
        return DeadlineError("the run reached its deadline and was stopped")
    if "INVALID_ARGUMENT" in text or "InvalidArgument" in type(error).__name__:
        return InputError(text[:500])
    if any(words in text for words in ("Failed to allocate memory", "bad_alloc", "BFCArena")):
        return MemoryError(text[:500])
    return InputError(f"the model failed on this input: {text[:500]}")
