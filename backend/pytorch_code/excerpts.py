"""Cuts functions and classes, with all they need, out of this package's own source, which it never runs.

What trains here and what a generated file holds is then the same text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_IGNORE = re.compile(r"\s*# (?:type: ignore|noqa)\S*(?: - .*)?$", re.M)

_ELSEWHERE = {
    "from backend.disk_rows import StoredRows": "from numpy import ndarray as StoredRows",
    "from backend.formats.tensors import Array": "from numpy import ndarray as Array",
}
"""Names of ours that are but other names of what any file can import."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """``imports`` are whole lines; ``definitions`` stand in the order of the source."""

    imports: tuple[str, ...]
    definitions: tuple[str, ...]


def excerpt(module: str, names: Iterable[str]) -> Excerpt:
    """Definitions of ``backend.<module>`` and those that they use. Raises KeyError for an unknown name."""
    source = _read(module)
    wanted, waiting = set[str](), list(names)
    for name in waiting:
        if name not in source.definitions:
            raise KeyError(f"{module} defines no {name}")
    imports: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name in wanted:
            continue
        wanted.add(name)
        for used in source.definitions[name].uses:
            if used in source.definitions:
                waiting.append(used)
            elif used in source.imports:
                imports[source.imports[used]] = None
    kept = [source.definitions[name].text for name in source.definitions if name in wanted]
    return Excerpt(tuple(sorted(imports)), tuple(dict.fromkeys(kept)))


def defined(module: str) -> frozenset[str]:
    return frozenset(_read(module).definitions)


@dataclass(frozen=True, slots=True)
class _Definition:
    text: str
    uses: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Source:
    imports: dict[str, str]
    definitions: dict[str, _Definition]


@cache
def _read(module: str) -> _Source:
    *folders, name = module.split(".")
    text = files("backend").joinpath(*folders, f"{name}.py").read_text()
    imports: dict[str, str] = {}
    definitions: dict[str, _Definition] = {}
    for statement in ast.parse(text).body:
        match statement:
            case ast.Import(names=aliases):
                for alias in aliases:
                    suffix = f" as {alias.asname}" if alias.asname else ""
                    imports[alias.asname or alias.name] = f"import {alias.name}{suffix}"
            case ast.ImportFrom(module=str(source), names=aliases):
                for alias in aliases:
                    line = f"from {source} import {alias.name}"
                    imports[alias.asname or alias.name] = _ELSEWHERE.get(line, line)
            case _:
                for defined_name in _names_of(statement):
                    definitions[defined_name] = _Definition(_text_of(text, statement), _uses(statement))
    return _Source(imports, definitions)


def _names_of(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=[ast.Tuple(elts=elements)]):
            return [each.id for each in elements if isinstance(each, ast.Name)]
        case _:
            return []


def _uses(statement: ast.stmt) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(statement) if isinstance(node, ast.Name))


def _text_of(source: str, statement: ast.stmt) -> str:
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(each.lineno for each in decorators)])
    lines = source.splitlines()[first - 1 : statement.end_lineno]
    return _IGNORE.sub("", "\n".join(lines))
