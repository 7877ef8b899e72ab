"""Recognizes the helper classes that generated files hold: by their text, which must be ours."""

from __future__ import annotations

from torch import nn

from backend.pytorch_code.excerpts import defined, excerpt

_HOMES = ("attention", "normalization", "utility")


def is_our_helper(module: nn.Module, source: str) -> bool:
    """Whether its class, and all that this uses, stand in the source as they do in our layers."""
    name = type(module).__name__
    if type(module).__module__ != "imported_code":
        return False
    for home in _HOMES:
        if name in defined(f"layers.{home}"):
            return all(text in source for text in excerpt(f"layers.{home}", [name]).definitions)
    return False
