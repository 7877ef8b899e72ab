"""What people have goes into a model as training saw it, and comes out with names."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.answers import to_answers
from backend.datasets import load_dataset
from backend.errors import DeadlineError, InputError
from backend.facts import DataNotes
from backend.formats.cyxmodel import read_cyxmodel, write_cyxmodel
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.model_form import ModelForm, read_form
from backend.pipeline import read_pipeline
from backend.raw_inputs import to_arrays
from backend.readers import ReadOptions, convert
from backend.readers.source import Missing
from backend.runtime.deadlines import running_until
from backend.runtime.torch_runtime import load_cyxmodel
from backend.samples import LocalSamples
from backend.serialize import dump_graph, load_graph
from backend.training import Trainer, TrainingConfig
from backend.validate import diagnose

TABLE = "size,colour,price\n1,red,cheap\n2.5,blue,dear\n,red,dear\n7,,cheap\n"


def network(
    data: dict[str, Any], *layers: tuple[str, dict[str, Any]], loss: str = "CrossEntropyLoss", **of_loss: Any
) -> Graph:
    """Data, layers in a row, a loss and SGD."""
    nodes = [
        Node("data", "DatasetInput", 1, data),
        Node("loader", "DataLoader", 1, {"batch_size": 2}),
        Node("x", "Input"),
        *(Node(f"layer{at}", name, 1, given) for at, (name, given) in enumerate(layers)),
        Node("y", "Output"),
    ]
    chain = [Link(a.id, "output", b.id, "input") for a, b in pairwise(nodes[2:])]
    links = (
        Link("data", "dataset", "loader", "dataset"),
        Link("loader", "samples", "x", "input"),
        *chain,
        Link("y", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "sgd", "loss"),
    )
    ends = (Node("loss", loss, 1, of_loss), Node("sgd", "SGD"))
    found = Graph("answers", (*nodes, *ends), links, TrainingSettings(1, 1))
    assert [str(each) for each in diagnose(found)] == []
    return found


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, ModelForm]:
    (tmp_path / "t.csv").write_text(TABLE)
    convert(tmp_path / "t.csv", tmp_path / "t.safetensors", ReadOptions(missing=Missing.FILL))
    notes = load_dataset(tmp_path / "t.safetensors").notes
    graph = network({"sample_shape": [4], "classes": 2}, ("Dense", {"units": 2}))
    return tmp_path / "t.safetensors", read_form(graph, notes)


def test_rows_of_a_table_enter_as_training_read_them(table: tuple[Path, ModelForm]) -> None:
    path, form = table
    rows = [
        {"size": 1, "colour": "red"},
        {"size": "2.5", "colour": "blue"},
        {"colour": "red"},
        {"size": 7, "colour": math.nan},
    ]
    assert np.array_equal(to_arrays(form, rows).arrays["input"], load_dataset(path).x)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"size": 1, "colour": "green"}, r"item 1: column 'colour' is 'green', allowed are blue, red"),
        ({"size": "big", "colour": "red"}, "column 'size' is 'big', expected a number"),
        ({"size": 1e999, "colour": "red"}, "finite"),
        ({"size": 1, "colour": "red", "weight": 3}, "no column 'weight', there are size, colour"),
        ([1, 2], r"shaped \(2,\), allowed is \(4,\)"),
        ("text", "no array of numbers"),
        ([1, 0, 0, math.inf], "NaN, infinity"),
        ([1, 0, 0, 1e300], "a number that float32 cannot hold"),
    ],
)
def test_a_row_that_fits_no_training_row_is_refused(
    table: tuple[Path, ModelForm], row: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        to_arrays(table[1], [row])


def test_items_that_nobody_waits_for_any_more_are_left(table: tuple[Path, ModelForm]) -> None:
    with running_until(time.monotonic() - 1), pytest.raises(DeadlineError):
        to_arrays(table[1], [[1, 0, 0, 1]])


def test_a_long_text_among_numbers_costs_no_more_than_its_length(table: tuple[Path, ModelForm]) -> None:
    """numpy would make every number a text as long as it: 40 GB."""
    with pytest.raises(InputError, match="no array of numbers"):
        to_arrays(table[1], [["x" * 100_000, *range(100_000)]])


@pytest.mark.parametrize("word", ["", "?", "NA", "None", " - "])
def test_words_for_a_missing_value_enter_as_training_read_them(
    table: tuple[Path, ModelForm], word: str
) -> None:
    path, form = table
    rows = [{"size": word, "colour": "red"}, {"size": 7, "colour": word}]
    assert np.array_equal(to_arrays(form, rows).arrays["input"], load_dataset(path).x[2:])


def test_a_missing_number_is_refused_where_training_filled_none() -> None:
    graph = network({"sample_shape": [2], "classes": 2}, ("Dense", {"units": 2}))
    form = read_form(graph, DataNotes(input_names=("a=b", "c"), kind="table"))
    assert to_arrays(form, [{"a=b": 3, "c": 4}]).arrays["input"].tolist() == [[3, 4]]
    with pytest.raises(InputError, match="column 'c' is missing"):
        to_arrays(form, [{"a=b": 3}])


def test_a_refused_word_for_a_missing_text_is_quoted_as_it_came() -> None:
    graph = network({"sample_shape": [2], "classes": 2}, ("Dense", {"units": 2}))
    form = read_form(graph, DataNotes(input_names=("colour=blue", "colour=red"), kind="table"))
    with pytest.raises(InputError, match="column 'colour' is 'n/a', allowed are blue, red"):
        to_arrays(form, [{"colour": "n/a"}])


def test_an_image_file_enters_as_its_pixels_in_training(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = random.randint(0, 256, (9, 7, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "a.png")
    convert(tmp_path / "images", tmp_path / "d", ReadOptions(image_size=(6, 5)))
    dataset = load_dataset(tmp_path / "d")
    graph = network({"sample_shape": [3, 6, 5], "classes": 2}, ("Flatten", {}), ("Dense", {"units": 2}))
    form = read_form(graph, dataset.notes)
    files = [(tmp_path / "images" / name / "a.png").read_bytes() for name in ("cat", "dog")]
    assert np.array_equal(to_arrays(form, files).arrays["input"], dataset.x)
    assert np.array_equal(to_arrays(form, [dataset.x[0].transpose(1, 2, 0)]).arrays["input"][0], dataset.x[0])
    with pytest.raises(InputError, match="item 1: image is no image that can be read"):
        to_arrays(form, [b"\x89PNG" + files[0][4:40]])
    (answer,) = to_answers(form, {"output": np.array([[0.0, math.log(3)]])}, top=2)
    assert (answer["class"], answer["name"], len(answer["top"])) == (1, "dog", 2)
    assert answer["probability"] == pytest.approx(0.75)


def test_a_text_enters_as_its_tokens_in_training(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("words,label\nthe cat sat,good\na bad dog barks,bad\n")
    convert(tmp_path / "t.csv", tmp_path / "d", ReadOptions(text="words", length=6, vocabulary=300))
    dataset = load_dataset(tmp_path / "d")
    embed = ("Embedding", {"vocabulary": 300, "dimension": 4})
    data = {"sample_shape": [6], "classes": 2, "vocabulary": 300}
    form = read_form(network(data, embed, ("Flatten", {}), ("Dense", {"units": 2})), dataset.notes)
    assert form.kind == "text"
    ready = to_arrays(form, ["the cat sat", "a bad dog barks"])
    assert np.array_equal(ready.arrays["input"], dataset.x)
    with pytest.raises(InputError, match="text of 0 characters"):
        to_arrays(form, [""])


def test_a_language_model_tells_the_next_token_of_each_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 20)
    convert(tmp_path / "t.txt", tmp_path / "d", ReadOptions(length=4, vocabulary=280))
    notes = load_dataset(tmp_path / "d").notes
    data = {"sample_shape": [4], "classes": 280, "vocabulary": 280, "target_shape": [4]}
    layers = (("Embedding", {"vocabulary": 280, "dimension": 4}), ("TokenHead", {"vocabulary": 280}))
    form = read_form(network(data, *layers), notes)
    assert form.continues_text
    ready = to_arrays(form, ["the", "the cat sat on the mat"])
    assert ready.lengths[1] == 4
    scores = np.zeros((2, 4, 280))
    scores[0, ready.lengths[0] - 1, 40] = scores[1, 3, 41] = 9
    first, second = to_answers(form, {"output": scores}, ready.lengths, top=1)
    assert (first["next"][0]["token"], second["next"][0]["token"]) == (40, 41)
    assert isinstance(first["next"][0]["text"], str)


@pytest.mark.parametrize("ids", [[1, 2.5], [-1, 2], [1, 9]])
def test_what_is_no_id_of_the_model_is_refused(ids: list[float]) -> None:
    data = {"sample_shape": [2], "vocabulary": 9, "classes": 2}
    layers = (("Embedding", {"vocabulary": 9}), ("Flatten", {}), ("Dense", {"units": 2}))
    form = read_form(network(data, *layers), DataNotes())
    with pytest.raises(InputError, match="whole numbers from 0 to 8"):
        to_arrays(form, [ids])
    assert to_arrays(form, [[1, 8]]).arrays["input"].tolist() == [[1, 8]]


def test_numbers_yes_or_no_and_places_come_with_their_names() -> None:
    dense = ("Dense", {"units": 2})
    form = read_form(
        network({"sample_shape": [3], "target_shape": [2]}, dense, loss="MSELoss"),
        DataNotes(target_names=("price", "age")),
    )
    assert to_answers(form, {"output": np.array([[1.5, 2.0]])}) == [{"values": {"price": 1.5, "age": 2.0}}]
    graph = network({"sample_shape": [3], "classes": 2}, ("Dense", {"units": 1}), loss="BCEWithLogits")
    form = read_form(graph, DataNotes(class_names=("no", "yes")))
    (answer,) = to_answers(form, {"output": np.array([[1000.0]])})
    assert answer == {"probability": 1.0, "class": 1, "name": "yes"}
    convolution = ("Conv2D", {"filters": 2, "padding": "same"})
    data = {"sample_shape": [1, 2, 2], "classes": 2, "target_shape": [2, 2]}
    form = read_form(network(data, convolution, class_axis=0), DataNotes())
    scores = np.zeros((1, 2, 2, 2))
    scores[0, 1, 0, 1] = 5
    assert to_answers(form, {"output": scores}) == [{"classes": [[0, 1], [0, 0]], "names": ["0", "1"]}]


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def test_a_training_saves_the_notes_of_its_data_with_the_model(
    table: tuple[Path, ModelForm], tmp_path: Path
) -> None:
    path, _ = table
    graph = network({"sample_shape": [4], "classes": 2}, ("Dense", {"units": 2}))
    dataset = load_dataset(path)
    samples = LocalSamples(dataset, read_pipeline(graph))
    trainer = Trainer(dump_graph(graph), samples, TrainingConfig("cpu", 1, 1e9, time.monotonic))
    trainer.run_segment(0, Unhindered(), lambda metrics: None)
    trainer.finish()
    write_cyxmodel(tmp_path / "m.cyxmodel", trainer.result())
    model = read_cyxmodel(tmp_path / "m.cyxmodel")
    assert model.notes == dataset.notes
    form = read_form(load_graph(model.graph), model.notes)
    ready = to_arrays(form, [{"size": 1, "colour": "red"}])
    answers = to_answers(form, load_cyxmodel(tmp_path / "m.cyxmodel", "cpu").run(ready.arrays))
    assert answers[0]["name"] in ("cheap", "dear")
