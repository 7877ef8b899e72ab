"""How builders write into the module that is being compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx, nn

from backend.catalogue.record import Parameters, Shape


@dataclass(frozen=True, slots=True)
class Site:
    """One node being built: its parameters, and the shapes of its inputs without the batch."""

    name: str
    parameters: Parameters
    shapes: tuple[Shape, ...]
    may_overwrite: bool = False
    """Nothing else reads the first input, nor does the backward pass of what made it."""

    @property
    def shape(self) -> Shape:
        """Of the first input."""
        return self.shapes[0]

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter]


class Emitter:
    """Appends calls to a graph. What holds no weights becomes a plain function call: it costs least."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self._root = root
        self._graph = graph

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> fx.Node:
        return self._graph.call_function(function, arguments, keywords)

    def module(self, name: str, module: nn.Module, *arguments: fx.Node) -> fx.Node:
        """``name`` is where its weights are found in the state dict; a dot puts it into a part."""
        parent, _, own_name = name.rpartition(".")
        if parent and parent not in self._root._modules:
            self._root.add_module(parent, nn.Module())
        self._root.get_submodule(parent).add_module(own_name, module)
        return self._graph.call_module(name, arguments)


Builder: TypeAlias = Callable[[Emitter, Site, tuple[fx.Node, ...]], fx.Node]
