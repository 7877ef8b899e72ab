"""The example that the window offers: a small convolutional network for handwritten digits."""

from __future__ import annotations

from itertools import pairwise

from backend.graph import Graph, JsonValue, Link, Node, TrainingSettings

DIGITS_DATA = "bundled:digits"

_NODES: tuple[tuple[str, str, dict[str, JsonValue]], ...] = (
    ("dataset", "DatasetInput", {"sample_shape": [1, 8, 8], "classes": 10}),
    ("split", "DataSplit", {"train": 0.75, "validation": 0.1, "test": 0.15, "stratified": True}),
    ("normalize", "Normalize", {"method": "mean_std"}),
    ("loader", "DataLoader", {"batch_size": 128, "shuffle": True}),
    ("input", "Input", {"shape": [1, 8, 8]}),
    ("conv1", "Conv2D", {"filters": 16, "kernel_size": 3, "padding": "same"}),
    ("norm1", "BatchNorm", {}),
    ("relu1", "ReLU", {}),
    ("conv2", "Conv2D", {"filters": 32, "kernel_size": 3, "padding": "same"}),
    ("norm2", "BatchNorm", {}),
    ("relu2", "ReLU", {}),
    ("pool", "MaxPool2D", {"kernel_size": 2}),
    ("flatten", "Flatten", {}),
    ("dropout", "Dropout", {"rate": 0.25}),
    ("dense", "Dense", {"units": 10}),
    ("output", "Output", {}),
    ("loss", "CrossEntropyLoss", {}),
    ("optimizer", "AdamW", {"learning_rate": 0.01, "weight_decay": 0.01}),
)
_DATA_LINKS = (
    ("dataset", "dataset", "split", "dataset"),
    ("split", "dataset", "normalize", "dataset"),
    ("normalize", "dataset", "loader", "dataset"),
    ("loader", "samples", "input", "input"),
)
_END_LINKS = (
    ("output", "output", "loss", "prediction"),
    ("loader", "labels", "loss", "target"),
    ("loss", "loss", "optimizer", "loss"),
)


def _digits() -> Graph:
    names = [name for name, _, _ in _NODES]
    chain = names[names.index("input") : names.index("output") + 1]
    layers = [(one, "output", other, "input") for one, other in pairwise(chain)]
    return Graph(
        "Handwritten digits",
        nodes=tuple(Node(name, kind, parameters=given) for name, kind, given in _NODES),
        links=tuple(Link(*ends) for ends in (*_DATA_LINKS, *layers, *_END_LINKS)),
        training=TrainingSettings(epochs=12, seed=1),
    )


DIGITS = _digits()
"""Its nodes have no places: they are laid out for the screen on which it is opened."""
