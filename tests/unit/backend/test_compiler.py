"""Compiled graphs compute what the same network written by hand computes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.nn import functional

from backend.catalogue import CATALOGUE, Category
from backend.catalogue.parameter import completed
from backend.compiler import compile_graph, module_name
from backend.errors import GraphInvalidError
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.layers.normalization import StochasticDepth
from backend.losses import build_loss, judge
from backend.optimizers import build_optimizer
from backend.pipeline import Setting
from backend.serialize import load_graph

ROOT = Path(__file__).parents[3]


def chain(*layers: tuple[str, str, dict[str, Any]], shape: tuple[int, ...] = (4,), seed: int = 0) -> Graph:
    """Input, the layers one after the other, Output."""
    nodes = [Node("entry", "Input", 1, {"shape": list(shape)})]
    nodes += [Node(node_id, type_name, 1, given) for node_id, type_name, given in layers]
    nodes.append(Node("result", "Output"))
    links = [Link(before.id, "output", after.id, "input") for before, after in pairwise(nodes)]
    return Graph("chain", tuple(nodes), tuple(links), TrainingSettings(1, seed))


def setting(name: str, **given: Any) -> Setting:
    return Setting("node", name, completed(CATALOGUE[name].parameters, given))


class Handwritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.norm(self.first(x)))
        b = torch.tanh(self.second(a))
        joined = torch.cat([a + b, a * b], 1)
        return self.head(torch.flatten(functional.max_pool2d(joined, 2), 1))


def branching() -> Graph:
    conv = {"filters": 4, "padding": "same"}
    nodes = (
        # Out of order on purpose: the links say what comes first.
        Node("result", "Output"),
        Node("head", "Dense", 1, {"units": 3}),
        Node("joined", "Concatenate"),
        Node("first", "Conv2D", 1, conv),
        Node("entry", "Input", 1, {"shape": [1, 8, 8]}),
        Node("norm", "BatchNorm"),
        Node("a", "ReLU"),
        Node("second", "Conv2D", 1, conv),
        Node("b", "Tanh"),
        Node("sum", "Add"),
        Node("product", "Multiply"),
        Node("pool", "MaxPool2D"),
        Node("flat", "Flatten"),
    )
    ends = "entry>first first>norm norm>a a>second second>b pool>flat flat>head head>result joined>pool"
    links = [Link(*end.replace(">", " output ").split(), "input") for end in ends.split()]
    links += [Link(source, "output", target, "inputs") for target in ("sum", "product") for source in "ab"]
    links += [Link(source, "output", "joined", "inputs") for source in ("sum", "product")]
    return Graph("branching", nodes, tuple(links))


def test_a_branching_graph_computes_what_handwritten_code_does() -> None:
    compiled, by_hand = compile_graph(branching()), Handwritten()
    by_hand.load_state_dict(compiled.module.state_dict())
    x = torch.randn(5, 1, 8, 8)
    for training in (True, False):
        compiled.module.train(training)
        by_hand.train(training)
        assert torch.equal(compiled.module(x), by_hand(x))
    assert (compiled.input_shape, compiled.output_shape) == ((1, 8, 8), (3,))
    assert compiled.output_names == ("result",)


def test_gradients_are_those_of_handwritten_code() -> None:
    compiled, by_hand = compile_graph(branching()), Handwritten()
    by_hand.load_state_dict(compiled.module.state_dict())
    x = torch.randn(5, 1, 8, 8)
    for module in (compiled.module, by_hand):
        module(x).square().sum().backward()
    found = dict(compiled.module.named_parameters())
    for name, weight in by_hand.named_parameters():
        assert weight.grad is not None
        assert torch.equal(found[name].grad, weight.grad)


def test_an_activation_overwrites_only_what_nobody_else_reads() -> None:
    graph = chain(("conv", "Conv2D", {}), ("act", "ReLU", {}), shape=(1, 8, 8))
    assert "relu_(" in compile_graph(graph).module.code
    nodes = (*graph.nodes[:-1], Node("sum", "Add"), graph.nodes[-1])
    links = (*graph.links[:2], *(Link(source, "output", "sum", "inputs") for source in ("conv", "act")))
    both = replace(graph, nodes=nodes, links=(*links, Link("sum", "output", "result", "input")))
    assert "relu_(" not in compile_graph(both).module.code
    x = torch.randn(2, 1, 8, 8)
    module = compile_graph(both).module
    conv = module.get_submodule("conv")(x)
    assert torch.equal(module(x), conv + torch.relu(conv))


def test_the_graphs_seed_alone_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return compile_graph(chain(("d", "Dense", {}), seed=seed)).module.state_dict()["d.weight"]

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(weights(1), weights(2))


def test_a_graph_with_errors_is_not_compiled() -> None:
    with pytest.raises(GraphInvalidError, match="error at c: takes"):
        compile_graph(chain(("c", "Conv2D", {})))


def test_a_compiled_model_needs_a_loss_only_where_one_is_asked_for() -> None:
    compiled = compile_graph(chain(("d", "Dense", {})))
    with pytest.raises(GraphInvalidError, match="Losses: 0 nodes, must be 1"):
        compiled.build_loss()
    with pytest.raises(GraphInvalidError, match="Optimizers: 0 nodes, must be 1"):
        compiled.build_optimizer()


@pytest.mark.parametrize("name", ["forward", "train", "a b", "größe", "class", "a.b", "_x", "", "1", "code"])
def test_any_node_id_can_name_weights(name: str) -> None:
    compiled = compile_graph(chain((name or "-", "Dense", {"units": 2})))
    assert compiled.module(torch.zeros(1, 4)).shape == (1, 2)
    assert set(compiled.module.state_dict()) == {
        f"{module_name(name or '-')}.{part}" for part in ("weight", "bias")
    }


def test_no_two_ids_share_a_module_name() -> None:
    ids = ["a b", "node_x612062", "a_b", "class", "node_x", "A", "a"]
    assert len({module_name(node_id) for node_id in ids}) == len(ids)


def test_the_digits_example_learns() -> None:
    compiled = compile_graph(load_graph((ROOT / "scripts/examples/digits_cnn.json").read_bytes()))
    loss, optimizer = compiled.build_loss(), compiled.build_optimizer()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 10
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        value = loss(compiled.module(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    result = layer(torch.ones(4000, 2))
    assert result.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(result[:, 0], result[:, 1])
    assert result.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer.eval()(torch.ones(3, 2)), torch.ones(3, 2))


REAL = torch.rand(6, 3)
CLASSES = torch.arange(6) % 3
LOSSES = {
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), CLASSES),
    "MSELoss": (nn.MSELoss(), REAL),
    "L1Loss": (nn.L1Loss(), REAL),
    "SmoothL1Loss": (nn.SmoothL1Loss(), REAL),
    "HuberLoss": (nn.HuberLoss(), REAL),
    "BCELoss": (nn.BCELoss(), REAL),
    "BCEWithLogits": (nn.BCEWithLogitsLoss(), REAL),
    "NLLLoss": (nn.NLLLoss(), CLASSES),
    "KLDivLoss": (nn.KLDivLoss(reduction="batchmean"), REAL),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_torchs_and_has_a_gradient(name: str) -> None:
    reference, target = LOSSES[name]
    scores = torch.rand(6, 3, requires_grad=True)
    value = build_loss(setting(name))(scores, target)
    assert torch.allclose(value, reference(scores, target))
    value.backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0


def test_the_cosine_loss_is_torchs_for_signs_and_for_classes() -> None:
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    loss = build_loss(setting("CosineEmbeddingLoss", margin=0.2))
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    expected = nn.CosineEmbeddingLoss(margin=0.2)(a, b, signs)
    assert torch.allclose(loss(a, b, signs), expected)
    assert torch.allclose(loss(a, b, (signs > 0).long()), expected)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss"])
def test_classes_at_each_place_may_have_their_axis_anywhere(name: str) -> None:
    scores, target = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    target[:, -1] = 2
    last = build_loss(setting(name))(scores, target)
    first = build_loss(setting(name, class_axis=0))(scores.movedim(-1, 1), target)
    assert torch.allclose(last, first)
    reference = {"CrossEntropyLoss": nn.CrossEntropyLoss, "NLLLoss": nn.NLLLoss}[name]
    assert torch.allclose(last, reference()(scores.movedim(-1, 1), target))
    ignoring = build_loss(setting(name, ignored_class=2))(scores, target)
    assert torch.allclose(ignoring, reference(ignore_index=2)(scores.movedim(-1, 1), target))
    judged = judge(setting(name, ignored_class=2), scores, target)
    assert judged is not None
    assert int(judged.places) == int((target != 2).sum())
    assert int(judged.correct) == int(((scores.argmax(-1) == target) & (target != 2)).sum())


def test_lion_steps_by_the_sign_of_a_mean() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    lion = build_optimizer(setting("Lion", learning_rate=0.1, weight_decay=0.5), [weight])
    expected, mean = weight.detach().clone(), torch.zeros(3)
    for gradient in (torch.tensor([1.0, -1.0, 0.1]), torch.tensor([-30.0, 0.2, 0.1])):
        weight.grad = gradient
        lion.step()
        direction = (0.9 * mean + 0.1 * gradient).sign()
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * direction
        mean = 0.99 * mean + 0.01 * gradient
    assert torch.allclose(weight, expected)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_the_short_way_of_an_optimizer_is_torchs_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(3, 50)), nn.Parameter(torch.randn(7))]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    short = build_optimizer(setting(name, learning_rate=0.1, weight_decay=0.5), ours)
    long = getattr(optim, name)(theirs, 0.1, weight_decay=0.5, fused=True)
    assert short.state_dict()["param_groups"] == long.state_dict()["param_groups"]
    for number in range(6):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        if number < 2:  # a weight that begins later, as one that was unused or frozen
            ours[1].grad = theirs[1].grad = None
        short.step()
        long.step()
        short.param_groups[0]["lr"] = long.param_groups[0]["lr"] = 0.1 / (number + 1)
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(value, long.state[other][key]) for key, value in short.state[mine].items())


def test_loss_parameters_reach_torch() -> None:
    scores, target = torch.randn(6, 3), torch.arange(6) % 3
    weights = [1.0, 2.0, 3.0]
    loss = build_loss(setting("CrossEntropyLoss", label_smoothing=0.1, class_weights=weights))
    expected = functional.cross_entropy(scores, target, torch.tensor(weights), label_smoothing=0.1)
    assert torch.equal(loss(scores, target), expected)
    wide = build_loss(setting("HuberLoss", delta=3.0))(scores, scores + 2)
    assert wide.item() == pytest.approx(2.0)


def test_binary_losses_take_class_numbers() -> None:
    logits, target = torch.tensor([[2.0], [-1.0], [3.0]]), torch.tensor([1, 0, 0])
    value = build_loss(setting("BCEWithLogits"))(logits, target)
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    assert torch.equal(value, expected)
    judged = judge(setting("BCEWithLogits"), logits, target)
    assert judged is not None
    assert (judged.correct.item(), judged.places) == (2, 3)


def test_right_classes_are_counted_where_there_are_classes() -> None:
    scores, target = torch.tensor([[1.0, 2.0], [5.0, 0.0]]), torch.tensor([1, 1])
    judged = judge(setting("CrossEntropyLoss"), scores, target)
    assert judged is not None
    assert (judged.correct.item(), judged.places) == (1, 2)
    assert judge(setting("MSELoss"), scores, scores) is None


@pytest.mark.parametrize("name", [n for n, r in CATALOGUE.items() if r.category is Category.OPTIMIZER])
def test_every_optimizer_makes_a_loss_smaller(name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = build_optimizer(setting(name, learning_rate=0.1), [weight])
    before = weight.square().sum().item()
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.square().sum().item() < before
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_optimizer_parameters_reach_torch() -> None:
    weight = nn.Parameter(torch.zeros(1))
    sgd = build_optimizer(setting("SGD", momentum=0.9, nesterov=True, weight_decay=0.01), [weight])
    group = sgd.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.01)
    adam = build_optimizer(setting("AdamW", beta1=0.8, epsilon=1e-6), [weight]).param_groups[0]
    assert (adam["betas"], adam["eps"], adam["weight_decay"]) == ((0.8, 0.999), 1e-6, 0.01)


def test_pure_modules_load_without_any_runtime() -> None:
    code = (
        "import sys, backend.graph, backend.catalogue, backend.shapes, backend.validate, backend.serialize,"
        "backend.estimate, backend.pipeline\n"
        "print([name for name in ('torch', 'numpy', 'trio', 'libp2p') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_weights_do_not_depend_on_what_is_left_out() -> None:
    graph = chain(("d", "Dense", {}))
    spare = replace(graph, nodes=(Node("spare", "Dense"), *graph.nodes))
    link = Link("entry", "output", "spare", "input")
    weights = compile_graph(replace(spare, links=(link, *graph.links))).module.state_dict()
    assert set(weights) == {"d.weight", "d.bias"}
    assert torch.equal(weights["d.weight"], compile_graph(graph).module.state_dict()["d.weight"])


def test_a_pooling_goes_before_a_relu_that_nobody_else_reads_and_changes_no_bit() -> None:
    layers = (("conv", "Conv2D", {"filters": 4}), ("act", "ReLU", {}), ("pool", "MaxPool2D", {}))
    graph = chain(*layers, shape=(1, 9, 9))
    swapped, plain = (compile_graph(graph, for_training=training).module for training in (True, False))
    code = swapped.code
    assert code.index("max_pool2d") < code.index("relu_")
    assert plain.code.index("relu_") < plain.code.index("max_pool2d")
    x = torch.randn(5, 1, 9, 9)
    x[0] = 0.25  # ties
    found = []
    for module in (swapped, plain):
        answer = module(x)
        (answer * torch.linspace(-1, 1, answer.numel()).reshape(answer.shape)).sum().backward()
        found.append((answer, *(weight.grad for weight in module.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    skip = replace(
        graph,
        nodes=(*graph.nodes, Node("more", "Output")),
        links=(*graph.links, Link("act", "output", "more", "input")),
    )
    code = compile_graph(skip, for_training=True).module.code
    assert code.index("relu_") < code.index("max_pool2d")
