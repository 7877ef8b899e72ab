"""A file being written: its classes, and what they need from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from backend.catalogue.parameter import Parameters
from backend.catalogue.record import Shape
from backend.pytorch_code.excerpts import Excerpt, excerpt
from backend.pytorch_code.names import Names
from backend.pytorch_code.text import Code, call, indented

Values: TypeAlias = tuple[Code, ...]


@dataclass(slots=True)
class Sheet:
    """Collects what a file needs beside its own classes."""

    names: Names
    classes: list[list[str]] = field(default_factory=list)
    reserved: frozenset[str] = frozenset()
    """Names that no class may have."""
    _excerpts: dict[str, set[str]] = field(default_factory=dict)
    _imports: set[str] = field(default_factory=set)

    def need(self, module: str, *names: str) -> None:
        """The file gets a copy of these definitions of ``backend.<module>``."""
        self._excerpts.setdefault(module, set()).update(names)

    def need_import(self, line: str) -> None:
        self._imports.add(line)

    def copied(self) -> Excerpt:
        """Everything needed, with the imports of the file."""
        parts = [excerpt(module, sorted(names)) for module, names in self._excerpts.items()]
        imports = {line for part in parts for line in part.imports} | self._imports
        definitions = [text for part in parts for text in part.definitions]
        return Excerpt(tuple(sorted(imports)), tuple(dict.fromkeys(definitions)))


@dataclass(slots=True)
class ModuleWriter:
    """One ``nn.Module`` class: what ``__init__`` makes and what ``forward`` does."""

    sheet: Sheet
    name: str
    about: str
    arguments: tuple[str, ...]
    layers: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    answer: str = ""
    kind: str = ""
    """Of the answer; empty for a tensor or several."""

    def lines(self) -> list[str]:
        signature = "".join(f", {name}: torch.Tensor" for name in self.arguments)
        kind = self.kind or ("tuple[torch.Tensor, ...]" if ", " in self.answer else "torch.Tensor")
        made = ["def __init__(self) -> None:", "    super().__init__()", *indented(self.layers, 1), ""]
        made = made if self.layers else []
        done = [f"def forward(self{signature}) -> {kind}:", *indented(self.steps, 1)]
        done.append(f"    return {self.answer}")
        return [f"class {self.name}(nn.Module):", *indented([f'"""{self.about}"""', "", *made, *done], 1)]


@dataclass(frozen=True, slots=True)
class Spot:
    """One node being written."""

    writer: ModuleWriter
    name: str
    """A plain identifier, of its layer and of its value."""
    parameters: Parameters
    shapes: tuple[Shape, ...]
    """Of its inputs, without the batch."""
    outputs: tuple[Shape, ...]
    inputs: Values
    batch: Code
    """A value whose first axis is the batch."""
    inner: Callable[[], tuple[str, bool]] | None = None
    """Writes the class of what is inside; gives its name, and whether it takes the batch alone."""

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter]

    def layer(self, constructor: str) -> Code:
        """Has ``__init__`` make it; gives what ``forward`` calls it by."""
        self.writer.layers.append(f"self.{self.name} = {constructor}")
        return Code(f"self.{self.name}")

    def apply(self, constructor: str) -> Code:
        """A layer called with the inputs."""
        return call(self.layer(constructor), *self.inputs)

    def helper(self, module: str, name: str) -> str:
        """A class or function of ``backend.layers``, copied into the file."""
        self.writer.sheet.need(f"layers.{module}", name)
        return name

    def step(self, line: str) -> None:
        self.writer.steps.append(line)


Writer: TypeAlias = Callable[[Spot], "Code | Values"]
"""Gives the expression of the only output that is a tensor, or names of all of them."""
