"""Trains a graph in this process, with a say after each batch and epoch.

usage: fit_in_python.py [GRAPH [DATA]]

By default the digits example on scikit-learn's digits. Prints each epoch and stops when it is good enough.
"""

from __future__ import annotations

import sys
from pathlib import Path

from backend.fitting import fit
from backend.formats.cyxmodel import write_cyxmodel
from backend.reports import Metrics

GOOD_ENOUGH = 0.98


def main(graph: str = "scripts/examples/digits_mlp.json", data: str = "bundled:digits") -> None:
    losses: list[float] = []

    def on_batch(metrics: Metrics) -> None:
        losses.append(metrics.loss)

    def on_epoch(metrics: Metrics) -> bool:
        print(f"epoch {metrics.epoch}: loss {metrics.loss:.4f}, validation {metrics.validation_accuracy}")
        return (metrics.validation_accuracy or 0.0) < GOOD_ENOUGH

    def on_end(metrics: Metrics) -> None:
        print(f"test accuracy {metrics.test_accuracy}, {len(losses)} batches")

    fitted = fit(Path(graph), data, on_batch=on_batch, on_epoch=on_epoch, on_end=on_end)
    write_cyxmodel(Path("fitted.cyxmodel"), fitted.model)
    print(f"fitted.cyxmodel: {len(fitted.history)} epochs")


if __name__ == "__main__":
    main(*sys.argv[1:3])
