"""Losses, penalties, optimizer and schedules of a graph as functions of a training script. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from backend.catalogue.record import LabelsType, Shape
from backend.pipeline import LossTerm, PenaltyTerm, Pipeline, Setting
from backend.pytorch_code.sheet import Sheet
from backend.pytorch_code.text import Code, call, literal, unless
from backend.shapes import Shapes

LossWriter: TypeAlias = Callable[[Mapping[str, Any], list[Code], Code, Shape], Code]
"""Parameters, predictions, target and the shape of the first prediction, to the mean over the batch."""

# -- losses --------------------------------------------------------------------------------------


def write_loss(pipeline: Pipeline, shapes: Shapes, outputs: list[str]) -> list[str]:
    """``loss_of(predictions, targets)``, and ``judge`` where there are classes to be right about."""
    lines = ["def loss_of(predictions: Tensors, targets: Tensors) -> torch.Tensor:"]
    total = []
    for number, term in enumerate(pipeline.losses):
        places = [Code(f"predictions[{outputs.index(name)}]") for name in term.predictions]
        shape = shapes.shape(term.predictions[0]) or ()
        text = LOSSES[term.setting.type](term.setting.parameters, places, Code(f"targets[{number}]"), shape)
        weight = term.setting.parameters["weight"]
        total.append(f"{text} * {weight!r}" if weight != 1.0 else text)
    lines += [f"    loss = {total[0]}", *(f"    loss = loss + {text}" for text in total[1:])]
    lines += ["    return loss", "", "", *_judge(pipeline, shapes, outputs)]
    return lines


def balanced_without(pipeline: Pipeline) -> tuple[int | None, ...]:
    """The ignored classes of the losses that balance, each once: keys of CLASS_WEIGHTS."""
    given = [term.setting.parameters for term in pipeline.losses]
    return tuple(dict.fromkeys(each["ignored_class"] for each in given if each.get("balance")))


def _classes(parameters: Mapping[str, Any], target: Code, shape: Shape, scores: Code) -> tuple[Code, Code]:
    """(places, classes) and (places)."""
    if len(shape) == 1:
        return scores, target
    axis = parameters["class_axis"]
    moved = f"{scores}.movedim({axis + 1 if axis >= 0 else axis}, -1).flatten(0, -2)"
    return Code(moved), Code(f"{target}.flatten()")


def _of_classes(function: str) -> LossWriter:
    def write(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
        scores, labels = _classes(given, target, shape, predictions[0])
        keywords: dict[str, Any] = {}
        if given["class_weights"]:
            keywords["weight"] = call(f"{predictions[0]}.new_tensor", given["class_weights"])
        if given["balance"]:
            scores_of = predictions[0]
            keywords["weight"] = Code(f"{scores_of}.new_tensor(CLASS_WEIGHTS[{given['ignored_class']!r}])")
        if given["ignored_class"] is not None:
            keywords["ignore_index"] = given["ignored_class"]
        if given.get("label_smoothing"):
            keywords["label_smoothing"] = given["label_smoothing"]
        return call(function, scores, labels, **keywords)

    return write


def _binary(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
    (found,) = predictions
    return call(
        "functional.binary_cross_entropy", found, Code(f"{target}.to({found}.dtype).view_as({found})")
    )


def _logits(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
    (found,) = predictions
    weight = given["positive_weight"]
    keywords = {"pos_weight": call(f"{found}.new_tensor", weight)} if weight != 1.0 else {}
    labels = Code(f"{target}.to({found}.dtype).view_as({found})")
    return call("functional.binary_cross_entropy_with_logits", found, labels, **keywords)


def _plain(function: str, **renamed: str) -> LossWriter:
    def write(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
        keywords = {name: given[parameter] for name, parameter in renamed.items()}
        return call(function, *predictions, target, **keywords)

    return write


def _divergence(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
    keywords = {"reduction": "batchmean", "log_target": given["log_target"]}
    return call("functional.kl_div", *predictions, target, **keywords)


def _similarity(given: Mapping[str, Any], predictions: list[Code], target: Code, shape: Shape) -> Code:
    sign = call("signs", Code(f"{target}.reshape(-1)"))
    return call("functional.cosine_embedding_loss", *predictions, sign, given["margin"])


LOSSES: Mapping[str, LossWriter] = MappingProxyType(
    {
        "CrossEntropyLoss": _of_classes("functional.cross_entropy"),
        "NLLLoss": _of_classes("functional.nll_loss"),
        "BCELoss": _binary,
        "BCEWithLogits": _logits,
        "MSELoss": _plain("functional.mse_loss"),
        "L1Loss": _plain("functional.l1_loss"),
        "SmoothL1Loss": _plain("functional.smooth_l1_loss", beta="beta"),
        "HuberLoss": _plain("functional.huber_loss", delta="delta"),
        "KLDivLoss": _divergence,
        "CosineEmbeddingLoss": _similarity,
    }
)
SIGNS = [
    "def signs(target: torch.Tensor) -> torch.Tensor:",
    '    """-1 and 1, also of class numbers 0 and 1."""',
    "    return target if target.is_floating_point() else 2 * target - 1",
]


def _judge(pipeline: Pipeline, shapes: Shapes, outputs: list[str]) -> list[str]:
    """How many of so many places got the right class, by the first loss that has classes."""
    lines = ["def judge(predictions: Tensors, targets: Tensors) -> tuple[int, int]:"]
    lines.append('    """How many classes were right, of how many."""')
    for number, term in enumerate(pipeline.losses):
        right = _right(
            term, shapes, f"predictions[{outputs.index(term.predictions[0])}]", f"targets[{number}]"
        )
        if right is not None:
            return [*lines, *right]
    return [*lines, "    return 0, 0"]


def _right(term: LossTerm, shapes: Shapes, found: str, target: str) -> list[str] | None:
    given, kind = term.setting.parameters, term.setting.type
    what = shapes.output(term.target.node_id, term.target.port)
    names = what.classes if isinstance(what, LabelsType) else getattr(what, "ids", 0)
    if kind in ("BCELoss", "BCEWithLogits") and names:
        threshold = 0.5 if kind == "BCELoss" else 0.0
        right = f"({found} > {threshold}).view_as({target}) == {target}.bool()"
        return [f"    return int(({right}).sum()), {target}.numel()"]
    if kind not in ("CrossEntropyLoss", "NLLLoss"):
        return None
    axis = given["class_axis"]
    shape = shapes.shape(term.predictions[0]) or ()
    place = 1 if len(shape) == 1 else axis + 1 if axis >= 0 else axis
    lines = [f"    right = {found}.argmax({place}) == {target}"]
    if given["ignored_class"] is None:
        return [*lines, f"    return int(right.sum()), {target}.numel()"]
    counted = f"{target} != {given['ignored_class']!r}"
    return [*lines, f"    counted = {counted}", "    return int((right & counted).sum()), int(counted.sum())"]


# -- penalties -----------------------------------------------------------------------------------


def write_penalties(pipeline: Pipeline, names: Mapping[str, str]) -> list[str]:
    """Lines in a training step, after the loss is known."""
    return [line for term in pipeline.penalties for line in _penalty(term, names)]


def _penalty(term: PenaltyTerm, names: Mapping[str, str]) -> list[str]:
    given = term.setting.parameters
    l1, l2 = given.get("l1", 0.0), given.get("l2", 0.0)
    parts = [f"    loss = loss + {l1!r} * weight.abs().sum()"] if l1 else []
    parts += [f"    loss = loss + {l2!r} * weight.square().sum()"] if l2 else []
    if not parts:
        return []
    which = "if weight.ndim >= 2"
    if term.nodes:
        inside = literal(tuple(names[node_id] for node_id in term.nodes))
        which = f'if name.partition(".")[0] in {inside}'
    listed = f"[weight for name, weight in model.named_parameters() {which}]"
    return [f"for weight in {listed}:", *parts]


def write_clip(pipeline: Pipeline) -> list[str]:
    if pipeline.clip is None:
        return []
    given = pipeline.clip.parameters
    function = "clip_grad_norm_" if given["method"] == "norm" else "clip_grad_value_"
    return [f"torch.nn.utils.{function}(list(model.parameters()), {given['limit']!r})"]


# -- optimizers ----------------------------------------------------------------------------------


def write_optimizer(setting: Setting, sheet: Sheet) -> Code:
    """Over the weights of ``model``."""
    given, weights = setting.parameters, Code("model.parameters()")
    rate, decay = given["learning_rate"], unless(weight_decay=(given["weight_decay"], 0.0))
    keywords: dict[str, Any] = {"lr": rate}
    match setting.type:
        case "SGD":
            keywords |= unless(momentum=(given["momentum"], 0.0), nesterov=(given["nesterov"], False))
            return call("torch.optim.SGD", weights, **keywords, **decay, fused=True)
        case "RMSprop":
            keywords |= {"alpha": given["alpha"], "eps": given["epsilon"], "momentum": given["momentum"]}
            return call("torch.optim.RMSprop", weights, **keywords, **decay)
        case "Adagrad":
            return call("torch.optim.Adagrad", weights, **keywords, eps=given["epsilon"], **decay, fused=True)
        case "Lion":
            sheet.need("optimizers", "Lion")
            return call("Lion", weights, rate, (given["beta1"], given["beta2"]), given["weight_decay"])
    keywords |= {"betas": (given["beta1"], given["beta2"]), "eps": given["epsilon"]}
    keywords["weight_decay"] = given["weight_decay"]
    fused = {} if setting.type == "NAdam" else {"fused": True}
    return call(f"torch.optim.{setting.type}", weights, **keywords, **fused)


# -- schedules -----------------------------------------------------------------------------------


def write_schedules(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    """``rate_factor(step, steps_per_epoch, plateaus)``: what the learning rate is multiplied by."""
    factors = []
    plateau = 0
    for each in pipeline.schedules:
        given = each.parameters
        match each.type:
            case "StepLR":
                factors.append(f"{given['gamma']!r} ** (epoch // {given['epochs']})")
            case "ExponentialLR":
                factors.append(f"{given['gamma']!r} ** epoch")
            case "CosineAnnealing":
                sheet.need("schedules", "_eased")
                cycle = f"step / max(1, total_steps) * {given['cycles']!r} % 1.0"
                factors.append(f'_eased(1.0, {given["minimum"]!r}, {cycle}, "cosine")')
            case "WarmupScheduler":
                sheet.need("schedules", "_eased")
                share = f"min(1.0, step / {given['steps']!r})"
                factors.append(f'_eased({given["start"]!r}, 1.0, {share}, "linear")')
            case "OneCycle":
                sheet.need("schedules", "_one_cycle")
                factors.append(call("_one_cycle", dict(given), Code("step / max(1, total_steps - 1)")))
            case "ReduceOnPlateau":
                sheet.need("schedules", "Plateau", "_observe")
                factors.append(f"plateaus[{plateau}].factor")
                plateau += 1
            case unknown:
                raise KeyError(unknown)
    lines = [
        "def rate_factor(step: int, steps_per_epoch: int, plateaus: list[Any]) -> float:",
        '    """What the learning rate is multiplied by in a step, counted from 0."""',
        "    epoch, total_steps = step // steps_per_epoch, EPOCHS * steps_per_epoch",
        f"    return {' * '.join(factors)}",
    ]
    sheet.need_import("from typing import Any")
    return lines if factors else []


def write_plateaus(pipeline: Pipeline) -> list[str]:
    """Parameters of each ReduceOnPlateau, in the order of ``plateaus``."""
    given = [literal(dict(each.parameters)) for each in pipeline.schedules if each.type == "ReduceOnPlateau"]
    return ["PLATEAUS = [", *(f"    {each}," for each in given), "]"] if given else []
