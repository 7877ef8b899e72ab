"""A small graph and datasets for tests of samples."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Link, Node, TrainingSettings

SHAPE = (2, 6)
CLASSES = 3


def small_graph(
    epochs: int = 3, batch_size: int = 8, normalization: str = "mean_std", seed: int = 5, **split: Any
) -> Graph:
    data = (
        Node("data", "DatasetInput", parameters={"sample_shape": list(SHAPE), "classes": CLASSES}),
        Node("split", "DataSplit", parameters=split),
        Node("normalize", "Normalize", parameters={"method": normalization}),
        Node("loader", "DataLoader", parameters={"batch_size": batch_size}),
    )
    layers = (
        Node("input", "Input", parameters={"shape": list(SHAPE)}),
        Node("flatten", "Flatten"),
        Node("dense", "Dense", parameters={"units": 8}),
        Node("relu", "ReLU"),
        Node("dropout", "Dropout", parameters={"rate": 0.2}),
        Node("head", "Dense", parameters={"units": CLASSES}),
        Node("output", "Output"),
    )
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "input", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(layers)),
        Link("output", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "optimizer", "loss"),
    )
    ends = (Node("loss", "CrossEntropyLoss"), Node("optimizer", "Adam"))
    return Graph("small", (*data, *layers, *ends), links, TrainingSettings(epochs=epochs, seed=seed))


def write_samples(path: Path, samples: int = 101, dtype: str = "float32") -> Path:
    random = np.random.RandomState(3)
    x = (random.rand(samples, *SHAPE) * 200).astype(dtype)
    path.write_bytes(pack_tensors({"x": x, "y": random.randint(0, CLASSES, samples).astype(np.int64)}))
    return path
