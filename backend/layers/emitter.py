"""How builders write into the module that is being compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx, nn

from backend.catalogue.parameter import Parameters
from backend.catalogue.record import Shape
from backend.lora import Tuned

Values: TypeAlias = tuple[fx.Node, ...]
Inner: TypeAlias = Callable[[str, Values, fx.Node], Values]
"""Builds the graph inside a node: the name its weights get, what enters it, anything with its batch."""


@dataclass(frozen=True, slots=True)
class Site:
    """One node being built: its parameters, and the shapes of its inputs without the batch."""

    name: str
    parameters: Parameters
    shapes: tuple[Shape, ...]
    may_overwrite: bool = False
    """Nothing else reads the first input, nor does the backward pass of what made it."""
    batch: fx.Node | None = None
    """A tensor whose first axis is the batch, for nodes that have no input."""
    inner: Inner | None = None

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
        self.tunings: list[Tuned] = []
        """Of the nodes that say how their weights are trained, outer ones first."""

    @property
    def last(self) -> fx.Node | None:
        """The newest call."""
        return next(iter(reversed(self._graph.nodes)), None)

    def since(self, call: fx.Node | None) -> Iterator[fx.Node]:
        """The calls after ``call``, newest first."""
        for newer in reversed(self._graph.nodes):
            if newer is call:
                return
            yield newer

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> fx.Node:
        return self._graph.call_function(function, arguments, keywords)

    def module(self, name: str, module: nn.Module, *arguments: fx.Node) -> fx.Node:
        """``name`` is where its weights are found in the state dict; dots put it into parts of parts."""
        *parts, own_name = name.split(".")
        parent = self._root
        for part in parts:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(own_name, module)
        return self._graph.call_module(name, arguments)


Builder: TypeAlias = Callable[[Emitter, Site, Values], "fx.Node | Values"]
"""Gives the value of the only output that is a tensor, or those of all of them."""
