"""What compiling a graph costs at run time: the digits example against the same network by hand.

Both have the same weights, loss and optimizer and see the same batch, in turns, on one thread; processor time
is measured, so that other programs on the machine count for little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from backend.compiler import compile_graph
from backend.graph import Graph, Link, Node
from backend.serialize import load_graph
from backend.validate import diagnose

EXAMPLES = Path(__file__).parents[1] / "examples"
BATCH = 32
OTHER_NAME = "handwritten nn.Module"


class Perceptron(nn.Module):
    """scripts/examples/digits_mlp.json as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(64, 128)
        self.dropout = nn.Dropout(0.2)
        self.dense2 = nn.Linear(128, 64)
        self.dense3 = nn.Linear(64, 10)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.relu(self.dense1(self.flatten(x))))
        return self.dense3(self.relu(self.dense2(x)))


TOKENS, STEPS, WIDTH, HEADS = 64, 16, 32, 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).flatten(2))


class Reader(nn.Module):
    """``reader()`` as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attend = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.attend(self.norm1(x))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(x)


def reader() -> Graph:
    """A small transformer over tokens, out of single layers."""
    given: dict[str, tuple[str, dict[str, Any]]] = {
        "ids": ("Input", {"shape": [STEPS], "vocabulary": TOKENS}),
        "embed": ("Embedding", {"vocabulary": TOKENS, "dimension": WIDTH}),
        "norm1": ("LayerNorm", {}),
        "attend": ("SelfAttention", {"heads": HEADS, "causal": True}),
        "sum1": ("Add", {}),
        "norm2": ("LayerNorm", {}),
        "up": ("Dense", {"units": 4 * WIDTH}),
        "gelu": ("GELU", {}),
        "down": ("Dense", {"units": WIDTH}),
        "sum2": ("Add", {}),
        "head": ("Dense", {"units": TOKENS}),
        "output": ("Output", {}),
    }
    nodes = tuple(Node(name, kind, 1, parameters) for name, (kind, parameters) in given.items())
    links = [Link(a.id, "output", b.id, "inputs" if b.type == "Add" else "input") for a, b in pairwise(nodes)]
    skips = [Link("embed", "output", "sum1", "inputs"), Link("sum1", "output", "sum2", "inputs")]
    return Graph("reader", nodes, (*links, *skips))


class Handwritten(nn.Module):
    """scripts/examples/digits_cnn.json as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding="same")
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding="same")
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding="same")
        self.norm3 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.25)
        self.dense1 = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.pool(self.relu(self.norm2(self.conv2(x))))
        x = self.pool(self.relu(self.norm3(self.conv3(x))))
        return self.dense1(self.dropout(self.flatten(x)))


def forward_of(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    module.eval()

    def run() -> None:
        with torch.inference_mode():
            module(x)

    return run


def step_of(
    module: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> Callable[[], None]:
    module.train()
    x, y = batch

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(module(x), y).backward()
        optimizer.step()

    return run


def compare(what: str, ours: Callable[[], None], other: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Medians in seconds; which goes first changes with every round."""
    times: dict[Callable[[], None], list[float]] = {ours: [], other: []}
    for number in range(rounds + rounds // 10):
        for run in (ours, other) if number % 2 else (other, ours):
            begin = time.process_time()
            run()
            times[run].append(time.process_time() - begin)
    warm = rounds // 10
    mine, theirs = statistics.median(times[ours][warm:]), statistics.median(times[other][warm:])
    return {"what": what, "ours": mine, "other": theirs, "other_name": OTHER_NAME, "ratio": mine / theirs}


def compare_forward(
    what: str, graph: Graph, by_hand: nn.Module, x: torch.Tensor, rounds: int
) -> dict[str, Any]:
    module = compile_graph(graph).module
    by_hand.load_state_dict(module.state_dict())
    ours, theirs = module.eval()(x), by_hand.eval()(x)
    if not torch.allclose(ours, theirs, atol=1e-5):
        raise SystemExit(f"{what}: the two nets differ")
    return compare(what, forward_of(module, x), forward_of(by_hand, x), rounds)


def large_graph() -> Graph:
    """A thousand nodes: residual blocks of four layers on a vector."""
    nodes, links = [Node("input", "Input", 1, {"shape": [16]})], []
    last = "input"
    for block in range(249):
        names = [(f"{kind.lower()}{block}", kind) for kind in ("LayerNorm", "Dense", "ReLU", "Add")]
        nodes += [Node(name, kind, 1, {"units": 16} if kind == "Dense" else {}) for name, kind in names]
        chain = [last, *(name for name, _ in names)]
        ports = ["input", "input", "input", "inputs"]
        links += [Link(a, "output", b, port) for a, b, port in zip(chain, chain[1:], ports, strict=False)]
        links.append(Link(last, "output", chain[-1], "inputs"))
        last = chain[-1]
    nodes += [Node("flat", "Flatten"), Node("head", "Dense", 1, {"units": 3}), Node("output", "Output")]
    links += [
        Link(a, "output", b, "input") for a, b in ((last, "flat"), ("flat", "head"), ("head", "output"))
    ]
    return Graph("large", tuple(nodes), tuple(links))


def milliseconds(what: str, run: Callable[[], object], rounds: int) -> dict[str, Any]:
    """The median in milliseconds; an absolute row."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    ours = statistics.median(times) * 1e3
    return {"what": what, "ours": ours, "other": None, "other_name": None, "ratio": None}


def measure(rounds: int) -> list[dict[str, Any]]:
    graph = load_graph((EXAMPLES / "digits_cnn.json").read_bytes())
    batch = (torch.randn(BATCH, 1, 8, 8), torch.randint(10, (BATCH,)))
    compiled, by_hand = compile_graph(graph), Handwritten()
    by_hand.load_state_dict(compiled.module.state_dict())
    forward = compare(
        "forward_of_handwritten", forward_of(compiled.module, batch[0]), forward_of(by_hand, batch[0]), rounds
    )
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0.01, fused=True)

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(prediction, target)

    step = compare(
        "step_of_handwritten",
        step_of(compiled.module, compiled.build_loss(), compiled.build_optimizer(), batch),
        step_of(by_hand, loss, optimizer, batch),
        rounds,
    )
    mlp = load_graph((EXAMPLES / "digits_mlp.json").read_bytes())
    tokens = torch.randint(TOKENS, (BATCH, STEPS))
    large = large_graph()
    return [
        forward,
        compare_forward("forward_of_handwritten_mlp", mlp, Perceptron(), batch[0], rounds),
        compare_forward("forward_of_handwritten_transformer", reader(), Reader(), tokens, rounds),
        step,
        milliseconds("validate_1000_nodes_ms", lambda: diagnose(large, for_training=False), 20),
        milliseconds("compile_1000_nodes_ms", lambda: compile_graph(large), 5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = measure(arguments.rounds)
    print(f"{'':36}{'ours ms':>10}{'by hand ms':>12}{'ratio':>8}")
    for row in results:
        if row["other"] is None:
            print(f"{row['what']:36}{row['ours']:10.3f}")
        else:
            print(f"{row['what']:36}{row['ours'] * 1e3:10.3f}{row['other'] * 1e3:12.3f}{row['ratio']:8.3f}")
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
