"""What every runtime offers, and which one opens a file. Imports a numeric runtime only to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from backend.errors import ArchiveError, InputError
from backend.formats.sniff import ModelFormat, sniff
from backend.formats.tensors import Array
from backend.runtime.chat_template import Render, render
from backend.serving.messages import RuntimeOptions, TensorSpec

READABLE = (ModelFormat.CYXMODEL, ModelFormat.ONNX, ModelFormat.GGUF)


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What answers, as far as it is known once the model is loaded."""

    format: str
    runtime: str
    """Name and version."""
    devices: tuple[str, ...]
    """That really loaded: cpu, cuda:0; of ONNX Runtime its providers."""
    size_bytes: int
    """About what the loaded model holds."""
    context_tokens: int | None = None
    """Of a model that generates text."""
    vocabulary: int | None = None


class Runtime(Protocol):
    """A loaded model. ``run`` may be called from one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: RuntimeFacts

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        """All outputs by name, for a batch (N, ...) of each input.

        ``deadline``: on the monotonic clock; a runtime that can stop itself does so then and raises
        DeadlineError. Raises InputError.
        """


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 takes the most likely one."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    top_logprobs: int | None = None
    """None: no log probabilities are told."""


@dataclass(frozen=True, slots=True)
class Token:
    """One that was generated, with what it and the likeliest others were given (natural logarithm)."""

    piece: bytes
    logprob: float | None = None
    others: tuple[tuple[bytes, float], ...] = ()


@runtime_checkable
class TextGenerator(Protocol):
    """A runtime that goes on with text; one generation at a time."""

    facts: RuntimeFacts

    def tokenize(self, prompt: str) -> list[int]:
        """Raises InputError for more than the context holds."""

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The prompt that the model's own template makes of a conversation. Raises InputError."""

    def generate(self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        """Ends at the model's end of text, at ``max_tokens``, a full context, or when ``stopped``."""


class TextEmbedder(Protocol):
    """Texts to rows for a model, and its answers to embeddings."""

    @property
    def shares_within(self) -> int | None:
        """Texts whose tokens round up to the same multiple of it share a batch, the shorter ones ending in
        zeros; None where all rows have one length."""

    def encode(self, text: str) -> tuple[dict[str, Array], int]:
        """One row, and how many tokens it holds. Raises InputError."""

    def from_ids(self, ids: list[int]) -> tuple[dict[str, Array], int]:
        """Raises InputError."""

    def pool(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> Array:
        """The embedding of one row, float32, of length one."""


_DEFAULTS = RuntimeOptions()


def load_model(
    path: Path, device: str, options: RuntimeOptions = _DEFAULTS, render_chat: Render = render
) -> Runtime:
    """Opens a model file by what it holds, not by its name. Raises ArchiveError."""
    match sniff(path):
        case ModelFormat.CYXMODEL:
            from backend.runtime.torch_runtime import load_cyxmodel

            return load_cyxmodel(path, device)
        case ModelFormat.ONNX:
            from backend.runtime.onnx_runtime import load_onnx

            return load_onnx(path, device, options)
        case ModelFormat.GGUF:
            from backend.runtime.llama_runtime import load_gguf

            return load_gguf(path, device, options, render_chat)
        case found:
            readable = ", ".join(kind.value for kind in READABLE)
            raise ArchiveError(f"{path.name} is {found.value}, models that answer are {readable}")


def in_order(inputs: Mapping[str, Array], taken: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """The arrays in the order of ``taken``. Raises InputError unless they are exactly those."""
    names = [spec.name for spec in taken]
    if inputs.keys() != set(names):
        found = ", ".join(sorted(inputs))[:200]
        raise InputError(f"inputs {found or 'missing'}, the model takes {', '.join(names)}")
    return tuple(inputs[name] for name in names)
