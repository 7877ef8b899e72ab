"""Generates text with a GGUF model through llama.cpp, whose file was checked before.

Its chat template is the file's own, rendered by whoever the server trusts with that. One sequence at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from backend.errors import ArchiveError, InputError
from backend.formats.gguf_header import GgufHeader, read_gguf_header
from backend.formats.tensors import Array
from backend.runtime.base import RuntimeFacts, Sampling, Token
from backend.runtime.chat_template import MAX_PROMPT_CHARACTERS, Conversation, Render
from backend.runtime.llama_embedder import LlamaEmbedder, makes_embeddings
from backend.serving.messages import RuntimeOptions, TensorSpec

DEFAULT_CONTEXT = 4096
MAX_TOP_LOGPROBS = 20
_SEEDS = 1 << 32


class LlamaRuntime:
    """One model with one context. Takes no tensors: it is a TextGenerator."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, path: Path, header: GgufHeader, options: RuntimeOptions, render: Render) -> None:
        import llama_cpp

        self._lib = llama_cpp
        trained = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
        longest = trained if isinstance(trained, int) and trained > 0 else DEFAULT_CONTEXT
        self._llama = llama_cpp.Llama(
            str(path),
            n_gpu_layers=options.gpu_layers,
            n_ctx=options.context or min(longest, DEFAULT_CONTEXT),
            n_threads=options.threads or 1,
            n_threads_batch=options.threads or 1,
            flash_attn=True,  # as llama.cpp's own server: a token takes an eighth less
            verbose=False,
        )
        self._context = self._llama.n_ctx()
        template = header.metadata.get("tokenizer.chat_template")
        self._template = template if isinstance(template, str) else None
        self._render = render
        self.facts = RuntimeFacts(
            format="gguf",
            runtime=f"llama_cpp {llama_cpp.__version__}",
            devices=("gpu, cpu" if llama_cpp.llama_supports_gpu_offload() and options.gpu_layers else "cpu",),
            size_bytes=header.size_bytes,
            context_tokens=self._context,
            vocabulary=self._llama.n_vocab(),
        )

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        """Raises InputError always."""
        raise InputError("this model generates text and takes no tensors")

    def tokenize(self, prompt: str) -> list[int]:
        """Raises InputError."""
        return self._tokens(prompt, add_bos=True, special=False)

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Raises InputError, also for a conversation that the template refuses."""
        if self._template is None:
            raise InputError("this model has no chat template: ask for a completion instead")
        begin, end = (self._text(token()) for token in (self._llama.token_bos, self._llama.token_eos))
        prompt = self._render(Conversation(self._template, messages, begin, end))
        return self._tokens(prompt, add_bos=False, special=True)

    @property
    def has_chat(self) -> bool:
        return self._template is not None

    def generate(self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        llama = self._llama
        seed = int.from_bytes(os.urandom(4), "little") if sampling.seed is None else sampling.seed
        llama.set_seed(seed % _SEEDS)
        room = min(sampling.max_tokens, self._context - len(prompt))
        tokens = llama.generate(
            prompt,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=0.0,
            temp=sampling.temperature,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
        )
        vocabulary = self._lib.llama_model_get_vocab(llama.model)
        for _, token in zip(range(room), tokens, strict=False):
            if self._lib.llama_vocab_is_eog(vocabulary, token) or stopped():
                break
            yield self._describe(token, sampling.top_logprobs)

    def _describe(self, token: int, top: int | None) -> Token:
        piece = self._llama.detokenize([token], special=False)
        if top is None:
            return Token(piece)
        pointer = self._lib.llama_get_logits_ith(self._llama.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),)).astype(np.float64)
        logprobs = logits - logits.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        best = np.argsort(logprobs)[::-1][: min(top, MAX_TOP_LOGPROBS)]
        others = tuple((self._llama.detokenize([int(i)]), float(logprobs[i])) for i in best)
        return Token(piece, float(logprobs[token]), others)

    def _text(self, token: int) -> str:
        return self._llama.detokenize([token], special=True).decode(errors="replace") if token >= 0 else ""

    def _tokens(self, prompt: str, *, add_bos: bool, special: bool) -> list[int]:
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise InputError(f"prompt of {len(prompt)} characters, limit {MAX_PROMPT_CHARACTERS}")
        tokens: list[int] = self._llama.tokenize(prompt.encode(), add_bos=add_bos, special=special)
        if not 0 < len(tokens) < self._context:
            raise InputError(f"prompt of {len(tokens)} tokens, allowed are 1 to {self._context - 1}")
        return tokens


def load_gguf(
    path: Path, device: str, options: RuntimeOptions, render: Render
) -> LlamaRuntime | LlamaEmbedder:
    """Raises ArchiveError."""
    header = read_gguf_header(path)
    try:
        if makes_embeddings(header):
            return LlamaEmbedder(path, header, options)
        return LlamaRuntime(path, header, options, render)
    except ImportError as error:
        raise ArchiveError("GGUF needs llama-cpp-python: pip install 'cyxwiz[llm]'") from error
    except (ValueError, RuntimeError, AssertionError) as error:
        name = str(header.metadata.get("general.architecture", "none"))[:40]
        cause = str(error).replace(str(path), path.name)[:300]
        raise ArchiveError(f"llama.cpp cannot open this GGUF, architecture {name}: {cause}") from error
