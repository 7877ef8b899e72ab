"""What a session asks about graphs, data and models, answered by backend. Loads no numeric runtime.

A checkpoint is checked for being what was paid for: the same graph, data of the same shape, the
right position, finite weights. Whether it was trained well, only its metrics can tell.
"""

from __future__ import annotations

from pathlib import Path

from p2p.session.checks import ExpectedModel, Prepared, ServedModel
from p2p.session.errors import JobRefusedError, ModelRefusedError

DATA_FILE = "dataset.safetensors"


class BackendChecks:
    """``p2p.session.checks.Checks``; with ``here`` for a training on this machine."""

    def __init__(self, *, here: bool = False) -> None:
        self._here = here

    def prepare(self, graph: bytes, data: Path, workspace: Path) -> Prepared:
        from backend.errors import BackendError
        from backend.estimate import estimate
        from backend.onnx_node import why_not_at_a_peer
        from backend.readers import convert
        from backend.serialize import dump_graph, graph_hash
        from backend.validate import Severity, diagnose
        from engine_app.document.lowering import load_lowered

        try:
            document = load_lowered(graph)
            facts = convert(data, workspace / DATA_FILE)
            errors = [item for item in diagnose(document, facts) if item.severity is Severity.ERROR]
            if errors:
                raise JobRefusedError("the graph has errors:\n" + "\n".join(f"  {item}" for item in errors))
            if not self._here and (reason := why_not_at_a_peer(document)):
                raise JobRefusedError(reason)
            size = estimate(document, facts.samples, facts.sample_shape)
        except OSError as error:
            raise JobRefusedError(f"{data}: {error.strerror}") from error
        except BackendError as error:
            raise JobRefusedError(str(error)) from error
        return Prepared(
            graph=dump_graph(document),
            graph_hash=graph_hash(document),
            name=document.name[:128],
            data=workspace / DATA_FILE,
            samples=facts.samples,
            sample_shape=facts.sample_shape,
            dtype=facts.dtype,
            classes=facts.classes,
            training_flops=size.training_flops,
            memory_bytes=size.memory_bytes,
            parameters=size.parameters,
            steps=size.steps,
        )

    def check_start(self, graph: bytes, start: Path | None) -> None:
        from backend.errors import ArchiveError
        from backend.formats.cyxmodel import inspect_cyxmodel
        from backend.serialize import load_graph
        from backend.tuning import is_tuned

        if start is None:
            if is_tuned(load_graph(graph)):
                raise JobRefusedError("frozen nodes and adapters need the weights of a model: --from MODEL")
            return
        try:
            inspect_cyxmodel(start)
        except (ArchiveError, OSError) as error:
            raise JobRefusedError(f"{start.name} is no .cyxmodel to begin from: {error}") from error

    def check_served(self, model: Path) -> ServedModel:
        from backend.errors import BackendError
        from backend.formats.served import served_model

        try:
            found = served_model(model)
        except OSError as error:
            raise JobRefusedError(f"{model}: {error.strerror}") from error
        except BackendError as error:
            raise JobRefusedError(f"{model.name}: {error}") from error
        return ServedModel(found.format.value, found.memory_bytes)

    def check_model(self, path: Path, expected: ExpectedModel) -> None:
        from backend.errors import ArchiveError
        from backend.formats.cyxmodel import read_cyxmodel

        try:
            model = read_cyxmodel(path)
        except (ArchiveError, OSError) as error:
            raise ModelRefusedError(f"not a sound model: {error}") from error
        _check_graph(model.graph, expected)
        state = model.training
        _expect("segments", state.segments, expected.segments)
        _expect("segments done", state.segments_done, expected.segments_done)
        _expect("samples", state.samples, expected.samples)
        _expect("sample shape", state.sample_shape, expected.sample_shape)
        _expect("steps in all", state.total_steps, expected.steps)
        _expect("step", state.step, expected.step)
        if not expected.is_result and model.optimizer is None:
            raise ModelRefusedError("optimizer state: found none, training cannot go on without it")


def _check_graph(graph: bytes, expected: ExpectedModel) -> None:
    from backend.errors import BackendError
    from backend.serialize import graph_hash, load_graph

    try:
        found = graph_hash(load_graph(graph))
    except BackendError as error:
        raise ModelRefusedError(f"its graph cannot be read: {error}") from error
    _expect("graph", found, expected.graph_hash)


def _expect(what: str, found: object, allowed: object) -> None:
    if found != allowed:
        raise ModelRefusedError(f"{what}: found {found}, allowed {allowed}")
