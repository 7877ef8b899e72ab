"""What training makes smaller: the weighted losses of a graph, and the penalties on its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from backend.catalogue.record import LabelsType, PortType, TensorType
from backend.compiler import CompiledModel, module_name
from backend.losses import Judged, build_loss, has_classes, judge
from backend.pipeline import LossTerm, PenaltyTerm, Pipeline
from backend.shapes import infer_shapes

Tensors = tuple[torch.Tensor, ...]


class Objective:
    """The losses of a graph over the outputs of its model."""

    def __init__(self, compiled: CompiledModel, losses: tuple[LossTerm, ...]) -> None:
        shapes = infer_shapes(compiled.graph)
        classes = [_classes(shapes.output(term.target.node_id, term.target.port)) for term in losses]
        place = {name: index for index, name in enumerate(compiled.output_names)}
        self._terms = [
            (
                build_loss(term.setting),
                term.setting.parameters["weight"],
                [place[n] for n in term.predictions],
            )
            for term in losses
        ]
        judged = [i for i, term in enumerate(losses) if has_classes(term.setting, classes[i])]
        self._judged = judged[0] if judged else None
        self._settings = [term.setting for term in losses]

    @property
    def counts_correct(self) -> bool:
        """Whether there are classes to be right about; the first loss that has some is judged."""
        return self._judged is not None

    def loss(self, predictions: Tensors, targets: Tensors) -> torch.Tensor:
        """The weighted sum of all losses."""
        parts = [
            function(*(predictions[i] for i in places), target) * weight
            if weight != 1.0
            else function(*(predictions[i] for i in places), target)
            for (function, weight, places), target in zip(self._terms, targets, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def judge(self, predictions: Tensors, targets: Tensors) -> Judged | None:
        if self._judged is None:
            return None
        place = self._terms[self._judged][2][0]
        return judge(self._settings[self._judged], predictions[place].detach(), targets[self._judged])


def _classes(target: PortType | None) -> int:
    """0 for real numbers."""
    match target:
        case LabelsType(_, count) | TensorType(_, count):
            return count
        case _:
            return 0


class Penalties:
    """What large weights cost, and the limit of gradients."""

    def __init__(self, module: torch.nn.Module, pipeline: Pipeline) -> None:
        weights = dict(module.named_parameters())
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
