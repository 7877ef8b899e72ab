"""Module and optimizer state to and from plain arrays, so that nothing needs pickle.

Tensors keep their memory layout when restored: fused optimizers walk parameter and state side by
side in memory, and a resumed training must do bit for bit what an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from backend.errors import CheckpointError
from backend.formats.cyxmodel import OptimizerGroup
from backend.formats.tensors import Array

_COUNTS = ("step", "mu_product")
"""What optimizers keep once for a whole weight; all else is a number for each of its numbers."""


def capture_weights(module: torch.nn.Module) -> dict[str, Array]:
    """Parameters and buffers by name, as copies."""
    return {name: _to_array(tensor) for name, tensor in module.state_dict().items()}


def restore_weights(module: torch.nn.Module, weights: Mapping[str, Array]) -> None:
    """Raises CheckpointError unless names and shapes are exactly the module's."""
    own = module.state_dict()
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())
        raise CheckpointError(f"weights of another graph: {', '.join(odd)[:200]} missing or too many")
    with torch.no_grad():
        for name, target in own.items():
            _copy(name, weights[name], target)


def capture_gradients(module: torch.nn.Module) -> dict[str, Array]:
    """Those there are, by the names of their weights: of a step of which not all batches are through."""
    named = module.named_parameters()
    return {name: _to_array(weight.grad) for name, weight in named if weight.grad is not None}


def restore_gradients(module: torch.nn.Module, gradients: Mapping[str, Array]) -> None:
    """Raises CheckpointError unless they are of weights of this module."""
    own = dict(module.named_parameters())
    for name, gradient in gradients.items():
        if name not in own:
            raise CheckpointError(f"a gradient of {name[:80]!r}, which is no weight of the graph")
        target = torch.empty_like(own[name], requires_grad=False)
        _copy(name, gradient, target)
        own[name].grad = target


def capture_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Array], list[OptimizerGroup]]:
    """State tensors named ``index.name``, and the settings of each parameter group."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": _to_array(torch.as_tensor(value))
        for index, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }
    groups = [
        OptimizerGroup(
            settings=_settings(group),
            parameters=list(group["params"]),
        )
        for group in state["param_groups"]
    ]
    return tensors, groups


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Array],
    groups: list[OptimizerGroup],
    names: Collection[str],
) -> None:
    """``names``: of what it keeps for a weight. Raises CheckpointError unless the state is one of this very
    optimizer."""
    own = optimizer.state_dict()["param_groups"]
    _check_groups(own, groups)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, array in tensors.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or int(index) >= sum(len(group["params"]) for group in own):
            raise CheckpointError(f"optimizer state {key[:80]!r} belongs to no parameter")
        state.setdefault(int(index), {})[name] = torch.from_numpy(array)
    settings = [_with_tuples(group.settings) | {"params": group.parameters} for group in groups]
    _check_state(optimizer, state, names)
    optimizer.load_state_dict({"state": state, "param_groups": settings})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_groups(own: list[dict[str, Any]], groups: list[OptimizerGroup]) -> None:
    """All settings follow from the graph, but for the learning rate."""
    found = [(group.parameters, group.settings | {"lr": None}) for group in groups]
    expected = [(list(group["params"]), _settings(group) | {"lr": None}) for group in own]
    if found != expected:
        raise CheckpointError("optimizer state of another optimizer or another graph")
    for rate in (group.settings.get("lr") for group in groups):
        if not isinstance(rate, float) or not 0 <= rate < math.inf:
            raise CheckpointError(f"optimizer state with a learning rate of {str(rate)[:40]!r}")


def _check_state(
    optimizer: torch.optim.Optimizer,
    state: Mapping[int, Mapping[str, torch.Tensor]],
    names: Collection[str],
) -> None:
    for values in state.values():
        if odd := sorted(values.keys() ^ set(names)):
            raise CheckpointError(f"optimizer state of another optimizer: {', '.join(odd)[:80]} differ")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, torch.optim.Adagrad) and len(state) < len(parameters):
        # Others make what is missing at their next step, this one only when it is made.
        raise CheckpointError(f"optimizer state of {len(state)} weights, must be of {len(parameters)}")
    for index, values in state.items():
        for name, value in values.items():
            # Exactly: fused optimizers count the weight's numbers and trust that its state has as many.
            wanted = () if name in _COUNTS else tuple(parameters[index].shape)
            if tuple(value.shape) != wanted:
                found = tuple(value.shape)
                raise CheckpointError(f"optimizer state {name[:80]!r} is shaped {found}, must be {wanted}")


def _to_array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to("cpu").contiguous().numpy()
    return np.array(array, copy=True)


def _copy(name: str, source: Array, target: torch.Tensor) -> None:
    found = torch.from_numpy(source)
    if found.shape != target.shape or found.dtype != target.dtype:
        wanted = f"{target.dtype} {tuple(target.shape)}"
        raise CheckpointError(
            f"weights {name!r} are {found.dtype} {tuple(found.shape)}, the graph's {wanted}"
        )
    target.copy_(found)


def _settings(group: Mapping[str, Any]) -> dict[str, bool | int | float | str | list[float] | None]:
    return {name: _plain(value) for name, value in group.items() if name != "params"}


def _plain(value: object) -> bool | int | float | str | list[float] | None:
    if isinstance(value, torch.Tensor):
        return float(value.item())
    if isinstance(value, tuple | list):
        return [float(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"an optimizer setting is a {type(value).__name__}, which cannot be saved")


def _with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
