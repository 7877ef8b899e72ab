"""One import from start to end: read, write a .cyxmodel, and compare where the file can be run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from backend.catalogue.record import MAX_IDS
from backend.checkpoint import restore_weights
from backend.compiler import CompiledModel, End, compile_graph, ends_of
from backend.errors import ArchiveError, BackendError, ExportError, ModelImportError
from backend.exporting.export import PREFIX, hash_of
from backend.exporting.gguf_export import unpack_tensors, write_language_model
from backend.exporting.language_model import NotLanguageModel, read_language_model
from backend.exporting.messages import Stage
from backend.exporting.runners import Outputs, has_llama, open_llama, open_onnx_bytes, restored_weights
from backend.exporting.source import answers_of, drawn
from backend.facts import MAX_TOKENIZER_BYTES, DataNotes, decode_notes, encode_notes
from backend.formats.cyxmodel import CyxModel, Normalization, TrainingState, write_cyxmodel
from backend.formats.gguf_header import GgufValue, read_gguf_header
from backend.formats.gguf_tensors import read_gguf
from backend.formats.model_folder import LANGUAGE_MODELS, read_header
from backend.formats.sniff import ModelFormat, sniff
from backend.formats.tensors import Array, first_not_finite
from backend.graph import Graph
from backend.importing.language_folder import in_words_of_gguf, read_config
from backend.importing.language_gguf import DEFAULT_STEPS, read_foreign_model
from backend.importing.messages import UNKNOWN_IDS, ImportModel, ModelImported
from backend.importing.weights import fitted, load_weights
from backend.onnx_node import operator_nodes
from backend.parity import (
    FORMAT_VERSION,
    Certificate,
    InputFacts,
    compare,
    hash_inputs,
    lowest_agreement,
    verdict_of,
)
from backend.serialize import dump_graph, load_graph
from backend.shapes import infer_shapes

if TYPE_CHECKING:
    from backend.importing.onnx_read import Imported

GRAPH_KEY, NORMALIZATION_KEY = "cyxwiz.graph", "cyxwiz.normalization"
_RESULT = "imported.cyxmodel"
_SAMPLES = 16
_TOLERANCE, _ROUNDED_TOLERANCE = 1e-4, 0.02
_LLAMA_TOLERANCE = 0.01
Report = Callable[[Stage], None]


def import_model(
    order: ImportModel, directory: Path, report: Report
) -> tuple[ModelImported, Certificate | None]:
    """Raises ModelImportError, which names what has no place, and other BackendErrors."""
    paths = [directory / name for name in order.files]
    given = load_graph((directory / order.graph).read_bytes()) if order.graph else None
    report(Stage("reading the file", 1, 3))
    kind = sniff(paths[0])
    certificate: Certificate | None = None
    metadata: Mapping[str, str] = {}
    match kind:
        case ModelFormat.SAFETENSORS if (config := _language_config(paths[0], order, directory)) is not None:
            graph, weights, about, certificate = _from_folder(paths, config, order.sizes, report)
            metadata = _tokenizer(order, directory)
        case ModelFormat.SAFETENSORS:
            graph, weights, metadata = _from_safetensors(paths, given)
            about = f"{len(weights)} tensors by name"
        case ModelFormat.GGUF if _is_our_own(paths[0]):
            graph, weights, metadata = _from_gguf(paths[0])
            about = f"graph and {len(weights)} tensors of a GGUF"
        case ModelFormat.GGUF:
            graph, weights, about, certificate = _from_foreign_gguf(paths[0], order.sizes, report)
        case ModelFormat.ONNX:
            graph, weights, about, certificate, metadata = _from_onnx(paths[0], order.sizes, report)
        case _:
            raise ArchiveError(f"{order.files[0]} is no ONNX, safetensors or GGUF")
    report(Stage("writing the model", 3, 3))
    if broken := first_not_finite(weights):
        raise ModelImportError(f"weight {broken!r} holds NaN or infinity")
    _write(directory / _RESULT, graph, weights, metadata)
    return ModelImported(_RESULT, about), certificate


def _write(path: Path, graph: Graph, weights: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """The weights fit the graph."""
    inputs, _ = ends_of(graph, infer_shapes(graph))
    state = TrainingState(
        step=0,
        total_steps=0,
        segments=1,
        segments_done=0,
        seed=graph.training.seed,
        samples=0,
        sample_shape=inputs[0].shape,
        classes=0,
        normalization=_normalization(metadata),
    )
    model = CyxModel(dump_graph(graph), weights, state, notes=_notes(metadata))
    write_cyxmodel(path, model)


def _notes(metadata: Mapping[str, str]) -> DataNotes:
    """Raises DatasetError."""
    own = {key: text for key, text in metadata.items() if key.startswith(PREFIX)}
    return decode_notes({key.removeprefix(PREFIX): text for key, text in own.items()})


def _normalization(metadata: Mapping[str, str]) -> Normalization | None:
    text = metadata.get(NORMALIZATION_KEY)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Normalization)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ModelImportError(f"{NORMALIZATION_KEY} cannot be read: {error}") from error


_Read = tuple[Graph, dict[str, Array], Mapping[str, str]]


def _from_safetensors(paths: list[Path], given: Graph | None) -> _Read:
    weights, metadata = load_weights(paths), read_header(paths[0]).metadata
    own = metadata.get(GRAPH_KEY)
    if given is None and own is None:
        raise ModelImportError(
            "weights without a graph: --graph names the one they belong to; a folder whose config.json says "
            f"{', '.join(LANGUAGE_MODELS)} needs none"
        )
    graph = given if given is not None else load_graph((own or "").encode())
    return graph, fitted(graph, weights), metadata


def _is_our_own(path: Path) -> bool:
    return isinstance(read_gguf_header(path).metadata.get(GRAPH_KEY), str)


def _from_gguf(path: Path) -> _Read:
    """Of those that this program wrote, which carry their graph."""
    header, tensors = read_gguf(path)
    text = str(header.metadata[GRAPH_KEY])
    metadata = {key: value for key, value in header.metadata.items() if isinstance(value, str)}
    graph = load_graph(text.encode())
    try:
        model = read_language_model(graph)
    except NotLanguageModel:
        return graph, fitted(graph, unpack_tensors(header, tensors)[1]), metadata
    return graph, fitted(graph, restored_weights(tensors, model, text.encode())), metadata


_LanguageModel = tuple[Graph, dict[str, Array], str, Certificate | None]


def _language_config(first: Path, order: ImportModel, directory: Path) -> Mapping[str, Any] | None:
    """What config.json says, where it says enough and nothing else says what the weights are of."""
    if order.config is None or order.graph is not None or GRAPH_KEY in read_header(first).metadata:
        return None
    return read_config(directory / order.config)


def _tokenizer(order: ImportModel, directory: Path) -> dict[str, str]:
    """As metadata; none that is larger than a model keeps."""
    path = directory / order.tokenizer if order.tokenizer else None
    if path is None or path.stat().st_size > MAX_TOKENIZER_BYTES:
        return {}
    return {f"{PREFIX}tokenizer": path.read_text("utf-8", "replace")}


def _from_folder(
    paths: list[Path], config: Mapping[str, Any], sizes: Mapping[str, int], report: Report
) -> _LanguageModel:
    tensors = in_words_of_gguf(config, load_weights(paths))
    return _language_model("safetensors", paths, *tensors, sizes, report)


def _from_foreign_gguf(path: Path, sizes: Mapping[str, int], report: Report) -> _LanguageModel:
    header, tensors = read_gguf(path)
    return _language_model("gguf", [path], header.metadata, tensors, sizes, report)


def _language_model(
    format: str,
    paths: list[Path],
    metadata: Mapping[str, GgufValue],
    tensors: Mapping[str, Array],
    sizes: Mapping[str, int],
    report: Report,
) -> _LanguageModel:
    """The graph that it is, compared with what llama.cpp makes of the same weights."""
    try:
        found = read_foreign_model(metadata, tensors, sizes.get("steps", DEFAULT_STEPS))
    except ModelImportError as error:
        raise ModelImportError(f"{format}: {error}") from error
    del tensors
    weights = fitted(found.graph, found.weights)
    about = (
        f"a {found.model.architecture} of {found.model.steps} steps, which takes and gives numbers of tokens"
    )
    if not has_llama():
        return found.graph, weights, f"{about}; not compared: llama.cpp is not here (cyxwiz[llm])", None
    report(Stage("comparing answers with llama.cpp's", 2, 3))
    compiled = compile_graph(found.graph)
    restore_weights(compiled.module, weights)
    compiled.module.eval()
    inputs = {end.name: drawn(end, 1) for end in compiled.inputs}
    # llama.cpp rounds what it multiplies packed weights with: it is asked with the same weights, unpacked.
    unpacked = paths[0].with_name("unpacked.gguf")
    write_language_model(unpacked, found.model, weights, "f32", dump_graph(found.graph), {})
    run, versions = open_llama(unpacked, found.model)
    sides = _Sides(run(inputs), answers_of(compiled.module, inputs), inputs, versions)
    unpacked.unlink()
    text = f"the imported graph, compared with the {format} that it was made of, as a GGUF in f32"
    certificate = _certificate(format, text, "llama.cpp", paths, compiled, sides, _LLAMA_TOLERANCE)
    if certificate.verdict == "differs":
        difference = f"{certificate.max_difference:.3g}"
        raise ModelImportError(f"{format}: the graph's answers differ by {difference} from llama.cpp's")
    return found.graph, weights, about, certificate


# -- ONNX ----------------------------------------------------------------------------------------


def _from_onnx(
    path: Path, sizes: Mapping[str, int], report: Report
) -> tuple[Graph, dict[str, Array], str, Certificate, dict[str, str]]:
    if importlib.util.find_spec("onnx") is None:
        raise ModelImportError("onnx: needs the package onnx: pip install 'cyxwiz[export]'")
    from backend.importing.onnx_operators import PLACERS
    from backend.importing.onnx_read import read_onnx

    data = path.read_bytes()
    found = read_onnx(data, PLACERS, sizes)
    try:
        weights = fitted(found.graph, found.weights)
        compiled = compile_graph(found.graph)
    except BackendError as error:
        raise ModelImportError(f"onnx: its nodes make no graph: {error}") from error
    restore_weights(compiled.module, weights)
    compiled.module.eval()
    report(Stage("comparing answers with onnxruntime's", 2, 3))
    certificate = _compared(path, data, found, compiled)
    if certificate.verdict == "differs":
        difference = f"{certificate.max_difference:.3g}"
        raise ModelImportError(f"onnx: the graph's answers differ by {difference} from onnxruntime's")
    notes = encode_notes(DataNotes(class_names=found.class_names))
    metadata = {f"{PREFIX}{key}": text for key, text in notes.items()}
    return found.graph, weights, _about_onnx(found), certificate, metadata


def _about_onnx(found: Imported) -> str:
    kept = len(operator_nodes(found.graph))
    about = f"{len(found.graph.nodes)} nodes of an ONNX, which answer as it does"
    about += f"; {kept} of them are operators that onnxruntime computes, not to be trained" if kept else ""
    if found.left_out:
        about += f"; without its outputs of texts: {', '.join(found.left_out)[:200]}"
    return about


def _few(end: End) -> End:
    """Where any id is taken, nothing says which ones the model was made for but 0 and 1."""
    return replace(end, ids=UNKNOWN_IDS) if end.ids == MAX_IDS else end


def _compared(path: Path, data: bytes, found: Imported, compiled: CompiledModel) -> Certificate:
    samples = next((door.batch for door in found.doors if door.batch is not None), _SAMPLES)
    ends = {end.name: end for end in compiled.inputs}
    # What is not used is asked for all the same.
    doors = [(door, ends.get(door.node_id, End(door.node_id, door.shape, door.ids))) for door in found.doors]
    drawn_for = {door.node_id: drawn(_few(end), samples, number) for number, (door, end) in enumerate(doors)}
    inputs = {end.name: drawn_for[end.name] for end in compiled.inputs}
    from backend.importing.onnx_read import asking

    try:
        run, versions = open_onnx_bytes(asking(data, found.given))
        theirs = run({door.name: drawn_for[door.node_id].astype(door.dtype) for door in found.doors})
    except ExportError as error:
        raise ModelImportError(f"onnx: {error}") from error
    try:
        ours = answers_of(compiled.module, inputs)
    except (RuntimeError, IndexError, TypeError, BackendError) as error:
        raise ModelImportError(f"onnx: its nodes make no graph that runs: {str(error)[:300]}") from error
    text = "the imported graph, compared with the ONNX that it was made of"
    sides = _Sides(theirs, ours, inputs, versions)
    tolerance = _ROUNDED_TOLERANCE if found.is_rounded else _TOLERANCE
    return _certificate("onnx", text, "onnxruntime", [path], compiled, sides, tolerance)


@dataclass(frozen=True, slots=True)
class _Sides:
    """What both runtimes answered to the same inputs."""

    theirs: Outputs
    ours: Outputs
    inputs: Mapping[str, Array]
    versions: dict[str, str]


def _certificate(
    format: str,
    about: str,
    runtime: str,
    paths: list[Path],
    compiled: CompiledModel,
    sides: _Sides,
    tolerance: float,
) -> Certificate:
    names = compiled.output_names
    outputs = tuple(compare(*each) for each in zip(names, sides.theirs, sides.ours, strict=True))
    samples = len(next(iter(sides.inputs.values())))
    return Certificate(
        format_version=FORMAT_VERSION,
        format=format,
        about=about,
        runtime=runtime,
        versions=sides.versions,
        model_blake3=blake3(dump_graph(compiled.graph)).hexdigest(),
        file_blake3=hash_of(*paths),
        inputs=InputFacts("drawn from seed 0", samples, hash_inputs(sides.inputs)),
        batches=(samples,),
        outputs=outputs,
        max_difference=max(output.max_difference for output in outputs),
        mean_difference=max(output.mean_difference for output in outputs),
        argmax_agreement=lowest_agreement(outputs),
        tolerance=tolerance,
        verdict=verdict_of(outputs, tolerance),
    )
