"""What each node type of the catalogue is in torch. One builder a type, keyed by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backend.layers import dense, function, normalization
from backend.layers.emitter import Builder, Emitter, Site

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {**dense.BUILDERS, **normalization.BUILDERS, **function.BUILDERS}
)

__all__ = ["BUILDERS", "Builder", "Emitter", "Site"]
