"""Runs a source file and finds the module in it. In a closed sandbox only."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from backend.code_import.messages import MAX_SOURCE_BYTES
from backend.errors import CodeError

_NAME = "imported_code"


def find_module(path: Path, name: str) -> nn.Module:
    """Constructs it. Raises CodeError."""
    found = _run(path)
    if name:
        return _made(name, getattr(found, name, None))
    classes = [
        value
        for value in vars(found).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == _NAME
    ]
    modules = {key: value for key, value in vars(found).items() if isinstance(value, nn.Module)}
    if preferred := next((each for each in classes if each.__name__ == "Model"), None):
        return _made("Model", preferred)
    if not classes and len(modules) == 1:
        return next(iter(modules.values()))
    if not classes:
        raise CodeError("the file defines no subclass of torch.nn.Module, and no one module")
    return _made(classes[-1].__name__, classes[-1])


def _run(path: Path) -> ModuleType:
    size = path.stat().st_size
    if size > MAX_SOURCE_BYTES:
        raise CodeError(f"source of {size} bytes, limit {MAX_SOURCE_BYTES}")
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise CodeError("the file's name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise CodeError(f"the file cannot be run: {type(error).__name__}: {error}") from error
    return module


def _made(name: str, found: object) -> nn.Module:
    if isinstance(found, nn.Module):
        return found
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CodeError(f"the file defines no torch.nn.Module called {name}")
    try:
        return found()
    except Exception as error:
        wants = inspect.signature(found)
        raise CodeError(f"{name}{wants} cannot be made without arguments: {error}") from error
