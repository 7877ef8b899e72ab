"""Walks the catalogue: each type has right gradients, learns, is saved, and answers the same again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.catalogue import CATALOGUE
from backend.catalogue.record import MODEL_CATEGORIES
from backend.checkpoint import restore_weights
from backend.compiler import compile_graph
from backend.datasets import DataFacts, Dataset
from backend.formats.cyxmodel import read_cyxmodel, write_cyxmodel
from backend.graph import Graph
from backend.pipeline import read_pipeline
from backend.runtime.base import load_model
from backend.samples import LocalSamples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from tests.unit.backend.catalogue_cases import CASES, Case, graph_of, small_case, walk_graph

MODEL = sorted({case.type for case in CASES})
SAMPLES = 96
DEAF = {"Constant", "OnnxOperator"}
"""What has neither inputs nor weights has no gradient, nor what onnxruntime computes."""


def test_the_walk_passes_every_type_of_a_model() -> None:
    expected = {name for name, record in CATALOGUE.items() if record.category in MODEL_CATEGORIES}
    assert set(MODEL) == expected - {"Input"}


@pytest.mark.parametrize("name", [name for name in MODEL if name not in DEAF])
def test_gradients_of_inputs_and_weights_are_right_in_float64(name: str) -> None:
    case = small_case(name)
    compiled = compile_graph(graph_of(case))
    module = compiled.module.double()
    generator = torch.Generator().manual_seed(2)
    inputs = [
        torch.randint(end.ids, (3, *end.shape), generator=generator)
        if end.ids
        else torch.randn(3, *end.shape, generator=generator, dtype=torch.float64).requires_grad_()
        for end in compiled.inputs
    ]
    weights = dict(module.named_parameters())
    state = {key: value.clone() for key, value in module.state_dict().items()}

    def call(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, own = values[: len(inputs)], dict(zip(weights, values[len(inputs) :], strict=True))
        torch.manual_seed(4)
        buffers = {key: value.clone() for key, value in state.items() if key not in weights}
        answer = torch.func.functional_call(module, {**own, **buffers}, given)
        return answer if isinstance(answer, tuple) else (answer,)

    assert torch.autograd.gradcheck(call, (*inputs, *weights.values()), fast_mode=True)


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def teach(case: Case, graph: Graph) -> LocalSamples:
    """Data that another model of the same kind has labelled."""
    pipeline = read_pipeline(graph)
    random = np.random.RandomState(0)
    shape = (SAMPLES, *pipeline.sample_shape)
    x = random.randint(0, case.ids, shape) if case.ids else random.randn(*shape)
    teacher = compile_graph(walk_graph(case, seed=99)).module.eval()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.mul_(2.0)
        inputs = torch.from_numpy(x) if case.ids else torch.from_numpy(x).float()
        answer = teacher(inputs)
    y = (answer[-1] if isinstance(answer, tuple) else answer).numpy()
    facts = DataFacts(SAMPLES, pipeline.sample_shape, "float32", 0, (2,))
    return LocalSamples(Dataset(x.astype(np.float32), y, facts), pipeline)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL)
def test_a_type_learns_is_saved_and_answers_the_same(name: str, tmp_path: Path) -> None:
    case = small_case(name)
    graph = walk_graph(case, epochs=40)
    samples = teach(case, graph)
    data = dump_graph(graph)
    config = TrainingConfig("cpu", 2, 1e9, time.monotonic)
    whole = Trainer(data, samples, config)
    whole.run_segment(0, Unhindered(), lambda metrics: None)
    write_cyxmodel(tmp_path / "half.cyxmodel", whole.checkpoint(1))
    whole.run_segment(1, Unhindered(), lambda metrics: None)
    whole.finish()
    result = whole.result()
    assert result.history[-1].loss < 0.6 * result.history[0].loss

    resumed = Trainer(data, samples, config, read_cyxmodel(tmp_path / "half.cyxmodel"))
    resumed.run_segment(1, Unhindered(), lambda metrics: None)
    resumed.finish()
    for key, weight in resumed.result().weights.items():
        assert np.array_equal(weight, result.weights[key]), key
    for one, other in zip(resumed.result().history, result.history, strict=True):
        # Means are taken from sums that go on over the whole run: they differ in their last digits.
        assert (one.step, one.loss) == (other.step, pytest.approx(other.loss, rel=1e-6, abs=1e-9))

    write_cyxmodel(tmp_path / "model.cyxmodel", result)
    again = read_cyxmodel(tmp_path / "model.cyxmodel")
    assert all(np.array_equal(again.weights[key], value) for key, value in result.weights.items())
    module = compile_graph(graph).module
    restore_weights(module, result.weights)
    x = samples.dataset.x[:5]
    with torch.inference_mode():
        answer = module.eval()(torch.from_numpy(x).long() if case.ids else torch.from_numpy(x))
    expected = answer[0] if isinstance(answer, tuple) else answer
    assert np.array_equal(load_model(tmp_path / "model.cyxmodel", "cpu").predict(x), expected.numpy())
