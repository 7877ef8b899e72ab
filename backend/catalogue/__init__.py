"""The node catalogue: one declarative record for each type, free of any numeric runtime.

Names, ports and parameters here are what saved files say; a change that old files would not
survive raises the type's ``version``. Builders for torch are in ``backend.layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backend.catalogue import (
    activation,
    data,
    dense,
    loss,
    normalization,
    optimizer,
    pooling,
    shape,
    structure,
)
from backend.catalogue.record import Category, NodeType, Parameter, Port, PortKind

_MODULES = (data, structure, dense, pooling, normalization, activation, shape, loss, optimizer)

CATALOGUE: Mapping[str, NodeType] = MappingProxyType(
    {record.name: record for module in _MODULES for record in module.TYPES}
)

__all__ = ["CATALOGUE", "Category", "NodeType", "Parameter", "Port", "PortKind"]
