"""Data nodes: what a dataset must be like, and how samples come from it."""

from __future__ import annotations

from backend.catalogue.parameter import Parameter, Parameters, boolean, choice, integer, integers, number
from backend.catalogue.record import (
    MAX_IDS,
    Category,
    CountRule,
    Counts,
    DatasetType,
    LabelsType,
    NodeType,
    Port,
    PortKind,
    PortType,
    Rule,
    TensorType,
    described,
    elements,
)
from backend.errors import SetParameter, ShapeMismatchError

DATASET = Port("dataset", PortKind.DATASET)
FRACTION_SLACK = 1e-6


def _dataset(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    labels = LabelsType(given["target_shape"], given["classes"])
    return (DatasetType(TensorType(given["sample_shape"], given["vocabulary"]), labels),)


def _split(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    total = given["train"] + given["validation"] + given["test"]
    if abs(total - 1.0) > FRACTION_SLACK:
        rest = round(1.0 - given["validation"] - given["test"], 9)
        remedies = (
            [SetParameter("train", rest)]
            if rest >= 0.01
            else [
                SetParameter(name, value)
                for name, value in (("train", 0.8), ("validation", 0.1), ("test", 0.1))
            ]
        )
        raise ShapeMismatchError(f"train, validation and test add up to {total:g}, must be 1", *remedies)
    return types


def _dataset_of(types: tuple[PortType, ...]) -> DatasetType:
    return next(found for found in types if isinstance(found, DatasetType))


def _normalize(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    samples = _dataset_of(types).samples
    if samples.ids and given["method"] != "none":
        raise ShapeMismatchError(
            f"takes real numbers, the samples are ids below {samples.ids}", SetParameter("method", "none")
        )
    return types


def _augment(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    samples = _dataset_of(types).samples
    if samples.ids:
        raise ShapeMismatchError(f"takes real numbers, the samples are ids below {samples.ids}")
    changes_images = [name for name in IMAGE_CHANGES if given[name]]
    if len(samples.shape) != 3 and changes_images:
        raise ShapeMismatchError(
            f"{', '.join(changes_images)} change images (channels, height, width), the samples are "
            f"{described(samples.shape)}",
            *(SetParameter(name, 0.0) for name in changes_images),
        )
    return types


def _one_hot(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    dataset = _dataset_of(types)
    samples, labels = dataset.samples, dataset.labels
    if given["of"] == "labels":
        if not labels.classes:
            raise ShapeMismatchError("takes classes, the labels are real numbers")
        return (DatasetType(samples, LabelsType((*labels.shape, labels.classes))),)
    if not samples.ids:
        raise ShapeMismatchError("takes ids, the samples are real numbers")
    return (DatasetType(TensorType((*samples.shape, samples.ids)), labels),)


def _tokenize(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    dataset = _dataset_of(types)
    shape = dataset.samples.shape
    if dataset.samples.ids or len(shape) != 1:
        raise ShapeMismatchError(
            "takes texts as rows of bytes (length), the samples are "
            + (f"ids below {dataset.samples.ids}" if dataset.samples.ids else described(shape))
        )
    return (DatasetType(TensorType((given["length"] or shape[0],), BYTES), dataset.labels),)


def _load(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    match types:
        case (DatasetType(samples, labels),):
            return (samples, labels)
        case _:
            return ()


def _nothing(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


def _normalize_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts(flops=2 * elements(_dataset_of(types).samples.shape) if given["method"] != "none" else 0)


def _passing(
    name: str,
    help: str,
    rule: Rule,
    parameters: tuple[Parameter, ...],
    *keywords: str,
    shape_rule: str = "samples and labels as they were",
    count: CountRule = _nothing,
) -> NodeType:
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
        shape_rule=shape_rule,
    )


IMAGE_CHANGES = ("flip_horizontal", "flip_vertical", "shift", "rotate", "zoom", "erase")
BYTES = 256

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
            integers("target_shape", (), "Shape of a label, such as one for each step; empty: one number"),
            integer("vocabulary", 0, "Above 0: samples are ids below it, such as tokens", 0, MAX_IDS),
        ),
        _dataset,
        _nothing,
        keywords=("data", "file", "source"),
        shape_rule="samples shaped sample_shape, labels shaped target_shape",
    ),
    _passing(
        "DataSplit",
        "Sets samples aside for validation and test.",
        _split,
        (
            number("train", 0.8, "Share to learn from", 0.01, 1.0),
            number("validation", 0.1, "Share to watch while training", 0.0, 0.9),
            number("test", 0.1, "Share for the final score", 0.0, 0.9),
            integer("seed", 0, "Of the shuffle before the split", 0, 2**31 - 1),
            boolean("stratified", True, "Keeps the shares of the classes in each part"),
            boolean(
                "in_order",
                False,
                "The first samples to learn from, the next to watch, the last for the score: for what "
                "follows in time",
            ),
        ),
        "train",
        "validation",
        "test",
    ),
    _passing(
        "Normalize",
        "Brings samples to a common range; what it measures, it measures on the training share alone.",
        _normalize,
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
        count=_normalize_count,
    ),
    _passing(
        "Augmentation",
        "Changes samples at random while training, so that a model learns what does not matter.",
        _augment,
        (
            number("flip_horizontal", 0.0, "Share of images that are mirrored left to right", 0.0, 1.0),
            number("flip_vertical", 0.0, "Share of images that are mirrored top to bottom", 0.0, 1.0),
            number("shift", 0.0, "Moves images by up to this share of their extent", 0.0, 1.0),
            number("rotate", 0.0, "Turns images by up to so many degrees", 0.0, 180.0),
            number("zoom", 0.0, "Makes images up to this share larger or smaller", 0.0, 0.9),
            number("erase", 0.0, "Side of a square that is set to 0, as a share of the extent", 0.0, 1.0),
            number("brightness", 0.0, "Adds up to so much to all of a sample", 0.0, 100.0),
            number("contrast", 0.0, "Multiplies a sample by up to 1 plus or minus this", 0.0, 1.0),
            number("noise", 0.0, "Deviation of random numbers that are added", 0.0, 100.0),
        ),
        "augment",
        "flip",
        "crop",
        "rotate",
        "overfitting",
    ),
    _passing(
        "OneHotEncode",
        "A number becomes a row of zeros with a 1 at its place.",
        _one_hot,
        (choice("of", "labels", "What is encoded", ("labels", "samples")),),
        "one hot",
        "categorical",
        "dummy",
        shape_rule="labels of c classes become c real numbers; samples of ids below v get an axis of v",
    ),
    _passing(
        "Tokenize",
        "Texts, as rows of bytes in UTF-8, become ids of tokens: one for each byte.",
        _tokenize,
        (
            integer("length", None, "Texts are cut or padded with 0 to so many; null: as they are"),
            boolean("lowercase", False, "A to Z become a to z"),
        ),
        "text",
        "bytes",
        "token",
        "characters",
        shape_rule="(bytes) gives ids below 256 shaped (length)",
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
        shape_rule="samples and labels of the dataset, one by one",
    ),
)
