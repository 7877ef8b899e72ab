"""The node catalogue: one declarative record for each type, free of any numeric runtime.

Names, ports and parameters here are what saved files say; a change that old files would not
survive raises the type's ``version``. Builders for torch are in ``backend.layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from backend.catalogue import (
    activation,
    attention,
    composite,
    data,
    dense,
    foreign,
    loss,
    normalization,
    optimizer,
    penalty,
    pooling,
    recurrent,
    schedule,
    shape,
    structure,
    utility,
)
from backend.catalogue.file_formats import format_notes, formats_of
from backend.catalogue.parameter import Parameter
from backend.catalogue.record import Category, NodeType, Port, PortKind

_MODULES = (
    data,
    structure,
    dense,
    pooling,
    normalization,
    recurrent,
    attention,
    activation,
    shape,
    utility,
    foreign,
    composite,
    loss,
    optimizer,
    schedule,
    penalty,
)


def _with_formats(record: NodeType) -> NodeType:
    name, category = record.name, record.category
    return replace(record, formats=formats_of(name, category), format_notes=format_notes(name, category))


CATALOGUE: Mapping[str, NodeType] = MappingProxyType(
    {record.name: _with_formats(record) for module in _MODULES for record in module.TYPES}
)

__all__ = ["CATALOGUE", "Category", "NodeType", "Parameter", "Port", "PortKind"]
