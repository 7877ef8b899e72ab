"""What a trained model takes and what its answers mean, read from its graph and notes. Pure.

This is what a server needs to offer more than arrays: see ``backend.raw_inputs`` for the way in and
``backend.answers`` for the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from backend.catalogue.record import TensorType
from backend.errors import GraphInvalidError
from backend.facts import DataNotes
from backend.graph import Graph, model_nodes
from backend.pipeline import LossTerm, Pipeline, read_pipeline
from backend.shapes import Shapes, infer_shapes, nodes_of_type
from backend.validate import diagnose, has_errors

SCORES = {
    "CrossEntropyLoss": "scores",
    "NLLLoss": "logarithms",
    "BCELoss": "probability",
    "BCEWithLogits": "score",
}
"""What an output that such a loss judges holds; of any other, plain values."""


@dataclass(frozen=True, slots=True)
class InputForm:
    name: str
    """As the runtime calls it: ``input`` where there is only one."""
    shape: tuple[int, ...]
    """Of one sample."""
    ids: int
    """Above 0: whole numbers below it."""


@dataclass(frozen=True, slots=True)
class OutputForm:
    name: str
    """As the runtime calls it: ``output`` where there is only one."""
    shape: tuple[int, ...]
    holds: str
    """scores, logarithms (of probabilities; both one for each class along ``class_axis``), probability,
    score (both of yes), or values."""
    class_axis: int
    """In the array with its batch."""


@dataclass(frozen=True, slots=True)
class ModelForm:
    """``kind`` is one of ``facts.KINDS``: what a caller may send instead of arrays; "" for arrays alone."""

    kind: str
    inputs: tuple[InputForm, ...]
    outputs: tuple[OutputForm, ...]
    notes: DataNotes
    takes_bytes: bool
    """A text enters as its bytes in UTF-8, not as tokens of the notes' tokenizer."""

    @property
    def continues_text(self) -> bool:
        """Gives scores of the next token at each place of its input: a language model."""
        return (
            self.kind == "text"
            and len(self.inputs) == 1
            and self.outputs[0].holds in ("scores", "logarithms")
            and self.outputs[0].shape[:-1] == self.inputs[0].shape
        )


_Ends = Sequence[tuple[str, tuple[int, ...], str]]
FORM_KEY = "cyxwiz.form"
"""In the metadata of a file that has no graph; the notes stand beside it."""
_HELD = ("values", *SCORES.values())
_MAX_FORM_CHARACTERS = 1 << 16


def encode_form(form: ModelForm) -> str:
    """Without the notes."""
    return msgspec.json.encode(replace(form, notes=DataNotes())).decode()


def decode_form(text: str, notes: DataNotes, inputs: _Ends, outputs: _Ends) -> ModelForm | None:
    """What a stranger's file says of itself, if it fits what its model takes and gives: names, shapes with
    the batch (-1 where any size will do) and data types. None otherwise."""
    try:
        form = msgspec.json.decode(text[:_MAX_FORM_CHARACTERS], type=ModelForm)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if len(form.inputs) != len(inputs) or len(form.outputs) != len(outputs) or not (inputs and outputs):
        return None
    taken = all(
        shape[1:] == end.shape and end.ids >= 0 and dtype == ("int64" if end.ids else "float32")
        for end, (_, shape, dtype) in zip(form.inputs, inputs, strict=True)
    )
    given = all(
        len(shape) == 1 + len(end.shape)
        and all(size in (-1, known) for size, known in zip(shape[1:], end.shape, strict=True))
        and end.holds in _HELD
        and -len(shape) < end.class_axis < len(shape)
        and dtype.startswith("float")
        for end, (_, shape, dtype) in zip(form.outputs, outputs, strict=True)
    )
    if not taken or not given or form.kind != ("text" if form.takes_bytes else notes.kind):
        return None
    if form.kind and (len(inputs) != 1 or (form.kind == "image" and len(form.inputs[0].shape) != 3)):
        return None
    return replace(
        form,
        notes=notes,
        inputs=tuple(replace(end, name=name) for end, (name, _, _) in zip(form.inputs, inputs, strict=True)),
        outputs=tuple(
            replace(end, name=name) for end, (name, _, _) in zip(form.outputs, outputs, strict=True)
        ),
    )


def read_form(graph: Graph, notes: DataNotes) -> ModelForm:
    """Raises GraphInvalidError for a graph without inputs or outputs of known shape."""
    shapes = infer_shapes(graph)
    pipeline = None if has_errors(diagnose(graph)) else read_pipeline(graph)
    inputs = _inputs(graph, shapes, pipeline)
    outputs = _outputs(graph, shapes, pipeline.losses if pipeline else ())
    if not inputs or not outputs:
        raise GraphInvalidError(("no input or no output whose shape is known",))
    takes_bytes = pipeline is not None and any(change.type == "Tokenize" for change in pipeline.changes)
    kind = "text" if takes_bytes else notes.kind
    if len(inputs) != 1 or (kind == "image" and len(inputs[0].shape) != 3):
        kind = ""
    return ModelForm(kind, inputs, outputs, notes, takes_bytes)


def _inputs(graph: Graph, shapes: Shapes, pipeline: Pipeline | None) -> tuple[InputForm, ...]:
    """As ``runtime.torch_runtime.what_enters``: samples where training normalized or encoded them."""
    if pipeline is not None and (
        pipeline.normalization != "none" or any(c.type != "Augmentation" for c in pipeline.changes)
    ):
        return (InputForm("input", pipeline.sample_shape, pipeline.vocabulary),)
    found = _ends(graph, shapes, "Input")
    return tuple(
        InputForm("input" if len(found) == 1 else name, end.shape, end.ids) for name, end in found.items()
    )


def _outputs(graph: Graph, shapes: Shapes, losses: tuple[LossTerm, ...]) -> tuple[OutputForm, ...]:
    judged = {name: term for term in reversed(losses) for name in term.predictions}
    found = _ends(graph, shapes, "Output")
    forms = []
    for name, end in found.items():
        term = judged.get(name)
        holds = SCORES.get(term.setting.type, "values") if term else "values"
        axis = term.setting.parameters.get("class_axis", -1) if term else -1
        forms.append(
            OutputForm(
                "output" if len(found) == 1 else name, end.shape, holds, axis + 1 if axis >= 0 else axis
            )
        )
    return tuple(forms)


def _ends(graph: Graph, shapes: Shapes, kind: str) -> dict[str, TensorType]:
    used = {node.id for node in model_nodes(graph)}
    ends = {node.id: shapes.output(node.id) for node in nodes_of_type(graph, kind) if node.id in used}
    return {name: end for name, end in ends.items() if isinstance(end, TensorType)}
