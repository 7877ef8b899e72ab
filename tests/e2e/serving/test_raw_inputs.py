"""Images and rows of tables to models that know what they take."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import tokenizers
import tritonclient.http
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


def text_classifier(path: Path) -> None:
    words = tokenizers.models.WordLevel({"?": 0, "good": 1, "bad": 2}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    notes = DataNotes(class_names=NAMES, kind="text", tokenizer=tokenizer.to_str())
    layers = (
        Node("in", "Input", parameters={"shape": [4], "vocabulary": 3}),
        Node("table", "Embedding", parameters={"vocabulary": 3, "dimension": 2}),
        Node("flat", "Flatten"),
        Node("dense", "Dense", parameters={"units": len(NAMES)}),
        Node("out", "Output"),
    )
    graph = Graph("words", layers, tuple(Link(a.id, "output", b.id, "input") for a, b in pairwise(layers)))
    weights = capture_weights(compile_graph(graph).module)
    state = TrainingState(1, 1, 1, 1, 0, 10, (4,), len(NAMES))
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
    text_classifier(folder / "words.cyxmodel")
    models = (own, folder / "rows.cyxmodel", onnx, folder / "words.cyxmodel")
    with serving(folder / "data", *map(str, models)) as running:
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


def test_tritonclient_sends_texts_and_asks_for_classes(server: Running) -> None:
    client = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
    texts = np.array([b"good bad", "bad né".encode()], object)
    given = tritonclient.http.InferInput("input", [2], "BYTES")
    answers = []
    for is_binary in (True, False):
        given.set_data_from_numpy(texts, binary_data=is_binary)
        answers.append(client.infer("words", [given]).as_numpy("output"))
    numbers = tritonclient.http.InferInput("input", [2, 4], "INT64")
    numbers.set_data_from_numpy(np.array([[1, 2, 0, 0], [2, 0, 0, 0]], np.int64))
    answers.append(client.infer("words", [numbers]).as_numpy("output"))
    assert np.allclose(answers[0], answers[2], atol=1e-6)
    assert np.array_equal(answers[0], answers[1])
    for is_binary in (True, False):
        wanted = tritonclient.http.InferRequestedOutput("output", binary_data=is_binary, class_count=2)
        for each in (given, numbers):
            found = client.infer("words", [each], outputs=[wanted]).as_numpy("output")
            best = int(answers[0][0].argmax())
            told = found[0, 0].decode() if isinstance(found[0, 0], bytes) else found[0, 0]
            assert found.shape == (2, 2)
            assert told.split(":")[1:] == [str(best), NAMES[best]]


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [("pets", [1], "takes no texts"), ("words", [2], "holds 1 texts"), ("words", [1, 2], "or .N, 1."),
     ("words", [1 << 40], "from 1 to 4096")],
)  # fmt: skip
def test_texts_that_do_not_fit_are_refused(
    server: Running, model: str, shape: list[int], reason: str
) -> None:
    body = {"inputs": [{"name": "input", "shape": shape, "datatype": "BYTES", "data": ["good"]}]}
    with pytest.raises(HTTPError) as caught:
        server.ask(f"/v2/models/{model}/infer", body)
    assert re.search(reason, caught.value.read().decode())
