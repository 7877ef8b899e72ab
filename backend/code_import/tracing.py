"""Follows a forward pass with torch.fx, and finds the value of every step for two sizes of batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from backend.code_import.helpers import is_our_helper
from backend.errors import CodeError

BATCHES = (2, 3)
"""What is the same for both does not depend on the batch; what differs, differs on its first axis."""
_OPEN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Traced:
    """``values`` are those of each step for both sizes of batch."""

    root: nn.Module
    graph: fx.Graph
    values: Mapping[fx.Node, tuple[Any, Any]]
    inputs: tuple[fx.Node, ...]
    ids: Mapping[fx.Node, int]
    """For an input that is looked up: below what its values must be."""


class _Tracer(fx.Tracer):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.record_stack_traces = True
        self._source = source

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_our_helper(m, self._source):
            return True
        return m.__module__.startswith("torch.nn") and not isinstance(m, _OPEN)


def trace(root: nn.Module, source: str, shapes: tuple[tuple[int, ...], ...]) -> Traced:
    """Raises CodeError."""
    root.train()
    try:
        graph = _Tracer(source).trace(root, _defaults(root, len(shapes)))
    except CodeError:
        raise
    except Exception as error:
        raise CodeError(
            f"its forward cannot be followed, since what it does depends on values: {error}{_place(error)}"
        ) from error
    sizes = _sizes(root, graph, shapes)
    inputs = tuple(sizes)
    ids = {node: size for node in inputs if (size := _looked_up(root, node))}
    runs = [_run(root, graph, sizes, ids, batch) for batch in BATCHES]
    values = {node: (runs[0][node], runs[1][node]) for node in runs[0]}
    return Traced(root, graph, values, inputs, ids)


def line_of(node: fx.Node) -> int:
    """In the imported file; 0 where it is not known."""
    line = 0
    for text in (node.stack_trace or "").splitlines():
        head, _, rest = text.strip().partition(", line ")
        if head.startswith("File ") and Path(head[6:-1]).name.startswith("code."):
            number = rest.partition(",")[0]
            line = int(number) if number.isdecimal() else line
    return line


def _defaults(root: nn.Module, given: int) -> dict[str, Any]:
    """Arguments beyond the inputs keep their defaults."""
    parameters = list(inspect.signature(root.forward).parameters.values())
    return {each.name: each.default for each in parameters[given:] if each.default is not each.empty}


def _sizes(root: nn.Module, graph: fx.Graph, shapes: tuple[tuple[int, ...], ...]) -> dict[fx.Node, Any]:
    """The shape of each input that is used. Raises CodeError."""
    parameters = list(inspect.signature(root.forward).parameters.values())
    needed = [each.name for each in parameters if each.default is each.empty]
    if not len(needed) <= len(shapes) <= len(parameters):
        names = ", ".join(each.name for each in parameters)
        raise CodeError(f"forward takes {len(needed)} inputs ({names}), shapes of {len(shapes)} were given")
    given = dict(zip((each.name for each in parameters), shapes, strict=False))
    places = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    return {node: given[str(node.target)] for node in places if str(node.target) in given}


def _looked_up(root: nn.Module, node: fx.Node) -> int:
    for user in node.users:
        if user.op == "call_module":
            module = root.get_submodule(str(user.target))
            if isinstance(module, nn.Embedding):
                return module.num_embeddings
    return 0


def _run(
    root: nn.Module,
    graph: fx.Graph,
    sizes: Mapping[fx.Node, tuple[int, ...]],
    ids: Mapping[fx.Node, int],
    batch: int,
) -> dict[fx.Node, Any]:
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    values = arguments(graph, sizes, ids, batch)
    module = fx.GraphModule(root, graph)
    try:
        with torch.no_grad():
            Recorder(module).run(*values)
    except Exception as error:
        raise CodeError(
            f"it does not run on inputs {tuple(sizes.values())}: {str(error).splitlines()[0][:300]}"
        ) from error
    return found


def arguments(
    graph: fx.Graph, sizes: Mapping[fx.Node, tuple[int, ...]], ids: Mapping[fx.Node, int], batch: int
) -> list[torch.Tensor | None]:
    """Random inputs for a batch, and None for what keeps its default."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    return [_example(sizes[each], batch, each in ids) if each in sizes else None for each in places]


def _example(shape: tuple[int, ...], batch: int, is_ids: bool) -> torch.Tensor:
    return torch.zeros(batch, *shape, dtype=torch.int64) if is_ids else torch.randn(batch, *shape)


def _place(error: BaseException) -> str:
    """Where in the imported file an error came from."""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if Path(frame.tb_frame.f_code.co_filename).name.startswith("code."):
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {line})" if line else ""
