"""Data that comes with installed packages: scikit-learn's sets, and Debian's Fashion-MNIST.

Engine side only: what a peer trains on always travels to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.readers.arrays import array_source
from backend.readers.idx import open_fashion_mnist
from backend.readers.source import ArraySource, ReadOptions, Task

FASHION_MNIST = "fashion-mnist"
SETS = {
    "digits": "1,797 handwritten digits, 8x8 grey",
    "iris": "150 flowers, 4 measures, 3 kinds",
    "wine": "178 wines, 13 measures, 3 growers",
    "breast_cancer": "569 tumours, 30 measures, 2 kinds",
    "diabetes": "442 patients, 10 measures, a number to predict",
    FASHION_MNIST: "70,000 pieces of clothing, 28x28 grey (Debian's dataset-fashion-mnist)",
}


def open(name: str, options: ReadOptions) -> ArraySource:
    """Raises DatasetError."""
    if name not in SETS:
        raise DatasetError(f"no bundled data {name!r}, there are {', '.join(SETS)}")
    return open_fashion_mnist(options) if name == FASHION_MNIST else _open_sklearn(name)


def _open_sklearn(name: str) -> ArraySource:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DatasetError(f"{name} comes with scikit-learn, which is not installed") from error
    found: Any = getattr(datasets, f"load_{name}")()
    x = (found.images[:, None] if name == "digits" else found.data).astype(np.float32)
    regression = name == "diabetes"
    source = array_source(x, found.target, Task.REGRESSION if regression else Task.CLASSIFICATION)
    notes = DataNotes(
        class_names=() if regression else tuple(map(str, found.target_names)),
        input_names=() if name == "digits" else tuple(map(str, found.feature_names)),
        kind="image" if name == "digits" else "table",
        target_names=("progression",) if regression else (),
        white=16.0 if name == "digits" else 0.0,
    )
    return replace(source, recipe=replace(source.recipe, notes=notes))
