"""What training makes smaller: the weighted losses of a graph, and the penalties on its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from backend.catalogue.record import LabelsType, PortType, TensorType
from backend.compiler import CompiledModel, module_name
from backend.graph import Graph
from backend.losses import Judged, LossFunction, build_loss, check_targets, has_classes, judge
from backend.pipeline import LossTerm, PenaltyTerm, Pipeline
from backend.shapes import infer_shapes, parameters_of

Tensors = tuple[torch.Tensor, ...]


class Task(Enum):
    """What a loss compares, which decides how its predictions are judged."""

    CLASSES = "classes"
    TOKENS = "tokens"
    """Classes that are tokens of a text."""
    YES_OR_NO = "yes or no"
    """One number for each label."""
    NUMBERS = "numbers"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Head:
    """One loss of a graph over outputs of its model."""

    term: LossTerm
    task: Task
    function: LossFunction
    places: tuple[int, ...]
    """Which outputs of the model it takes."""
    classes: int
    """0 where the targets are real numbers."""

    @property
    def weight(self) -> float:
        weight: float = self.term.setting.parameters["weight"]
        return weight

    def loss(self, predictions: Tensors, target: torch.Tensor) -> torch.Tensor:
        """Without its weight."""
        return self.function(*(predictions[place] for place in self.places), target)


class Objective:
    """The losses of a graph over the outputs of its model."""

    def __init__(self, compiled: CompiledModel, losses: tuple[LossTerm, ...]) -> None:
        shapes = infer_shapes(compiled.graph)
        tokens = _vocabulary(compiled.graph)
        place = {name: index for index, name in enumerate(compiled.output_names)}
        found = []
        for term in losses:
            target = shapes.output(term.target.node_id, term.target.port)
            places = tuple(place[name] for name in term.predictions)
            task = _task(term.setting.type, target, tokens)
            found.append(Head(term, task, build_loss(term.setting), places, _classes(term, target)))
        self.heads = tuple(found)
        judged = [i for i, head in enumerate(found) if has_classes(head.term.setting, head.classes)]
        self._judged = judged[0] if judged else None

    @property
    def counts_correct(self) -> bool:
        """Whether there are classes to be right about; the first loss that has some is judged."""
        return self._judged is not None

    def check_targets(self, targets: Tensors) -> None:
        """Raises DatasetError for targets that a loss cannot compare with."""
        for head, target in zip(self.heads, targets, strict=True):
            check_targets(head.term.setting, target)

    def losses(self, predictions: Tensors, targets: Tensors) -> list[torch.Tensor]:
        """Of each head, without its weight."""
        pairs = zip(self.heads, targets, strict=True)
        return [head.loss(predictions, target) for head, target in pairs]

    def weighted(self, losses: list[torch.Tensor]) -> torch.Tensor:
        """The sum, by their weights."""
        parts = [
            loss * head.weight if head.weight != 1.0 else loss
            for head, loss in zip(self.heads, losses, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def loss(self, predictions: Tensors, targets: Tensors) -> torch.Tensor:
        """The weighted sum of all losses."""
        return self.weighted(self.losses(predictions, targets))

    def judge(self, predictions: Tensors, targets: Tensors) -> Judged | None:
        if self._judged is None:
            return None
        head = self.heads[self._judged]
        return judge(head.term.setting, predictions[head.places[0]].detach(), targets[self._judged])


_TASKS = {
    "CrossEntropyLoss": Task.CLASSES,
    "NLLLoss": Task.CLASSES,
    "BCELoss": Task.YES_OR_NO,
    "BCEWithLogits": Task.YES_OR_NO,
    "MSELoss": Task.NUMBERS,
    "L1Loss": Task.NUMBERS,
    "SmoothL1Loss": Task.NUMBERS,
    "HuberLoss": Task.NUMBERS,
}


def _task(loss: str, target: PortType | None, vocabulary: int) -> Task:
    """``vocabulary``: of the tokens that samples are made of; 0 for other samples."""
    task = _TASKS.get(loss, Task.OTHER)
    match target:
        # Samples that are ids and come back as targets are the tokens that follow.
        case TensorType(_, ids):
            is_text = ids > 0
        case LabelsType(shape, classes):
            is_text = bool(shape) and 0 < classes == vocabulary
        case _:
            is_text = False
    return Task.TOKENS if task is Task.CLASSES and is_text else task


def _vocabulary(graph: Graph) -> int:
    for node in graph.nodes:
        if node.type == "DatasetInput":
            vocabulary: int = parameters_of(node)["vocabulary"]
            return vocabulary
    return 0


def _classes(term: LossTerm, target: PortType | None) -> int:
    """0 for real numbers."""
    match target:
        case LabelsType(_, count) | TensorType(_, count):
            return count or int(term.setting.parameters.get("classes", 0))
        case _:
            return 0


class Penalties:
    """What large weights cost, and the limit of gradients."""

    def __init__(self, module: torch.nn.Module, pipeline: Pipeline) -> None:
        weights = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._terms = [
            (_strengths(term), _weights_of(term, weights))
            for term in pipeline.penalties
            if any(_strengths(term))
        ]
        self._clip = pipeline.clip.parameters if pipeline.clip else None
        self._all = list(weights.values())

    def add_to(self, loss: torch.Tensor) -> torch.Tensor:
        for (l1, l2), weights in self._terms:
            for weight in weights:
                if l1:
                    loss = loss + l1 * weight.abs().sum()
                if l2:
                    loss = loss + l2 * weight.square().sum()
        return loss

    def limit_gradients(self) -> None:
        if self._clip is None:
            return
        if self._clip["method"] == "norm":
            torch.nn.utils.clip_grad_norm_(self._all, self._clip["limit"])
        else:
            torch.nn.utils.clip_grad_value_(self._all, self._clip["limit"])


def _strengths(term: PenaltyTerm) -> tuple[float, float]:
    given = term.setting.parameters
    return given.get("l1", 0.0), given.get("l2", 0.0)


def _weights_of(term: PenaltyTerm, weights: Mapping[str, torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Those of the nodes that are linked; without any, all of the model that have two or more axes."""
    if not term.nodes:
        return [weight for weight in weights.values() if weight.ndim >= 2]
    names = {module_name(node_id) for node_id in term.nodes}
    return [weight for name, weight in weights.items() if name.partition(".")[0] in names]
