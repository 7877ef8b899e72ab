"""Data nodes: what a dataset must be like, and how samples come from it."""

from __future__ import annotations

from backend.catalogue.record import (
    Category,
    Counts,
    DatasetType,
    LabelsType,
    NodeType,
    Parameter,
    Parameters,
    Port,
    PortKind,
    PortType,
    TensorType,
    boolean,
    choice,
    elements,
    integer,
    integers,
    number,
)
from backend.errors import ShapeMismatchError

DATASET = Port("dataset", PortKind.DATASET)
FRACTION_SLACK = 1e-6


def _dataset(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    if given["classes"] and given["target_shape"]:
        raise ShapeMismatchError("has both classes and target_shape: labels are either classes or numbers")
    labels = LabelsType(given["target_shape"], given["classes"])
    return (DatasetType(TensorType(given["sample_shape"]), labels),)


def _pass_on(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    return types


def _split(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    total = given["train"] + given["validation"] + given["test"]
    if abs(total - 1.0) > FRACTION_SLACK:
        raise ShapeMismatchError(f"train, validation and test add up to {total:g}, must be 1")
    return types


def _load(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    match types:
        case (DatasetType(samples, labels),):
            return (samples, labels)
        case _:
            return ()


def _nothing(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


def _normalize_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    samples = [found.samples.shape for found in types if isinstance(found, DatasetType)]
    return Counts(flops=2 * sum(map(elements, samples)) if given["method"] != "none" else 0)


def _passing(name: str, help: str, parameters: tuple[Parameter, ...], *keywords: str) -> NodeType:
    rule = _split if name == "DataSplit" else _pass_on
    count = _normalize_count if name == "Normalize" else _nothing
    return NodeType(
        name,
        Category.DATA,
        help,
        (DATASET,),
        (DATASET,),
        parameters,
        rule,
        count,
        keywords=("data", *keywords),
    )


TYPES = (
    NodeType(
        "DatasetInput",
        Category.DATA,
        "The dataset: what one sample and its label are like.",
        (),
        (DATASET,),
        (
            integers("sample_shape", (1,), "Shape of one sample"),
            integer("classes", 0, "Number of classes; 0: labels are real numbers", 0, 1 << 20),
            integers("target_shape", (), "Shape of a label of real numbers; empty: one number"),
        ),
        _dataset,
        _nothing,
        keywords=("data", "file", "source"),
    ),
    _passing(
        "DataSplit",
        "Sets samples aside for validation and test.",
        (
            number("train", 0.8, "Share to learn from", 0.01, 1.0),
            number("validation", 0.1, "Share to watch while training", 0.0, 0.9),
            number("test", 0.1, "Share for the final score", 0.0, 0.9),
            integer("seed", 0, "Of the shuffle before the split", 0, 2**31 - 1),
            boolean("stratified", True, "Keeps the shares of the classes in each part"),
        ),
        "train",
        "validation",
        "test",
    ),
    _passing(
        "Normalize",
        "Brings samples to a common range; what it measures, it measures on the training share alone.",
        (
            choice(
                "method",
                "mean_std",
                "mean_std: mean 0, deviation 1. scale: range 0 to 1",
                ("mean_std", "scale", "none"),
            ),
        ),
        "standardize",
        "scale",
    ),
    NodeType(
        "DataLoader",
        Category.DATA,
        "Hands out samples in batches.",
        (DATASET,),
        (Port("samples", PortKind.TENSOR), Port("labels", PortKind.LABELS)),
        (
            integer("batch_size", 32, "Samples in a batch", 1, 1 << 20),
            boolean("shuffle", True, "Another order in every epoch"),
            boolean("drop_last", False, "Leaves out a last batch that is not full"),
        ),
        _load,
        _nothing,
        keywords=("data", "batch"),
    ),
)
