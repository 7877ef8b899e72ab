"""From a source file to a graph and its weights: the worker's side of an import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from backend.code_import.building import Building, Fixed, Ref, Shape, UnsupportedError
from backend.code_import.functions import PLACERS, Call, one_of
from backend.code_import.helpers import is_our_helper
from backend.code_import.messages import Problem
from backend.code_import.modules import (
    HELPERS,
    READERS,
    place_attention,
    place_module,
    place_recurrent,
)
from backend.code_import.parity import check_same_numbers
from backend.code_import.source import find_module
from backend.code_import.tracing import BATCHES, Traced, line_of, trace
from backend.errors import CodeError
from backend.graph import Graph

MAX_TOLD = 8
MAX_LINE = 120
_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
_VALUES = 4096
"""Of a constant tensor that can be part of a graph."""


@dataclass(frozen=True, slots=True)
class Imported:
    graph: Graph
    weights: dict[str, torch.Tensor]
    """The module's, by the names that the compiler gives them."""


class _Unknown:
    """What comes after a step that has no place: told once."""


UNKNOWN = _Unknown()
SPARE = _Unknown()
"""A second value of a module that may be left unused: a cell's state, or weights of an attention."""


@dataclass(frozen=True, slots=True)
class State:
    """What a recurrent layer of one direction ends with, by layer: the last layer's is its last output."""

    output: Ref
    layers: int


def import_code(path: Path, name: str, shapes: tuple[Shape, ...]) -> Imported:
    """``shapes`` may be empty for a file that was written from a graph, which says them itself.

    Raises CodeError, naming every line that has no place in a graph.
    """
    with torch.random.fork_rng(devices=[]):
        root = find_module(path, name)
        source = path.read_text()
        _check_not_shared(root)
        traced = trace(root, source, shapes or _told_shapes(root))
    reader = _Reader(traced, source)
    for node in traced.graph.nodes:
        reader.read(node)
    if reader.problems:
        raise CodeError(_told(reader.problems))
    made = reader.made
    weights = {key: value.detach().clone() for key, value in made.weights.items()}
    found = Imported(made.graph(type(root).__name__), weights)
    check_same_numbers(traced, found.graph, weights)
    return found


_SHAPE_TOLD = re.compile(r"takes \w+ \(N((?:, \d{1,7}){0,8})\)")
"""In the docstring of a generated module, for each of its inputs."""


def _told_shapes(root: nn.Module) -> tuple[Shape, ...]:
    """Raises CodeError."""
    found = [text.split(", ")[1:] for text in _SHAPE_TOLD.findall(type(root).__doc__ or "")]
    if not found:
        raise CodeError(f"{type(root).__name__} does not say what it takes: give the shape of each input")
    return tuple(tuple(max(1, int(extent)) for extent in shape) for shape in found)


def _check_not_shared(root: nn.Module) -> None:
    """Raises CodeError where one weight has two names: nodes have weights of their own."""
    seen: dict[int, str] = {}
    for name, weight in root.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(weight), name)
        if first != name:
            raise CodeError(
                f"{first} and {name} are one weight: the nodes of a graph have weights of their own"
            )


def _told(problems: list[Problem]) -> str:
    unique = list(dict.fromkeys(str(problem)[:MAX_LINE] for problem in problems))
    lines = unique[:MAX_TOLD] + ([f"and {len(unique) - MAX_TOLD} more"] if len(unique) > MAX_TOLD else [])
    functions = ", ".join(sorted(PLACERS))
    modules = ", ".join(sorted([*READERS, "RNN", "LSTM", "GRU", "MultiheadAttention", "Identity"]))
    told = "\n".join(f"  {line}" for line in lines)
    return f"no node stands for:\n{told}\nsupported modules: {modules}; functions: {functions}"


class _Reader:
    """Goes through the steps of a forward pass and adds a node for each."""

    def __init__(self, traced: Traced, source: str) -> None:
        self.made = Building()
        self.problems: list[Problem] = []
        self._traced = traced
        self._source = source
        self._found: dict[fx.Node, Any] = {}
        self._called: set[str] = set()

    def read(self, node: fx.Node) -> None:
        try:
            self._found[node] = self._read(node)
        except UnsupportedError as error:
            self._found[node] = UNKNOWN
            self.problems.append(Problem(line_of(node), _called(self._traced.root, node), str(error)))

    def _read(self, node: fx.Node) -> Any:
        match node.op:
            case "placeholder":
                return self._enter(node) if node in self._traced.inputs else None
            case "get_attr":
                return Fixed(str(node.target), self._traced.values[node][0])
            case "output":
                return self._leave(node)
        if not _has_tensor(self._traced.values[node][0]):
            return self._traced.values[node][0]
        arguments = self._known(node.args)
        keywords = self._known(node.kwargs)
        if _holds(UNKNOWN, (arguments, keywords)):
            return UNKNOWN
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
        if name == "getitem" and (arguments[0] is SPARE or isinstance(arguments[0], tuple | list)):
            whole: Any = arguments[0]
            return SPARE if whole is SPARE else whole[arguments[1]]
        if arguments and isinstance(arguments[0], State):
            return self._last_of(arguments[0], name, arguments[1:], node)
        if _holds(SPARE, (arguments, keywords)):
            raise UnsupportedError(
                "of an attention only the output is supported, of a recurrent layer also its state h[-1], "
                "without a cell's and in one direction"
            )
        outputs = self._shapes(node)
        if node.op == "call_module":
            return self._module(node, arguments, keywords, outputs)
        arguments = tuple(self._lift(each, arguments) for each in arguments)
        placer = PLACERS.get(name.strip("_")) or PLACERS.get(name.strip("_").removeprefix("i"))
        if placer is None:
            raise UnsupportedError("no node stands for it")
        return placer(Call(self.made, node.name, arguments, keywords, outputs))

    def _last_of(self, state: State, name: str, rest: tuple[Any, ...], node: fx.Node) -> Ref:
        key = rest[0] if rest else None
        if isinstance(key, tuple) and all(each in (slice(None), Ellipsis) for each in key[1:]):
            key = key[0]
        is_last = name == "getitem" and key in (-1, state.layers - 1)
        if not is_last and not (name == "squeeze" and key == 0 and state.layers == 1):
            raise UnsupportedError("of a state only the last layer's is supported, as h[-1]")
        call = Call(self.made, node.name, (state.output,), {}, self._shapes(node))
        return one_of(call, state.output, 0, -1)

    def _enter(self, node: fx.Node) -> Ref:
        shape = tuple(self._traced.values[node][0].shape[1:])
        ids = self._traced.ids.get(node, 0)
        given: dict[str, Any] = {"shape": shape} | ({"vocabulary": ids} if ids else {})
        return Ref(self.made.add(str(node.target), "Input", given, ()), "output", shape, bool(ids))

    def _leave(self, node: fx.Node) -> None:
        found = self._known(node.args[0])
        values = found if isinstance(found, tuple | list) else (found,)
        for number, value in enumerate(values):
            if value is UNKNOWN:
                continue
            if value is SPARE or not isinstance(value, Ref):
                raise UnsupportedError(f"forward returns a {type(value).__name__}, supported are tensors")
            self.made.add("output" if number == 0 else f"output_{number + 1}", "Output", {}, (value,))

    def _module(self, node: fx.Node, arguments: Any, keywords: Any, outputs: tuple[Shape, ...]) -> Any:
        name = str(node.target)
        module = self._traced.root.get_submodule(name)
        if name in self._called and any(True for _ in module.parameters()):
            raise UnsupportedError("called twice: nodes have weights of their own")
        self._called.add(name)
        refs = tuple(each for each in (*arguments, *keywords.values()) if isinstance(each, Ref))
        others = [each for each in (*arguments, *keywords.values()) if not isinstance(each, Ref)]
        if type(module).__name__ == "ForEachSample" and is_our_helper(module, self._source):
            value: Any = module.value
            return self._constant(name, value, isinstance(value, nn.Parameter))
        if isinstance(module, nn.Identity):
            return refs[0]
        if isinstance(module, nn.MultiheadAttention):
            extra = {key: value for key, value in keywords.items() if not isinstance(value, Ref)}
            if (
                any(value is not None for key, value in extra.items() if key != "need_weights")
                or len(refs) != 3
            ):
                raise UnsupportedError("a mask, supported is without")
            return (Ref(place_attention(self.made, name, module, refs), "output", outputs[0]), SPARE)
        if any(each is not None for each in others):
            raise UnsupportedError("arguments beside its inputs, supported are its inputs alone")
        if isinstance(module, _RECURRENT):
            if len(refs) != 1:
                raise UnsupportedError("a first state, supported is zero")
            shape = self._shapes(node)[0]
            output = Ref(place_recurrent(self.made, name, module, refs), "output", shape)
            if self._uses(node) > 1:
                self.made.shared.add(output.node_id)
            state = SPARE if module.bidirectional else State(output, module.num_layers)
            return (output, (state, SPARE) if isinstance(module, nn.LSTM) else state)
        is_helper = is_our_helper(module, self._source)
        if type(module).__name__ in HELPERS and not is_helper:
            raise UnsupportedError("no node stands for it")
        if isinstance(module, nn.TransformerEncoder):
            return self._stack(name, module, refs)
        return Ref(place_module(self.made, name, module, refs), "output", outputs[0])

    def _stack(self, name: str, module: nn.TransformerEncoder, refs: tuple[Ref, ...]) -> Ref:
        (value,) = refs
        for number, layer in enumerate(module.layers):
            node_id = place_module(self.made, f"{name}_{number}", layer, (value,))
            value = Ref(node_id, "output", value.shape)
        if module.norm is not None:
            value = Ref(place_module(self.made, f"{name}_norm", module.norm, (value,)), "output", value.shape)
        return value

    def _constant(self, name: str, value: torch.Tensor, trained: bool) -> Ref:
        shape = tuple(value.shape)
        if trained:
            node_id = self.made.add(name, "Parameter", {"shape": shape}, (), {"value": value})
            return Ref(node_id, "output", shape)
        if value.numel() > _VALUES:
            raise UnsupportedError(f"a constant of {value.numel()} values, supported are {_VALUES}")
        values = [float(each) for each in value.flatten().tolist()]
        return Ref(self.made.add(name, "Constant", {"shape": shape, "values": values}, ()), "output", shape)

    def _lift(self, value: Any, arguments: tuple[Any, ...]) -> Any:
        """A tensor of the module becomes a node, as it is added to every sample."""
        if not isinstance(value, Fixed):
            return value
        wanted = next((each.shape for each in arguments if isinstance(each, Ref)), None)
        shape = tuple(value.tensor.shape)
        tensor = value.tensor[0] if wanted is not None and shape == (1, *wanted) else value.tensor
        if tuple(tensor.shape) != wanted:
            raise UnsupportedError(
                f"with {value.name} shaped {shape}, supported is the shape of a sample {wanted}"
            )
        return self._constant(value.name, tensor, isinstance(value.tensor, nn.Parameter))

    def _known(self, value: Any) -> Any:
        """Arguments with what is known of each step in its place."""
        return fx.node.map_arg(value, lambda node: self._found[node])

    def _shapes(self, node: fx.Node) -> tuple[Shape, ...]:
        """Of a sample of each tensor that comes out. Raises UnsupportedError if the batch is not first."""
        first, second = (_tensors(value) for value in self._traced.values[node])
        if isinstance(self._module_of(node), (*_RECURRENT, nn.MultiheadAttention)):
            first, second = first[:1], second[:1]
        for a, b in zip(first, second, strict=True):
            if not a.ndim or (a.shape[0], b.shape[0]) != BATCHES or a.shape[1:] != b.shape[1:]:
                raise UnsupportedError("its result does not have the batch as its first axis")
        return tuple(tuple(each.shape[1:]) for each in first)

    def _uses(self, node: fx.Node) -> int:
        """Of the tensors in a tuple."""
        items = [(user, self._traced.values[user][0]) for user in node.users]
        return sum(self._uses(user) if isinstance(value, tuple) else len(user.users) for user, value in items)

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self._traced.root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _has_tensor(value: Any) -> bool:
    return bool(_tensors(value))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, tuple | list) else []


def _holds(marker: _Unknown, value: Any) -> bool:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return any(_holds(marker, each) for each in value)
    return value is marker


def _called(root: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{type(root.get_submodule(str(node.target))).__name__} {node.target}"
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))
