"""A trained model in other formats, for the window: what prevents it, how far it is, what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

import trio

from backend.errors import BackendError
from backend.exporting.language_model import NotLanguageModel, read_language_model
from backend.exporting.messages import Exported, ExportFormat, Stage
from backend.exporting.refusals import Refusal, refusals
from backend.graph import Graph
from engine_app.config import Config
from engine_app.entry import CommandError
from engine_app.exporting import Order, export

if TYPE_CHECKING:
    from backend.parity import Certificate
    from engine_app.ui.loop import Tasks

FORMATS: tuple[str, ...] = ("onnx", "gguf", "safetensors", "pytorch", "cyxmodel")
ENDINGS = {
    "onnx": ".onnx",
    "gguf": ".gguf",
    "safetensors": ".safetensors",
    "pytorch": ".py",
    "cyxmodel": ".cyxmodel",
}
_NODE = re.compile(r"node '([^']{1,128})'")
Listener = Callable[[], None]

assert set(FORMATS) == set(get_args(ExportFormat))


@dataclass(frozen=True, slots=True)
class Done:
    """Files that are in place."""

    order: Order
    exported: Exported
    certificate: Certificate


class Exporter:
    """At most one export at a time. Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        self._config = config
        self._tasks = tasks
        self._listeners: list[Listener] = []
        self._scope: trio.CancelScope | None = None
        self.model: Path | None = None
        self.graph: Graph | None = None
        self.refused: Mapping[str, tuple[Refusal, ...]] = MappingProxyType({})
        """By format: the nodes that it cannot hold."""
        self.about_gguf = ""
        """Why llama.cpp will not run it; empty if it will."""
        self.stage: Stage | None = None
        self.is_busy = False
        self.problem = ""
        self.done: Done | None = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- the model -----------------------------------------------------------------------------

    def choose(self, model: Path) -> None:
        """A .cyxmodel; its graph is read in a thread. Nothing while an export runs."""
        if not self.is_busy:
            self.model, self.graph, self.problem, self.done = model, None, "", None
            self.refused = MappingProxyType({})
            self._tell()
            self._tasks.start(partial(self._read, model))

    async def _read(self, model: Path) -> None:
        try:
            graph = await trio.to_thread.run_sync(_graph_of, model)
        except (BackendError, OSError) as error:
            found = f"{model.name}: {error}"
        else:
            found = ""
        if self.model != model:
            return  # another one was chosen meanwhile
        self.problem = found
        if not found:
            self.graph = graph
            self.refused = MappingProxyType({name: refusals(graph, name) for name in FORMATS})
            self.about_gguf = why_no_language_model(graph)
        self._tell()

    @property
    def problem_nodes(self) -> tuple[str, ...]:
        """Ids of nodes that the problem names."""
        if self.graph is None:
            return ()
        known = {node.id for node in self.graph.nodes}
        return tuple(dict.fromkeys(name for name in _NODE.findall(self.problem) if name in known))

    # -- the export ----------------------------------------------------------------------------

    def start(self, order: Order) -> None:
        """Nothing while one runs."""
        if not self.is_busy:
            self.is_busy, self.stage, self.problem, self.done = True, None, "", None
            self._tell()
            self._scope = self._tasks.start(partial(self._export, order))

    async def _export(self, order: Order) -> None:
        try:
            exported, certificate = await export(self._config, order, self._on_stage)
            self.done = Done(order, exported, certificate)
        except (BackendError, CommandError, OSError) as error:
            self.problem = str(error)
        finally:
            self.is_busy, self.stage, self._scope = False, None, None
            self._tell()

    def _on_stage(self, stage: Stage) -> None:
        self.stage = stage
        self._tell()

    def cancel(self) -> None:
        """Leaves nothing."""
        if self._scope is not None:
            self._scope.cancel()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def _graph_of(model: Path) -> Graph:
    """Blocking. Raises ArchiveError, GraphFormatError, OSError."""
    from backend.formats.cyxmodel import inspect_cyxmodel
    from backend.serialize import load_graph

    return load_graph(inspect_cyxmodel(model).graph)


def why_no_language_model(graph: Graph) -> str:
    try:
        read_language_model(graph)
    except NotLanguageModel as error:
        return str(error)
    return ""
