"""Images and rows of tables to models that know what they take."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image

from backend.checkpoint import capture_weights
from backend.compiler import compile_graph
from backend.facts import DataNotes
from backend.formats.cyxmodel import CyxModel, TrainingState, write_cyxmodel
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.serialize import dump_graph
from tests.e2e.serving.servers import Running, serving

pytestmark = pytest.mark.e2e
NAMES = ("cat", "dog", "bird")


def classifier(path: Path, shape: tuple[int, ...], notes: DataNotes) -> None:
    """With drawn weights; whole enough a graph to say that its numbers are scores of classes."""
    data = (
        Node("data", "DatasetInput", parameters={"sample_shape": list(shape), "classes": len(NAMES)}),
        Node("split", "DataSplit"),
        Node("loader", "DataLoader", parameters={"batch_size": 4}),
    )
    layers = (
        Node("in", "Input", parameters={"shape": list(shape)}),
        Node("flat", "Flatten"),
        Node("dense", "Dense", parameters={"units": len(NAMES)}),
        Node("out", "Output"),
    )
    ends = (Node("loss", "CrossEntropyLoss"), Node("adam", "Adam"))
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "in", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(layers)),
        Link("out", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "adam", "loss"),
    )
    graph = Graph("pets", (*data, *layers, *ends), links, TrainingSettings(epochs=1))
    state = TrainingState(1, 1, 1, 1, 0, 10, shape, len(NAMES))
    weights = capture_weights(compile_graph(graph).module)
    write_cyxmodel(path, CyxModel(dump_graph(graph), weights, state, notes=notes))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("raw")
    classifier(folder / "pets.cyxmodel", (1, 16, 16), DataNotes(class_names=NAMES, kind="image", white=1.0))
    columns = ("age", "colour=red", "colour=blue")
    notes = DataNotes(class_names=NAMES, kind="table", input_names=columns)
    classifier(folder / "rows.cyxmodel", (3,), notes)
    own, onnx = folder / "pets.cyxmodel", folder / "exported.onnx"
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(folder / "data"), "export"]
    command += [str(own), "--to", "onnx", "-o", str(onnx)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    with serving(folder / "data", str(own), str(folder / "rows.cyxmodel"), str(onnx)) as running:
        yield running


def picture(kind: str = "PNG") -> bytes:
    pixels = (np.random.RandomState(0).rand(40, 30, 3) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def refusal(server: Running, body: Any, **headers: str) -> tuple[int, str]:
    with pytest.raises(HTTPError) as caught:
        server.ask("/v1/predict", body, **headers)
    return caught.value.code, caught.value.read().decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_answered_with_the_names_of_classes(server: Running, kind: str) -> None:
    answer, _ = server.ask("/v1/predict", picture(kind), content_type=f"image/{kind.lower()}")
    (found,) = answer["answers"]
    assert found["name"] in NAMES
    assert sum(each["probability"] for each in found["top"]) == pytest.approx(1)


def test_rows_of_a_csv_are_answered_row_by_row(server: Running) -> None:
    body = b"age,colour\n3,red\n5,blue\n"
    answer, _ = server.ask("/v1/predict", body, content_type="text/csv", x_model="rows")
    items = [{"age": 3, "colour": "red"}, {"age": 5, "colour": "blue"}]
    same, _ = server.ask("/v1/predict", {"items": items, "model": "rows"})
    assert len(answer["answers"]) == 2
    assert answer == same


def test_an_exported_onnx_takes_the_same_and_answers_the_same(server: Running) -> None:
    own, exported = (
        server.ask("/v1/predict", picture(), content_type="image/png", x_model=model)[0]["answers"][0]
        for model in ("pets", "exported")
    )
    assert own["name"] == exported["name"]
    assert own["probability"] == pytest.approx(exported["probability"], abs=1e-5)


def test_the_description_tells_what_may_be_sent(server: Running) -> None:
    takes = server.ask("/v1/model")[0]["takes"]
    assert (takes["kind"], tuple(takes["class_names"])) == ("image", NAMES)


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"no image", {"content_type": "image/png"}, "item 1"),
        (picture()[:200], {"content_type": "image/png"}, "item 1"),
        ({"items": ["%%%"]}, {}, "base64"),
        ({"items": []}, {}, "allowed are 1"),
        ({}, {}, "neither inputs nor items"),
        (b"age,colour\n3,green\n", {"content_type": "text/csv", "x_model": "rows"}, "allowed are red, blue"),
        (b"age,colour\n3\n", {"content_type": "text/csv", "x_model": "rows"}, "colour"),
        (b"age,colour\n3,red,4\n", {"content_type": "text/csv", "x_model": "rows"}, "more cells"),
        (b"\xff\xfe", {"content_type": "text/csv", "x_model": "rows"}, "UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused(
    server: Running, body: Any, headers: dict[str, str], says: str
) -> None:
    status, text = refusal(server, body, **headers)
    assert status == 400
    assert says in text
