"""Imports torch and runs each lazily initialized part of it once, before the sandbox closes.

A worker that is warm answers its first Train within a step's time, and looks for no module, file or
processor description afterwards. Runs on a graph and data of its own, nothing of a stranger's.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from backend.datasets import load_dataset
from backend.formats.cyxmodel import write_cyxmodel
from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.pipeline import read_pipeline
from backend.runtime.base import load_model
from backend.samples import LocalSamples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig


def warm_up(directory: Path) -> None:
    """One small training, checkpoint and prediction on the CPU; leaves ``directory`` as it was."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    data, model = directory / "warmup.safetensors", directory / "warmup.cyxmodel"
    random = np.random.RandomState(0)
    x = random.rand(64, 1, 8, 8).astype(np.float32)
    data.write_bytes(pack_tensors({"x": x, "y": np.arange(64, dtype=np.int64) % 4}))
    try:
        graph = dump_graph(_graph())
        config = TrainingConfig("cpu", 2, 0.0, time.monotonic)
        samples = LocalSamples(load_dataset(data), read_pipeline(_graph()))
        trainer = Trainer(graph, samples, config)
        trainer.run_segment(0, _Unhindered(), lambda metrics: None)
        checkpoint = trainer.checkpoint(1)
        trainer = Trainer(graph, samples, config, checkpoint)
        trainer.run_segment(1, _Unhindered(), lambda metrics: None)
        trainer.finish()
        write_cyxmodel(model, trainer.result())
        load_model(model, "cpu").run({"input": x[:2]})
    finally:
        data.unlink(missing_ok=True)
        model.unlink(missing_ok=True)


def warm_device(device: str) -> None:
    """Creates a GPU's context, which takes a second, before there is a job to wait for it.

    Ends the process with a line where there is no such device.
    """
    if device == "cpu":
        return
    try:
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"no device {device} here: {str(error).strip().splitlines()[0]}")


def choose_threads(wanted: int) -> None:
    """``wanted``, or for 0 all cores that this process may use but one, which the node needs."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(wanted or max(1, usable - 1))


def runtime_name() -> str:
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


class _Unhindered:
    def before_step(self, step: int) -> None:
        pass


def _graph() -> Graph:
    nodes = (
        Node("data", "DatasetInput", parameters={"sample_shape": [1, 8, 8], "classes": 4}),
        Node("split", "DataSplit"),
        Node("normalize", "Normalize"),
        Node("loader", "DataLoader", parameters={"batch_size": 16}),
        Node("input", "Input", parameters={"shape": [1, 8, 8]}),
        Node("convolution", "Conv2D", parameters={"filters": 8, "padding": "same"}),
        Node("norm", "BatchNorm"),
        Node("relu", "ReLU"),
        Node("pool", "MaxPool2D"),
        Node("flatten", "Flatten"),
        Node("dropout", "Dropout"),
        Node("dense", "Dense", parameters={"units": 4}),
        Node("output", "Output"),
    )
    ends = (Node("loss", "CrossEntropyLoss"), Node("adam", "Adam"))
    data, layers = nodes[:4], nodes[4:]
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "input", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(layers)),
        Link("output", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "adam", "loss"),
    )
    return Graph("warm-up", nodes + ends, links, TrainingSettings(epochs=2))
