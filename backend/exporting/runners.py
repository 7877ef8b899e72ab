"""Runs what was exported in the format's own runtime. Worker processes only."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.checkpoint import restore_weights
from backend.compiler import compile_graph
from backend.errors import ArchiveError, ExportError
from backend.exporting.gguf_export import unpack_tensors, weight_name
from backend.exporting.language_model import LanguageModel
from backend.exporting.safetensors_export import GRAPH_KEY
from backend.exporting.source import answers_of
from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.gguf_tensors import read_gguf
from backend.formats.tensors import Array
from backend.serialize import load_graph

Inputs = Mapping[str, Array]
Outputs = tuple[Array, ...]
Runner = Callable[[Inputs], Outputs]


def in_batches(run: Runner, inputs: Inputs, sizes: tuple[int, ...]) -> Outputs:
    """The answers to all inputs, given in batches of these sizes."""
    answers, at = [], 0
    for size in sizes:
        answers.append(run({name: np.ascontiguousarray(x[at : at + size]) for name, x in inputs.items()}))
        at += size
    return tuple(np.concatenate(parts) for parts in zip(*answers, strict=True))


def open_cyxmodel(path: Path) -> tuple[Runner, dict[str, str]]:
    model = read_cyxmodel(path)
    return _compiled(model.graph, model.weights), {"torch": str(torch.__version__)}


def open_onnx(path: Path) -> tuple[Runner, dict[str, str]]:
    return open_onnx_bytes(path.read_bytes())


def open_onnx_bytes(data: bytes) -> tuple[Runner, dict[str, str]]:
    """Through onnxruntime on the CPU; inputs and outputs by name. Raises ExportError, as running does."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise ExportError(f"onnxruntime does not open it: {str(error)[:500]}") from error

    def run(inputs: Inputs) -> Outputs:
        try:
            return tuple(session.run(None, dict(inputs)))
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise ExportError(f"onnxruntime does not run it: {str(error)[:500]}") from error

    return run, {"onnxruntime": onnxruntime.__version__, "torch": str(torch.__version__)}


def open_safetensors(path: Path) -> tuple[Runner, dict[str, str]]:
    """Weights and graph read by the safetensors package, as anybody else would."""
    import safetensors
    from safetensors.numpy import load_file

    with safetensors.safe_open(path, "numpy") as file:
        graph = file.metadata()[GRAPH_KEY]
    versions = {"safetensors": safetensors.__version__, "torch": str(torch.__version__)}
    return _compiled(graph.encode(), load_file(path)), versions


def open_gguf_tensors(path: Path) -> tuple[Runner, dict[str, str]]:
    header, tensors = read_gguf(path)
    return _compiled(*unpack_tensors(header, tensors)), {"torch": str(torch.__version__)}


def open_gguf_weights(path: Path, model: LanguageModel, graph: bytes) -> tuple[Runner, dict[str, str]]:
    """The graph with the weights of a file for llama.cpp, put back where they came from."""
    _, tensors = read_gguf(path)
    return _compiled(graph, restored_weights(tensors, model, graph)), {"torch": str(torch.__version__)}


def restored_weights(tensors: Mapping[str, Array], model: LanguageModel, graph: bytes) -> dict[str, Array]:
    """The graph's weights, from the tensors of a file for llama.cpp. Raises ArchiveError."""
    weights = {name: tensor.detach().numpy() for name, tensor in _state(graph).items()}
    for name, parts in model.tensors.items():
        names = [weight_name(part) for part in parts]
        sizes = [len(weights[each]) for each in names]
        rows, wanted = np.cumsum(sizes)[:-1], (sum(sizes), *weights[names[0]].shape[1:])
        if name not in tensors:
            raise ArchiveError(f"GGUF file without tensor {name!r}, which a {model.architecture} has")
        if tensors[name].shape != wanted:
            raise ArchiveError(f"tensor {name!r} is shaped {tensors[name].shape}, must be {wanted}")
        pieces = np.split(tensors[name].astype(np.float32), rows)
        weights |= dict(zip(names, pieces, strict=True))
    return weights


def _state(graph: bytes) -> dict[str, torch.Tensor]:
    return compile_graph(load_graph(graph)).module.state_dict()


def _compiled(graph: bytes, weights: Mapping[str, Array]) -> Runner:
    module = compile_graph(load_graph(graph)).module
    restore_weights(module, weights)
    module.eval()
    return lambda inputs: answers_of(module, inputs)


def has_llama() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def open_llama(path: Path, model: LanguageModel) -> tuple[Runner, dict[str, str]]:
    """Through llama.cpp, one sample after the other, on one thread."""
    import llama_cpp

    llama = llama_cpp.Llama(
        str(path), n_ctx=model.steps, n_threads=1, n_batch=model.steps, verbose=False, logits_all=True
    )

    def run(inputs: Inputs) -> Outputs:
        (ids,) = inputs.values()
        found = np.stack([_logits(llama, sample) for sample in ids])
        return (found[:, -1] if model.last_step_only else found,)

    return run, {"llama-cpp-python": llama_cpp.__version__, "torch": str(torch.__version__)}


def _logits(llama: Any, ids: Array) -> Array:
    llama.reset()
    llama.eval(ids.tolist())
    return np.array(llama.scores[: len(ids)], np.float32)


def open_program(path: Path, weights: Path) -> tuple[Runner, dict[str, str]]:
    """The generated module, imported as any other, without anything of this program but torch."""
    specification = importlib.util.spec_from_file_location("exported_model", path)
    if specification is None or specification.loader is None:
        raise ExportError(f"pytorch: {path.name} cannot be imported")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
        model = module.Model()
        if hasattr(module, "load_weights"):
            module.load_weights(model, str(weights))
        else:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(weights))
    finally:
        del sys.modules[specification.name]
    model.eval()
    return (lambda inputs: answers_of(model, inputs)), {"torch": str(torch.__version__)}
