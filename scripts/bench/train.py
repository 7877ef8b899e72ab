"""Training on Fashion-MNIST: ours against the loops and frameworks that people would use instead.

Ours is the whole TrainingJob of a worker, in this process: it shuffles and normalizes, counts what is right,
reports, and can be paused at any step. The others get samples that are normalized already, and count nothing.
Samples a second of one epoch, in turns (A B A B), medians of all rounds but the first; starting up is not
counted, neither Lightning's nor our trial of how to compute. Threads, networks and batches are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from backend.datasets import load_dataset
from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.readers import convert
from backend.reports import Event, Progress, Train, TrainingPrepared
from backend.serialize import dump_graph
from backend.workers.job import TrainingJob

BATCH = 64
RATE = 1e-3
SAMPLES = {"cnn": 6_400, "mlp": 25_600}
EPOCHS = 30
"""That ours is told to train; it is cancelled after the first. As long as a real training would be."""
MOST_S = 240.0
"""Of each network: on a machine that is busy with other things there are fewer rounds."""
BEST, LOOP, LIGHTNING, HF = "best loop", "DataLoader loop", "Lightning", "HF Trainer"
ROWS = (("lightning", LIGHTNING), ("hf_trainer", HF), ("best_loop", BEST), ("dataloader_loop", LOOP))


@dataclass(frozen=True)
class Task:
    name: str
    x: torch.Tensor
    """Normalized."""
    y: torch.Tensor
    file: Path
    """The same as bytes, as a worker gets it."""

    @property
    def samples(self) -> int:
        return len(self.y)

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return _cnn() if self.name == "cnn" else _mlp()

    def optimizer(self, module: nn.Module, **how: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), RATE, **how)


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1568, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


# -- ours ------------------------------------------------------------------------------------------


def graph_of(name: str) -> Graph:
    layers = {
        "cnn": (
            ("Conv2D", {"filters": 16, "kernel_size": 3, "padding": "same"}),
            ("ReLU", {}),
            ("MaxPool2D", {"kernel_size": 2}),
            ("Conv2D", {"filters": 32, "kernel_size": 3, "padding": "same"}),
            ("ReLU", {}),
            ("MaxPool2D", {"kernel_size": 2}),
            ("Flatten", {}),
            ("Dense", {"units": 64}),
            ("ReLU", {}),
            ("Dense", {"units": 10}),
        ),
        "mlp": (("Flatten", {}), ("Dense", {"units": 128}), ("ReLU", {}), ("Dense", {"units": 10})),
    }[name]
    data = (
        Node("data", "DatasetInput", 1, {"sample_shape": [1, 28, 28], "classes": 10}),
        Node("norm", "Normalize", 1, {"method": "mean_std"}),
        Node("loader", "DataLoader", 1, {"batch_size": BATCH}),
    )
    inner = tuple(Node(f"layer{i}", type_name, 1, given) for i, (type_name, given) in enumerate(layers))
    chain = (Node("x", "Input"), *inner, Node("y", "Output"))
    ends = (Node("loss", "CrossEntropyLoss"), Node("adam", "Adam", 1, {"learning_rate": RATE}))
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "x", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(chain)),
        Link("y", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "adam", "loss"),
    )
    return Graph(name, (*data, *chain, *ends), links, TrainingSettings(EPOCHS))


class Ours:
    """Trains the first epoch of a job and cancels it, as a user could."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._began = self._ended = 0.0
        self.note = ""

    def __call__(self) -> float:
        order = Train(self._task.file.name, None, 1, 0, 1, "cpu")
        graph = dump_graph(graph_of(self._task.name))
        with tempfile.TemporaryDirectory() as folder:
            os.link(self._task.file, Path(folder) / self._task.file.name)
            self._job = TrainingJob(order, graph, Path(folder), self._listen)
            self._job.run()
        return self._ended - self._began

    def _listen(self, event: Event) -> None:
        match event:
            case TrainingPrepared(notes=notes):
                self.note = notes[0]
                self._began = time.perf_counter()
            case Progress(metrics) if metrics.step == self._task.samples // BATCH:
                self._ended = time.perf_counter()
                self._job.gate.cancel()
            case _:
                pass


# -- theirs ----------------------------------------------------------------------------------------


def by_hand(task: Task, *, half: bool = False, channels_last: bool = False) -> Callable[[], float]:
    """Everything in memory, shuffled at once and cut into slices, a fused optimizer: the best we know."""
    module = task.network()
    x = task.x
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = task.optimizer(module, fused=True)

    def epoch() -> float:
        began = time.perf_counter()
        order = torch.randperm(task.samples)
        inputs, targets = x[order], task.y[order]
        if channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        for at in range(0, task.samples, BATCH):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
                answer = module(inputs[at : at + BATCH])
            functional.cross_entropy(answer.float(), targets[at : at + BATCH]).backward()
            optimizer.step()
        return time.perf_counter() - began

    return epoch


def with_loader(task: Task) -> Callable[[], float]:
    """The loop of the tutorials."""
    module = task.network()
    optimizer = task.optimizer(module)
    loader = DataLoader(TensorDataset(task.x, task.y), BATCH, shuffle=True)

    def epoch() -> float:
        began = time.perf_counter()
        for inputs, targets in loader:
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        return time.perf_counter() - began

    return epoch


def with_lightning(task: Task) -> Callable[[], float]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = task.network()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            inputs, targets = batch
            return functional.cross_entropy(self.network(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer(self)

    class Watch(lightning.Callback):
        took_s = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self._began = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.took_s = time.perf_counter() - self._began

    def epoch() -> float:
        watch = Watch()
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watch],
        )
        trainer.fit(Module(), DataLoader(TensorDataset(task.x, task.y), BATCH, shuffle=True))
        return watch.took_s

    return epoch


def with_hf_trainer(task: Task, folder: str) -> Callable[[], float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Samples(Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return task.samples

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"x": task.x[index], "labels": task.y[index]}

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = task.network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            answer = self.network(x)
            return {"loss": functional.cross_entropy(answer, labels), "logits": answer}

    class Watch(TrainerCallback):
        took_s = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self._began = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.took_s = time.perf_counter() - self._began

    def epoch() -> float:
        watch = Watch()
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=Module(), args=settings, train_dataset=Samples(), callbacks=[watch]).train()
        return watch.took_s

    return epoch


# -- in turns --------------------------------------------------------------------------------------


def contenders(task: Task, folder: str) -> dict[str, Callable[[], float]]:
    variants: dict[str, dict[str, bool]] = {"": {}, ", bfloat16": {"half": True}}
    if task.name == "cnn":
        variants[", channels last"] = {"channels_last": True}
        variants[", channels last, bfloat16"] = {"channels_last": True, "half": True}
    return {
        "ours": Ours(task),
        **{f"{BEST}{name}": by_hand(task, **given) for name, given in variants.items()},
        LOOP: with_loader(task),
        LIGHTNING: with_lightning(task),
        HF: with_hf_trainer(task, folder),
    }


def measure(task: Task, rounds: int, folder: str) -> dict[str, float]:
    """Samples a second by contender; of the best loop only the best variant."""
    running = contenders(task, folder)
    taken: dict[str, list[float]] = {name: [] for name in running}
    began = time.monotonic()
    for number in range(rounds + 1):
        if number > 1 and time.monotonic() - began > MOST_S:
            break
        for name, epoch in running.items():
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                took_s = epoch()
            if number:
                taken[name].append(took_s)
    rates = {name: task.samples / statistics.median(times) for name, times in taken.items()}
    ours = running["ours"]
    print(f"\n{task.name}, {task.samples} samples, batches of {BATCH}; ours: {getattr(ours, 'note', '')}")
    for name, rate in rates.items():
        print(f"  {name:36}{rate:10.0f} samples/s{rates['ours'] / rate:8.2f}")
    best = max(rate for name, rate in rates.items() if name.startswith(BEST))
    return {**{name: rate for name, rate in rates.items() if not name.startswith(BEST)}, BEST: best}


def tasks(folder: Path) -> Iterator[Task]:
    convert(Path("bundled:fashion-mnist"), folder / "all.safetensors")
    whole = load_dataset(folder / "all.safetensors")
    for name, count in SAMPLES.items():
        x, y = whole.x[:count], whole.y[:count]
        file = folder / f"{name}.safetensors"
        file.write_bytes(pack_tensors({"x": np.ascontiguousarray(x), "y": np.ascontiguousarray(y)}))
        inputs = torch.from_numpy(x.astype(np.float32))
        yield Task(name, (inputs - inputs.mean()) / inputs.std(), torch.from_numpy(y.astype(np.int64)), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    try:
        import lightning  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            f"{error}: pip install 'cyxwiz[bench-train]' brings what is compared with"
        ) from error
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    results = []
    with tempfile.TemporaryDirectory() as name:
        for task in tasks(Path(name)):
            rates = measure(task, arguments.rounds, name)
            for row, other in ROWS:
                results.append(
                    {
                        "what": f"{task.name}_of_{row}",
                        "ours": rates["ours"],
                        "other": rates[other],
                        "other_name": other,
                        "ratio": rates["ours"] / rates[other],
                    }
                )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
