"""A trained model in other formats, for the window: what prevents it, how far it is, what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

import trio

from backend.errors import BackendError
from backend.exporting.language_model import NotLanguageModel, read_language_model
from backend.exporting.messages import Exported, ExportFormat
from backend.exporting.refusals import Refusal, refusals
from backend.graph import Graph
from engine_app.config import Config
from engine_app.entry import CommandError
from engine_app.exporting import Order, export
from engine_app.ui.observed import OneAtATime

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

assert set(FORMATS) == set(get_args(ExportFormat))


@dataclass(frozen=True, slots=True)
class Done:
    """Files that are in place."""

    order: Order
    exported: Exported
    certificate: Certificate


class Exporter(OneAtATime):
    """At most one export at a time. Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._config = config
        self.model: Path | None = None
        self.graph: Graph | None = None
        self.refused: Mapping[str, tuple[Refusal, ...]] = MappingProxyType({})
        """By format: the nodes that it cannot hold."""
        self.about_gguf = ""
        """Why llama.cpp will not run it; empty if it will."""
        self.done: Done | None = None

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
            self.done = None
            self._begin(partial(self._export, order))

    async def _export(self, order: Order) -> None:
        try:
            exported, certificate = await export(self._config, order, self._on_stage)
            self.done = Done(order, exported, certificate)
        except (BackendError, CommandError, OSError) as error:
            self.problem = str(error)
        finally:
            self._end()


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
