"""A model as one safetensors file: weights by name, and in the metadata the graph that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backend.formats.tensors import Array, pack_header

GRAPH_KEY = "cyxwiz.graph"


def write_safetensors(
    path: Path, weights: Mapping[str, Array], graph: bytes, facts: Mapping[str, str]
) -> None:
    """Names are ``NODE.WEIGHT``: the node's id, then the weight's name in it, as in a .cyxmodel.

    ``facts``: more metadata. Not atomic. Raises ArchiveError, OSError.
    """
    metadata = {"format": "pt", GRAPH_KEY: graph.decode(), **facts}
    order, header = pack_header({name: (w.dtype, w.shape) for name, w in weights.items()}, metadata)
    with path.open("wb") as file:
        file.write(header)
        for name in order:
            file.write(np.ascontiguousarray(weights[name]).tobytes())
