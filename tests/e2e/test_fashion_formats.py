"""Our Fashion-MNIST CNN in all formats, each asked by what others have: the same answers to real images."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.exporting.export import export_model
from backend.exporting.messages import Export, ExportOptions
from backend.fitting import fit
from backend.formats.cyxmodel import write_cyxmodel
from backend.formats.tensors import Array, pack_tensors
from backend.importing.messages import ImportModel
from backend.importing.run import import_model
from backend.readers.idx import FASHION_DIRECTORY, read_idx
from backend.runtime.base import load_model
from backend.serialize import load_graph

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

GRAPH = Path(__file__).parents[2] / "scripts" / "examples" / "fashion_cnn.json"
TRAINED, ASKED = 6000, 500


def images(part: str, count: int) -> tuple[Array, Array]:
    x = read_idx(FASHION_DIRECTORY / f"{part}-images-idx3-ubyte.gz")[:count, None].copy()
    return x, read_idx(FASHION_DIRECTORY / f"{part}-labels-idx1-ubyte.gz")[:count].astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model of one epoch, and the images that it is asked about."""
    if not FASHION_DIRECTORY.exists():
        pytest.skip("apt-get install dataset-fashion-mnist")
    found = tmp_path_factory.mktemp("fashion")
    graph = load_graph(GRAPH.read_bytes())
    graph = replace(graph, training=replace(graph.training, epochs=1))
    write_cyxmodel(found / "m.cyxmodel", fit(graph, images("train", TRAINED)).model)
    x, y = images("t10k", ASKED)
    (found / "data").write_bytes(pack_tensors({"x": x, "y": y}))
    return found


def exported(folder: Path, to: str, **options: object) -> Path:
    order = Export("m.cyxmodel", ExportOptions(to, **options), "data")  # type: ignore[arg-type]
    answer, certificate = export_model(order, folder, lambda stage: None)
    assert certificate.verdict in ("equal", "within tolerance")
    assert certificate.argmax_agreement == 1.0
    assert certificate.inputs.source == "the data file's first samples"
    return folder / answer.file


def ours(folder: Path) -> Array:
    runtime = load_model(folder / "m.cyxmodel", "cpu")
    x, y = images("t10k", ASKED)
    (answers,) = runtime.run({runtime.inputs[0].name: x}).values()
    assert (answers.argmax(1) == y).mean() > 0.7
    return answers


def through_cyxmodel(folder: Path) -> Array:
    runtime = load_model(exported(folder, "cyxmodel"), "cpu")
    (answers,) = runtime.run({runtime.inputs[0].name: images("t10k", ASKED)[0]}).values()
    return answers


def through_onnx(folder: Path) -> Array:
    import onnxruntime

    path = exported(folder, "onnx", with_preprocessing=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"input": images("t10k", ASKED)[0].astype(np.float32)})[0]
    return found


def normalized(folder: Path) -> torch.Tensor:
    """As the model without preprocessing takes images."""
    from backend.exporting.source import load_source, preparation_module

    x = torch.from_numpy(images("t10k", ASKED)[0].astype(np.float32))
    found: torch.Tensor = preparation_module(load_source(folder / "m.cyxmodel"))(x)[0]
    return found


def through_pytorch(folder: Path) -> Array:
    """The written program alone, with its weights beside it."""
    path = exported(folder, "pytorch")
    specification = importlib.util.spec_from_file_location("fashion_model", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["fashion_model"] = module
    specification.loader.exec_module(module)
    from safetensors.torch import load_file

    model = module.Model().eval()
    model.load_state_dict(load_file(path.with_suffix(".safetensors")))
    with torch.inference_mode():
        found: Array = model(normalized(folder)).numpy()
    return found


def through_safetensors(folder: Path) -> Array:
    """Read by Hugging Face's package, into layers that anybody would write."""
    from safetensors.torch import load_file

    weights = load_file(exported(folder, "safetensors"))
    x = normalized(folder)
    with torch.inference_mode():
        for name in ("conv1", "conv2"):
            x = torch.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same")
            x = torch.max_pool2d(torch.relu(x), 2)
        x = torch.relu(x.flatten(1) @ weights["dense1.weight"].T + weights["dense1.bias"])
        found: Array = (x @ weights["dense2.weight"].T + weights["dense2.bias"]).numpy()
    return found


def through_gguf(folder: Path) -> Array:
    """A container of tensors, imported again."""
    path = exported(folder, "gguf")
    answer, _ = import_model(ImportModel((path.name,)), folder, lambda stage: None)
    runtime = load_model(folder / answer.file, "cpu")
    (answers,) = runtime.run({runtime.inputs[0].name: images("t10k", ASKED)[0]}).values()
    return answers


WAYS = (through_cyxmodel, through_onnx, through_pytorch, through_safetensors, through_gguf)


@pytest.mark.parametrize("way", WAYS)
def test_a_format_gives_the_same_answers_to_real_images(way: Callable[[Path], Array], folder: Path) -> None:
    expected, found = ours(folder), way(folder)
    assert np.abs(found - expected).max() < 1e-4 * max(1.0, float(np.abs(expected).max()))
    assert np.array_equal(found.argmax(1), expected.argmax(1))
