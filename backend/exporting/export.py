"""One export from start to end: read, write, run what was written, compare. Worker processes only."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
from blake3 import blake3

from backend.errors import BackendError, ExportError, GraphInvalidError
from backend.exporting.blame import Probing, first_difference, root_cause, untranslatable
from backend.exporting.gguf_export import tokenizer_metadata, write_language_model, write_tensors
from backend.exporting.language_model import NotLanguageModel, read_language_model
from backend.exporting.messages import Export, Exported, ExportOptions, Stage
from backend.exporting.onnx_export import export_onnx, takes_one
from backend.exporting.refusals import refusals
from backend.exporting.runners import (
    Runner,
    has_llama,
    in_batches,
    open_cyxmodel,
    open_gguf_tensors,
    open_gguf_weights,
    open_llama,
    open_onnx,
    open_program,
    open_safetensors,
)
from backend.exporting.safetensors_export import write_safetensors
from backend.exporting.source import Source, answers_of, choose_inputs, load_source, served_module
from backend.facts import encode_notes
from backend.formats.cyxmodel import write_cyxmodel
from backend.formats.gguf_header import GgufValue
from backend.model_form import FORM_KEY, encode_form, read_form
from backend.parity import (
    FORMAT_VERSION,
    Certificate,
    compare,
    lowest_agreement,
    verdict_of,
)
from backend.pytorch_code import model_source

Report = Callable[[Stage], None]
_BATCHES = (1, 7)
"""Sizes in which inputs are given first, to show that any number of samples will do; then all others."""
PREFIX = "cyxwiz."
"""Of our entries in metadata."""
_LLAMA_SAMPLES = 4
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_EXACT, _PROGRAM, _FLOAT, _LLAMA = 0.0, 1e-5, 1e-4, 0.01
_ROUNDED = {"f32": _EXACT, "f16": 0.02, "q8_0": 0.1}
_ROUNDED_LLAMA = {"f32": _LLAMA, "f16": 0.02, "q8_0": 0.1}


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and how to run it. ``tolerance`` as in a certificate; ``raw``: takes unprepared samples."""

    file: Path
    about: str
    runtime: str
    open: Callable[[], tuple[Runner, dict[str, str]]]
    tolerance: float
    raw: bool = False
    weights: Path | None = None
    samples: int | None = None
    """How many to compare at most."""
    takes_one: bool = False
    """One sample at a time."""


def export_model(order: Export, directory: Path, report: Report) -> tuple[Exported, Certificate]:
    """Raises ExportError, which names the node that a format cannot hold, and other BackendErrors."""

    def stage(number: int, text: str) -> None:
        report(Stage(text, number, 4))

    stage(1, "reading the model")
    source = load_source(directory / order.model)
    refused = refusals(source.compiled.graph, order.options.format)
    if refused:
        raise ExportError("; ".join(map(str, refused[:5])))
    stage(2, f"writing {order.options.format}")
    written = _WRITERS[order.options.format](source, order.options, directory)
    stage(3, f"running it in {written.runtime}")
    data = directory / order.data if order.data else None
    certificate = _certify(source, written, order, data)
    stage(4, "comparing answers")
    if certificate.verdict == "differs":
        raise ExportError(_explain(source, certificate, data))
    weights = written.weights.name if written.weights else None
    return Exported(written.file.name, written.about, weights), certificate


def _certify(source: Source, written: Written, order: Export, data: Path | None) -> Certificate:
    inputs, facts = choose_inputs(source, data, raw=written.raw, limit=written.samples)
    run, versions = written.open()
    sizes = (1,) * facts.samples if written.takes_one else _batch_sizes(facts.samples)
    theirs = in_batches(run, inputs, sizes)
    module = served_module(source) if written.raw else source.compiled.module
    ours = in_batches(lambda batch: answers_of(module, batch), inputs, sizes)
    names = source.compiled.output_names
    if len(theirs) != len(ours):
        raise ExportError(f"{order.options.format}: {len(theirs)} outputs, the model has {len(ours)}")
    outputs = tuple(compare(*each) for each in zip(names, ours, theirs, strict=True))
    return Certificate(
        format_version=FORMAT_VERSION,
        format=order.options.format,
        about=written.about,
        runtime=written.runtime,
        versions=versions,
        model_blake3=source.blake3,
        file_blake3=hash_of(written.file),
        inputs=facts,
        batches=sizes,
        outputs=outputs,
        max_difference=max(output.max_difference for output in outputs),
        mean_difference=max(output.mean_difference for output in outputs),
        argmax_agreement=lowest_agreement(outputs),
        tolerance=written.tolerance,
        verdict=verdict_of(outputs, written.tolerance),
    )


def _batch_sizes(samples: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for size in (*_BATCHES, samples):
        taken = min(size, samples - sum(sizes))
        if taken:
            sizes.append(taken)
    return tuple(sizes)


def hash_of(*paths: Path) -> str:
    """Of the bytes of all files, one after the other."""
    hasher = blake3()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    return hasher.hexdigest()


def _explain(source: Source, certificate: Certificate, data: Path | None) -> str:
    """Why an export is refused after it was run."""
    worst = max(certificate.outputs, key=lambda output: output.max_difference)
    text = (
        f"{certificate.format}: output {worst.name!r} differs by {worst.max_difference:.3g} in "
        f"{certificate.runtime}, allowed is {certificate.tolerance:g} of {max(1.0, worst.largest_value):.3g}"
    )
    if certificate.format != "onnx":
        return text
    inputs, _ = choose_inputs(source, data, raw=False)
    probing = Probing(source.compiled.graph, source.model.weights, inputs, certificate.batches)
    culprit = first_difference(probing, certificate.tolerance)
    return f"{text}; {culprit}" if culprit else text


# -- formats -------------------------------------------------------------------------------------


def _as_cyxmodel(source: Source, options: ExportOptions, directory: Path) -> Written:
    path = directory / "export.cyxmodel"
    write_cyxmodel(path, replace(source.model, optimizer=None))
    about = "a .cyxmodel without the state of its optimizer: to be used, not trained on"
    return Written(path, about, "torch", lambda: open_cyxmodel(path), _EXACT)


def _as_onnx(source: Source, options: ExportOptions, directory: Path) -> Written:
    if missing := [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExportError(f"onnx: needs {', '.join(missing)}: pip install 'cyxwiz[export]'")
    path, raw = directory / "export.onnx", options.with_preprocessing and source.is_prepared
    module = served_module(source) if raw else source.compiled.module
    inputs = source.raw if raw else source.inputs
    facts = facts_of(source, prepared=raw)
    if raw or not source.is_prepared:
        facts |= _form_of(source)
    try:
        path.write_bytes(export_onnx(module, inputs, source.compiled.outputs, facts))
    except BackendError:
        raise
    except Exception as error:
        # The exporter raises whatever its parts raise.
        culprit = untranslatable(source.compiled.graph)
        raise ExportError(f"onnx: {culprit or root_cause(error)}") from error
    inside = "with preprocessing inside" if raw else "takes what the model takes, after preprocessing"
    alone = takes_one(module)
    batch = "for one sample at a time, as the file that it came from" if alone else "with dynamic batch"
    about = f"ONNX {batch}, {inside if source.is_prepared else 'needs no preprocessing'}"
    return Written(path, about, "onnxruntime", lambda: open_onnx(path), _FLOAT, raw, takes_one=alone)


def _as_safetensors(source: Source, options: ExportOptions, directory: Path) -> Written:
    path = directory / "export.safetensors"
    write_safetensors(path, source.model.weights, source.model.graph, facts_of(source, prepared=False))
    about = "safetensors with the graph in its metadata; weights are named NODE.WEIGHT"
    return Written(path, about, "safetensors, then torch", lambda: open_safetensors(path), _EXACT)


def _as_gguf(source: Source, options: ExportOptions, directory: Path) -> Written:
    path, kind, weights = directory / "export.gguf", options.tensor_type, source.model.weights
    facts = {f"general.{key}": value for key, value in (("name", source.compiled.graph.name),) if value}
    own: dict[str, GgufValue] = {**facts, **facts_of(source, prepared=False)}
    try:
        model = read_language_model(source.compiled.graph)
    except NotLanguageModel as found:
        write_tensors(path, source.model.graph, weights, kind, own)
        about = f"GGUF tensor container for CyxWiz, which llama.cpp refuses: {found}"
        return Written(path, about, "own loader, then torch", lambda: open_gguf_tensors(path), _ROUNDED[kind])
    tokenizer, reason = _tokenizer(source, model.vocabulary)
    write_language_model(path, model, weights, kind, source.model.graph, own | tokenizer)
    about = f"GGUF that llama.cpp runs as {model.architecture}, {kind}"
    about += (
        f", without a tokenizer, so that it takes and gives numbers of tokens: {reason}" if reason else ""
    )
    if has_llama():
        opening = partial(open_llama, path, model)
        return Written(path, about, "llama.cpp", opening, _ROUNDED_LLAMA[kind], samples=_LLAMA_SAMPLES)
    opening = partial(open_gguf_weights, path, model, source.model.graph)
    runtime = "torch with the file's weights; llama.cpp is not installed"
    return Written(path, about, runtime, opening, _ROUNDED[kind])


def _tokenizer(source: Source, vocabulary: int) -> tuple[dict[str, GgufValue], str]:
    """As llama.cpp wants it; and why there is none, else empty."""
    if not source.model.notes.tokenizer:
        return {}, "the model was saved without one"
    try:
        return tokenizer_metadata(source.model.notes.tokenizer, vocabulary), ""
    except ExportError as error:
        return {}, str(error)


def _as_pytorch(source: Source, options: ExportOptions, directory: Path) -> Written:
    path, weights = directory / "export.py", directory / "export.safetensors"
    path.write_text(model_source(source.compiled.graph), encoding="utf-8")
    write_safetensors(weights, source.model.weights, source.model.graph, facts_of(source, prepared=False))
    about = "a Python module with the class Model, which needs torch alone, and its weights beside it"
    return Written(path, about, "torch", lambda: open_program(path, weights), _PROGRAM, weights=weights)


_WRITERS: Mapping[str, Callable[[Source, ExportOptions, Path], Written]] = {
    "cyxmodel": _as_cyxmodel,
    "onnx": _as_onnx,
    "safetensors": _as_safetensors,
    "gguf": _as_gguf,
    "pytorch": _as_pytorch,
}


def facts_of(source: Source, *, prepared: bool) -> dict[str, str]:
    """Metadata: what the numbers mean. ``prepared``: preprocessing is part of the file already."""
    facts = {"cyxwiz.graph_blake3": blake3(source.model.graph).hexdigest()}
    normalization = source.model.training.normalization
    if normalization is not None and not prepared:
        facts["cyxwiz.normalization"] = msgspec.json.encode(normalization).decode()
    return facts | {f"{PREFIX}{key}": text for key, text in encode_notes(source.model.notes).items()}


def _form_of(source: Source) -> dict[str, str]:
    """What a server needs to take images, texts and rows: of a file that takes samples as they are."""
    try:
        form = read_form(source.compiled.graph, source.model.notes)
    except GraphInvalidError:
        return {}
    return {FORM_KEY: encode_form(form)}
