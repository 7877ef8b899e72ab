"""A graph's whole training as a script: data, split, normalization, model, loss, optimizer, loop. Pure.

Everything random follows from the seed and the number of the step, as it does here, so that the
script's losses are ours: to the bit with as many threads, else to rounding.
"""

from __future__ import annotations

from backend.catalogue.record import DatasetType
from backend.errors import GraphInvalidError
from backend.graph import Graph, model_nodes
from backend.pipeline import Pipeline, preparing_nodes, read_pipeline
from backend.pytorch_code import objective
from backend.pytorch_code.excerpts import defined
from backend.pytorch_code.model import file_source, write_model, write_nodes
from backend.pytorch_code.sheet import ModuleWriter, Sheet
from backend.pytorch_code.text import Code, call, indented, literal
from backend.sample_plan import EVALUATION_BATCH
from backend.shapes import Shapes, infer_shapes, nodes_of_type
from backend.tuning import is_tuned
from backend.validate import Severity, diagnose

_ABOUT = """Trains on a dataset file and writes the weights.

    python FILE.py dataset.safetensors -o weights.safetensors

The dataset holds x (N, ...) and y (N, ...), as `cyxwiz data convert` writes it. Needs torch, numpy and
safetensors. Computes in float32 where the graph leaves the precision open."""


def training_source(graph: Graph) -> str:
    """Raises GraphInvalidError for a graph that cannot be trained."""
    errors = tuple(each for each in diagnose(graph) if each.severity is Severity.ERROR)
    if errors:
        raise GraphInvalidError(errors)
    if is_tuned(graph):
        raise GraphInvalidError(("frozen nodes and LoRA adapters are not written as a training script",))
    pipeline, shapes = read_pipeline(graph), infer_shapes(graph)
    sheet = write_model(graph, _RESERVED)
    sheet.classes.append(_preparation(graph, pipeline, shapes, sheet))
    used = {node.id for node in model_nodes(graph)}
    outputs = [node.id for node in nodes_of_type(graph, "Output") if node.id in used]
    for line in _IMPORTS:
        sheet.need_import(line)
    sheet.need("stepper", "seed_step")
    sheet.need("samples", "_mix")
    sheet.need("datasets", "split")
    blocks = [
        _settings(pipeline),
        objective.write_loss(pipeline, shapes, outputs),
        objective.SIGNS
        if any(each.setting.type == "CosineEmbeddingLoss" for each in pipeline.losses)
        else [],
        objective.write_schedules(pipeline, sheet),
        _changes(pipeline, sheet),
        _scaling(pipeline, sheet),
        _BATCHES.splitlines(),
        _EVALUATE.splitlines(),
        _train(pipeline, sheet),
        _main(pipeline, sheet),
    ]
    rest = "\n\n\n".join("\n".join(block) for block in blocks if block)
    return file_source(graph, sheet, rest.splitlines(), _ABOUT)


_COPIED = (
    "stepper", "samples", "stopping", "datasets", "preparation", "schedules", "optimizers", "balance",
)  # fmt: skip
_OWN = {
    "Preparation",
    "Batches",
    "Tensors",
    "Iterator",
    "Mapping",
    "Iterable",
    "CLASS_WEIGHTS",
    "EPOCHS",
    "SEED",
    "TEST",
    "SHUFFLE",
}
_RESERVED = frozenset(_OWN.union(*(defined(module) for module in _COPIED)))
"""What no class of the model may be called."""
_IMPORTS = (
    "import argparse",
    "from collections.abc import Iterator",
    "import numpy as np",
    "from safetensors.numpy import load_file",
    "from safetensors.torch import save_file",
)


def _main(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    lines = _MAIN.splitlines()
    ignored = objective.balanced_without(pipeline)
    if ignored:
        sheet.need("balance", "balanced")
        labels = f'data["y"][parts.train].ravel().astype(np.int64), minlength={pipeline.classes}'
        at = next(i for i, line in enumerate(lines) if "batches.scale(" in line)
        lines[at:at] = [
            f"    counts = np.bincount({labels})",
            f"    CLASS_WEIGHTS.update({{each: balanced(counts, each) for each in {literal(ignored)}}})",
        ]
    return lines


def _settings(pipeline: Pipeline) -> list[str]:
    values = {
        "EPOCHS": pipeline.epochs,
        "SEED": pipeline.seed,
        "BATCH_SIZE": pipeline.batch_size,
        "DROP_LAST": pipeline.drop_last,
        "SHUFFLE": pipeline.shuffle,
        "LEARNING_RATE": pipeline.optimizer.parameters["learning_rate"],
        "VALIDATION, TEST": Code(f"{pipeline.validation!r}, {pipeline.test!r}"),
        "SPLIT_SEED": pipeline.split_seed,
        "STRATIFIED": pipeline.stratified,
        "IN_ORDER": pipeline.in_order,
        "EVALUATION_BATCH": EVALUATION_BATCH,
    }
    lines = [f"{name} = {literal(value)}" for name, value in values.items()]
    if objective.balanced_without(pipeline):
        lines.append("CLASS_WEIGHTS: dict[int | None, tuple[float, ...]] = {}")
    return [*lines, *objective.write_plateaus(pipeline), "Tensors = tuple[torch.Tensor, ...]"]


def _preparation(graph: Graph, pipeline: Pipeline, shapes: Shapes, sheet: Sheet) -> list[str]:
    """What is made of samples and labels before the model and the losses get them."""
    about = "From samples and labels to inputs of the model and targets of the losses."
    writer = ModuleWriter(sheet, "Preparation", about, ("samples", "labels"), kind="tuple[Tensors, Tensors]")
    _encode(pipeline, shapes, writer)
    (loader,) = nodes_of_type(graph, "DataLoader")
    values = {(loader.id, "samples"): Code("samples"), (loader.id, "labels"): Code("labels")}
    write_nodes(writer, graph, shapes, preparing_nodes(graph), values, Code("samples"))
    used = {node.id for node in model_nodes(graph)}
    sources = {link.target_node: (link.source_node, link.source_port) for link in graph.links}
    inputs = [values[sources[n.id]] for n in nodes_of_type(graph, "Input") if n.id in used]
    targets = [
        Code(f"{value}.long()") if term.setting.parameters.get("classes") else value
        for term in pipeline.losses
        if (value := values[term.target.node_id, term.target.port])
    ]
    writer.answer = f"{literal(tuple(inputs))}, {literal(tuple(targets))}"
    return writer.lines()


def _encode(pipeline: Pipeline, shapes: Shapes, writer: ModuleWriter) -> None:
    if pipeline.vocabulary:
        writer.steps.append("samples = samples.long()")
    if pipeline.classes:
        writer.steps.append("labels = labels.long()")
    else:
        writer.steps.append("labels = labels.float()")
    for change in pipeline.changes:
        (before,) = shapes.nodes[change.node_id].inputs
        if not isinstance(before, DatasetType):
            continue
        match change.type, change.parameters:
            case "OneHotEncode", {"of": "labels"}:
                writer.sheet.need("preparation", "one_hot")
                writer.steps.append(f"labels = one_hot(labels, {before.labels.classes})")
            case "OneHotEncode", _:
                writer.sheet.need("preparation", "one_hot")
                writer.steps.append(f"samples = one_hot(samples, {before.samples.ids})")
            case "Tokenize", given:
                writer.sheet.need("preparation", "tokenize")
                length = given["length"] or before.samples.shape[0]
                writer.steps.append(
                    f"samples = {call('tokenize', Code('samples'), length, given['lowercase'])}"
                )


def _changes(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    changes = [literal(dict(each.parameters)) for each in pipeline.changes if each.type == "Augmentation"]
    if not changes:
        return []
    sheet.need("preparation", "augment")
    return ["AUGMENTATIONS = [", *(f"    {each}," for each in changes), "]"]


def _scaling(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    """``scaling_of(x, rows)``: offset and factor of each channel, measured on the training rows alone."""
    lines = ["def scaling_of(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:"]
    name = {"mean_std": "mean_std_scaling", "scale": "range_scaling"}.get(pipeline.normalization)
    if name is None:
        return [*lines, '    """Inputs stay as they are."""', "    return None"]
    sheet.need("datasets", name)
    about = '    """Offset and factor of each channel, from the samples to train on alone."""'
    return [*lines, about, f"    scaling = {name}(x, rows)", "    return scaling.offset, scaling.factor"]


_BATCHES = '''
class Batches:
    """Samples of a dataset in batches on a device, normalized."""

    def __init__(self, x: np.ndarray, y: np.ndarray, device: torch.device, images: bool) -> None:
        self.x, self.y, self.device = x, y, device
        self.layout = torch.channels_last if images else torch.contiguous_format
        self.scaling: list[torch.Tensor] = []

    def scale(self, scaling: tuple[np.ndarray, np.ndarray] | None) -> None:
        shape = (1, -1, *(1,) * (self.x.ndim - 2))
        self.scaling = [torch.from_numpy(each).reshape(shape).to(self.device) for each in scaling or ()]

    def of(self, rows: np.ndarray, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(rows), size):
            chosen = rows[first : first + size]
            samples = torch.from_numpy(self.x[chosen]).to(self.device).float()
            if self.scaling:
                samples = (samples - self.scaling[0]) * self.scaling[1]
            if samples.ndim == 4:
                samples = samples.contiguous(memory_format=self.layout)
            yield samples, torch.from_numpy(self.y[chosen]).to(self.device)
'''.strip()

_EVALUATE = '''
def predict(model: nn.Module, inputs: Tensors) -> Tensors:
    answer = model(*inputs)
    return answer if isinstance(answer, tuple) else (answer,)


def evaluate(
    model: nn.Module, prepare: nn.Module, batches: Batches, rows: np.ndarray
) -> tuple[float, float | None] | None:
    """Loss and share of right classes, None where there are none; None without samples."""
    if not len(rows):
        return None
    model.eval()
    total, correct, places = 0.0, 0, 0
    with torch.inference_mode():
        for samples, labels in batches.of(rows, EVALUATION_BATCH):
            inputs, targets = prepare(samples, labels)
            predictions = predict(model, inputs)
            total += loss_of(predictions, targets).item() * len(labels)
            right, of = judge(predictions, targets)
            correct, places = correct + right, places + of
    model.train()
    return total / len(rows), correct / places if places else None
'''.strip()


def _train(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    has_plateaus = any(each.type == "ReduceOnPlateau" for each in pipeline.schedules)
    watches = pipeline.patience > 0 or pipeline.keep_best
    if watches:
        sheet.need("stopping", "Watch", "observe")
        sheet.need_import("import copy")
    first = "[Plateau() for _ in PLATEAUS]" if has_plateaus else "[]"
    return [
        "def train(model: nn.Module, prepare: nn.Module, batches: Batches, rows: list[np.ndarray]) -> None:",
        '    """``rows``: those to train on, and those to watch."""',
        f"    optimizer = {objective.write_optimizer(pipeline.optimizer, sheet)}",
        "    steps = len(rows[0]) // BATCH_SIZE if DROP_LAST else -(-len(rows[0]) // BATCH_SIZE)",
        *([f"    step, plateaus = 0, {first}"] if pipeline.schedules else ["    step = 0"]),
        *(["    watch, best = Watch(), None"] if watches else []),
        "    for epoch in range(EPOCHS):",
        "        order = rows[0]",
        "        if SHUFFLE:",
        "            order = order[np.random.RandomState(_mix(SEED, epoch)).permutation(len(order))]",
        "        order = order[: steps * BATCH_SIZE]",
        "        total, seen = 0.0, 0",
        "        for samples, labels in batches.of(order, BATCH_SIZE):",
        *indented(_step(pipeline, sheet), 3),
        "        loss_mean, scores = total / seen, evaluate(model, prepare, batches, rows[1])",
        *(indented(_PLATEAUS, 2) if has_plateaus else []),
        '        watched_loss = "" if scores is None else f", validation loss {scores[0]:.7g}"',
        '        print(f"epoch {epoch + 1}: loss {loss_mean:.7g}{watched_loss}")',
        *indented(_stopping(pipeline), 2),
        *(["    if best is not None:", "        model.load_state_dict(best)"] if pipeline.keep_best else []),
    ]


_PLATEAUS = [
    "watched = loss_mean if scores is None else scores[0]",
    "plateaus = [_observe(given, each, watched) for given, each in zip(PLATEAUS, plateaus, strict=True)]",
]


def _step(pipeline: Pipeline, sheet: Sheet) -> list[str]:
    """One batch: forward, backward, and the optimizer's turn."""
    rate = [
        "factor = rate_factor(step, steps, plateaus)",
        "for group in optimizer.param_groups:",
        '    group["lr"] = LEARNING_RATE * factor',
    ]
    change = ["for given in AUGMENTATIONS:", "    samples = augment(samples, given)"]
    has_changes = any(each.type == "Augmentation" for each in pipeline.changes)
    names = {node_id: sheet.names[node_id] for term in pipeline.penalties for node_id in term.nodes}
    penalties = objective.write_penalties(pipeline, names)
    update = [*(rate if pipeline.schedules else []), *objective.write_clip(pipeline), "optimizer.step()"]
    several = pipeline.accumulate > 1
    begin, end = "optimizer.zero_grad(set_to_none=True)", "loss.backward()"
    return [
        "seed_step(batches.device, SEED, step)",
        *(change if has_changes else []),
        "inputs, targets = prepare(samples, labels)",
        *([f"if step % steps % {pipeline.accumulate} == 0:", f"    {begin}"] if several else [begin]),
        *_predicting(pipeline),
        f"{'loss = mean' if penalties else 'loss'} = loss_of(predictions, targets)",
        f"total += {'mean' if penalties else 'loss'}.item() * len(labels)",
        *penalties,
        *(_sharing(pipeline.accumulate, update) if several else [end, *update]),
        "seen, step = seen + len(labels), step + 1",
    ]


def _predicting(pipeline: Pipeline) -> list[str]:
    if pipeline.precision != "bfloat16":
        return ["predictions = predict(model, inputs)"]
    return [
        "with torch.autocast(batches.device.type, torch.bfloat16):",
        "    predictions = tuple(each.float() for each in predict(model, inputs))",
    ]


def _sharing(count: int, update: list[str]) -> list[str]:
    """Some batches make one step of the optimizer, as one batch of all their samples would."""
    return [
        f"first = step % steps // {count} * {count} * BATCH_SIZE",
        f"together = min(len(order), first + {count} * BATCH_SIZE) - first",
        "(loss * (len(labels) / together)).backward()",
        f"if (step % steps + 1) % {count} == 0 or step % steps + 1 == steps:",
        *indented(update, 1),
    ]


def _stopping(pipeline: Pipeline) -> list[str]:
    if not pipeline.patience and not pipeline.keep_best:
        return []
    keep = ["    if watch.best_step == step:", "        best = copy.deepcopy(model.state_dict())"]
    stop = [f"if 0 < {pipeline.patience} <= watch.bad_epochs:", "    break"]
    return [
        "if scores is not None:",
        "    watch = observe(watch, scores[0], step)",
        *(keep if pipeline.keep_best else []),
        *(stop if pipeline.patience else []),
    ]


_MAIN = """
def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("data")
    options.add_argument("-o", "--output", default="weights.safetensors")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    data, device = load_file(given.data), torch.device(given.device)
    parts = split(
        data["y"],
        int(len(data["x"]) * VALIDATION + 1e-9),
        int(len(data["x"]) * TEST + 1e-9),
        SPLIT_SEED,
        stratified=STRATIFIED,
        in_order=IN_ORDER,
    )
    torch.manual_seed(SEED)
    model, prepare = Model(), Preparation().to(device)
    images = any(weight.ndim == 4 for weight in model.parameters())
    model.to(device, memory_format=torch.channels_last if images else torch.contiguous_format)
    batches = Batches(data["x"], data["y"], device, images)
    batches.scale(scaling_of(data["x"], parts.train))
    train(model, prepare, batches, [parts.train, parts.validation])
    if scores := evaluate(model, prepare, batches, parts.test):
        accuracy = f", accuracy {scores[1]:.4f}" if scores[1] is not None else ""
        print(f"test: loss {scores[0]:.7g}{accuracy}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, given.output)


if __name__ == "__main__":
    main()
""".strip()
