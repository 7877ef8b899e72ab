"""What each node type of the catalogue is in torch. One builder a type, keyed by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backend.layers import attention, composite, dense, function, normalization, recurrent, utility
from backend.layers.emitter import Builder, Emitter, Site

_MODULES = (dense, normalization, recurrent, attention, function, utility, composite)

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {name: builder for module in _MODULES for name, builder in module.BUILDERS.items()}
)

__all__ = ["BUILDERS", "Builder", "Emitter", "Site"]
