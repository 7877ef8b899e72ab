"""What moves, cuts and joins in ONNX, as nodes. Worker processes only."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from backend.code_import.building import Ref
from backend.code_import.modules import need
from backend.importing.onnx_read import Operation, Placer


def _flatten(op: Operation) -> Ref:
    need(op.settings.get("axis", 1) == 1, "from another axis than the second")
    return op.put("Flatten", {}) if len(op.flowing().shape) != 1 else same(op)


def _reshape(op: Operation) -> Ref:
    before, target = op.flowing().shape, [int(size) for size in op.constant(1).reshape(-1)]
    need(bool(target), "to a single number")
    keeps_zeros = bool(op.settings.get("allowzero"))
    batch_stays = target[0] == 0 and not keeps_zeros
    sample = [
        before[place] if size == 0 and not keeps_zeros and place < len(before) else size
        for place, size in enumerate(target[1:])
    ]
    if -1 in sample:
        need(batch_stays, "to a batch of another size")
        rest = math.prod(size for size in sample if size != -1)
        need(rest > 0 and math.prod(before) % rest == 0, f"of {before} to {sample}")
        sample[sample.index(-1)] = math.prod(before) // rest
    need(math.prod(sample) == math.prod(before), f"of {before} to {sample} moves numbers across samples")
    if len(sample) == 1:
        return op.put("Flatten", {}) if len(before) != 1 else same(op)
    return op.put("Reshape", {"shape": sample})


def _transpose(op: Operation) -> Ref:
    rank = len(op.flowing().shape) + 1
    order = list(op.settings.get("perm", range(rank - 1, -1, -1)))
    need(order[0] == 0, "moves the batch away from the front")
    return op.put("Permute", {"order": [axis - 1 for axis in order[1:]]})


def _concatenate(op: Operation) -> Ref:
    parts = [op.flowing(place) for place in range(len(op.inputs))]
    return op.put("Concatenate", {"axis": axis_of_sample(op.settings["axis"], parts[0])}, *parts)


def _squeezing(type_name: str, sign: int) -> Placer:
    def place(op: Operation) -> Ref:
        found = op.settings.get("axes")
        axes = op.constant(1).reshape(-1).tolist() if found is None else list(found)
        value = op.flowing()
        if not axes:
            return same(op)
        rank = len(value.shape) + 1 + (len(axes) if sign > 0 else 0)
        for axis in sorted((int(axis) % rank for axis in axes), reverse=sign < 0):
            need(axis > 0, "of the batch")
            value = op.put(type_name, {"axis": axis - 1}, value)
        return value

    return place


def _split(op: Operation) -> tuple[Ref, ...]:
    value = op.flowing()
    axis = axis_of_sample(op.settings.get("axis", 0), value)
    found = op.settings.get("split")
    sizes = op.optional(1) if found is None else np.array(found)
    extent = value.shape[axis]
    if sizes is None:
        need(extent % len(op.node.output) == 0, "into unequal parts without sizes")
        sizes = np.full(len(op.node.output), extent // len(op.node.output))
    listed = [int(size) for size in sizes]
    first = op.put("Split", {"axis": axis, "sizes": listed})
    shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in listed]
    ports = ["output", *(f"output{number}" for number in range(2, len(listed) + 1))]
    return tuple(Ref(first.node_id, port, shape) for port, shape in zip(ports, shapes, strict=True))


def same(op: Operation) -> Ref:
    """The value itself, unless others read it too: what is done to it later would be done to theirs."""
    return op.flowing() if op.only_reader else op.put("Identity", {})


def axis_of_sample(axis: int, value: Ref) -> int:
    """Of a sample. Raises UnsupportedError for the batch."""
    found = int(axis) % (len(value.shape) + 1)
    need(found > 0, "along the batch")
    return found - 1


def _slice(op: Operation) -> Ref:
    value = op.flowing()
    starts, stops = (op.constant(place).reshape(-1).tolist() for place in (1, 2))
    given, steps = op.optional(3), op.optional(4)
    axes = list(range(len(starts))) if given is None else given.reshape(-1).tolist()
    wide = [1] * len(starts) if steps is None else steps.reshape(-1).tolist()
    need(len({*axes}) == len(starts) == len(stops) == len(wide), "of numbers that do not belong together")
    for axis, start, stop, step in zip(axes, starts, stops, wide, strict=True):
        place = axis_of_sample(axis, value)
        need(step > 0, "backwards")
        first, end, _ = slice(start, stop, step).indices(value.shape[place])
        value = op.put("Slice", {"axis": place, "start": first, "stop": end, "step": step}, value)
    return value if axes else same(op)


def _pad(op: Operation) -> Ref:
    value, pads = op.flowing(), op.constant(1).reshape(-1).tolist()
    rank = len(value.shape) + 1
    chosen = op.optional(3)
    axes = list(range(rank)) if chosen is None else [int(axis) % rank for axis in chosen.reshape(-1)]
    need(
        len(pads) == 2 * len(axes) and min(pads, default=0) >= 0,
        "cuts off, or of pads that do not belong together",
    )
    sides = [[0] * rank, [0] * rank]
    for number, axis in enumerate(axes):
        sides[0][axis], sides[1][axis] = pads[number], pads[number + len(axes)]
    need(sides[0][0] == sides[1][0] == 0, "of the batch")
    mode = _BORDERS.get(op.settings.get("mode", b"constant"))
    need(mode is not None, f"mode {op.settings.get('mode')!r}")
    # Borders that repeat the inside leave the channels alone.
    first = 1 if mode == "constant" else 2
    need(not any(sides[0][1:first] + sides[1][1:first]), "of the channels")
    filled = op.optional(2)
    given = {"before": sides[0][first:], "after": sides[1][first:], "mode": mode}
    return op.put("Pad", given | {"value": 0.0 if filled is None else float(filled.reshape(()))})


_BORDERS = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
SHAPES: Mapping[str, Placer] = {
    "Concat": _concatenate,
    "Flatten": _flatten,
    "Identity": same,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeezing("Squeeze", -1),
    "Transpose": _transpose,
    "Unsqueeze": _squeezing("Unsqueeze", 1),
}
