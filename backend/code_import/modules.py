"""What node each module of torch.nn is, with its parameters; and each helper class of generated files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from backend.code_import.building import Building, Ref, Shape, UnsupportedError
from backend.graph import Body, Node

Reading: TypeAlias = tuple[str, dict[str, Any]]
Reader: TypeAlias = Callable[[Any, tuple[Shape, ...]], Reading]


def need(condition: bool, text: str) -> None:
    """Raises UnsupportedError unless the condition holds."""
    if not condition:
        raise UnsupportedError(text)


def _linear(module: nn.Linear, shapes: tuple[Shape, ...]) -> Reading:
    return "Dense", {"units": module.out_features, "bias": module.bias is not None}


def _geometry(module: Any) -> dict[str, Any]:
    need(module.padding_mode == "zeros", f"padding_mode {module.padding_mode!r}, supported is zeros")
    padding = module.padding
    if padding == "valid":
        padding = 0
    return {
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "padding": padding,
        "dilation": module.dilation,
        "bias": module.bias is not None,
    }


def _convolution(axes: int) -> Reader:
    def read(module: Any, shapes: tuple[Shape, ...]) -> Reading:
        given = _geometry(module)
        if axes == 2 and module.groups == module.in_channels > 1:
            multiplier, rest = divmod(module.out_channels, module.in_channels)
            if not rest:
                return "DepthwiseConv2D", {"multiplier": multiplier, **given}
        return f"Conv{axes}D", {"filters": module.out_channels, "groups": module.groups, **given}

    return read


def _transposed(axes: int) -> Reader:
    def read(module: Any, shapes: tuple[Shape, ...]) -> Reading:
        need(module.groups == 1, f"groups {module.groups} of a transposed convolution, supported is 1")
        given = {"filters": module.out_channels, "output_padding": module.output_padding}
        return f"ConvTranspose{axes}D", given | _geometry(module)

    return read


def _window(name: str) -> Reader:
    def read(module: Any, shapes: tuple[Shape, ...]) -> Reading:
        return window(name, {key: getattr(module, key, None) for key in WINDOW})

    return read


WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices", "count_include_pad")


def window(name: str, given: Mapping[str, Any]) -> Reading:
    need(not given.get("ceil_mode"), "ceil_mode, supported is without")
    need(not given.get("return_indices"), "return_indices, supported is without")
    need(given.get("dilation") in (None, 1, (1, 1)), "dilation of a pool, supported is 1")
    need(given.get("count_include_pad") in (None, True), "count_include_pad False, supported is True")
    parts = {"kernel_size": given["kernel_size"], "padding": given.get("padding") or 0}
    stride = given.get("stride")
    return name, parts | ({"stride": stride} if stride not in (None, (), []) else {})


def _adaptive(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    return adaptive(module.output_size, shapes[0])


def adaptive(size: Any, shape: Shape) -> Reading:
    sizes = (size,) * (len(shape) - 1) if isinstance(size, int) else tuple(size)
    filled = tuple(have if want is None else want for want, have in zip(sizes, shape[1:], strict=True))
    return "AdaptiveAvgPool", {"output_size": filled}


def _upsample(module: nn.Upsample, shapes: tuple[Shape, ...]) -> Reading:
    return upsample(module.scale_factor, module.mode, module.align_corners, module.size)


def upsample(factor: Any, mode: str, align_corners: bool | None, size: Any) -> Reading:
    factors = set(factor) if isinstance(factor, tuple | list) else {factor}
    whole = len(factors) == 1 and None not in factors and float(next(iter(factors))).is_integer()
    need(size is None and whole, "upsampling to a size, supported is by one whole scale_factor")
    need(not align_corners, "align_corners, supported is without")
    modes = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear"}
    need(mode in modes, f"mode {mode!r}, supported are {', '.join(modes)}")
    return "Upsample", {"factor": int(next(iter(factors))), "mode": modes[mode]}


def _batch_norm(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    need(module.track_running_stats, "without running statistics, supported is with")
    need(module.momentum is not None, "momentum None, supported is a number")
    return "BatchNorm", {"epsilon": module.eps, "momentum": module.momentum, "affine": module.affine}


def _trailing(name: str) -> Reader:
    def read(module: Any, shapes: tuple[Shape, ...]) -> Reading:
        affine = module.elementwise_affine
        need(name == "RMSNorm" or not affine or module.bias is not None, "without bias, supported is with")
        epsilon = torch.finfo(torch.float32).eps if module.eps is None else module.eps
        axes = len(module.normalized_shape)
        return name, {"axes": axes, "epsilon": epsilon, "affine": affine}

    return read


def _group_norm(module: nn.GroupNorm, shapes: tuple[Shape, ...]) -> Reading:
    return "GroupNorm", {"groups": module.num_groups, "epsilon": module.eps, "affine": module.affine}


def _instance_norm(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    need(not module.track_running_stats, "running statistics, supported is without")
    return "InstanceNorm", {"epsilon": module.eps, "affine": module.affine}


def _dropout(name: str) -> Reader:
    return lambda module, shapes: (name, {"rate": module.p})


def _embedding(module: nn.Embedding, shapes: tuple[Shape, ...]) -> Reading:
    need(module.max_norm is None, "max_norm, supported is without")
    sizes = {"vocabulary": module.num_embeddings, "dimension": module.embedding_dim}
    return "Embedding", sizes | {"padding_id": module.padding_idx}


def _plain(name: str, **renamed: str) -> Reader:
    """A type whose parameters are attributes of the module."""
    return lambda module, shapes: (name, {key: getattr(module, attr) for key, attr in renamed.items()})


def _along(name: str) -> Reader:
    return lambda module, shapes: (name, {"axis": axis_of(module.dim, shapes[0])})


def axis_of(dim: int | None, shape: Shape) -> int:
    """An axis of a batch as one of a sample."""
    need(dim is not None, "no dim")
    assert dim is not None
    place = dim + len(shape) + 1 if dim < 0 else dim
    need(place > 0, f"dim {dim} is that of the batch")
    return place - 1


def _softplus(module: nn.Softplus, shapes: tuple[Shape, ...]) -> Reading:
    need(module.threshold == 20, "threshold, supported is 20")
    return "Softplus", {"beta": module.beta}


def _flatten(module: nn.Flatten, shapes: tuple[Shape, ...]) -> Reading:
    need(module.start_dim == 1 and module.end_dim in (-1, len(shapes[0])), "of some axes, use reshape")
    return "Flatten", {}


def _transformer(module: nn.TransformerEncoderLayer, shapes: tuple[Shape, ...]) -> Reading:
    attention = module.self_attn
    need(attention.batch_first, "batch_first False, supported is True")
    kinds = {"relu": "relu", "gelu": "gelu"}
    kind = getattr(module.activation, "__name__", type(module.activation).__name__.lower())
    need(kind in kinds, f"activation {kind}, supported are relu and gelu")
    return "TransformerEncoder", {
        "layers": 1,
        "heads": attention.num_heads,
        "feed_forward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": kinds[kind],
        "norm_first": module.norm_first,
        "epsilon": module.norm1.eps,
        "causal": False,
    }


# -- helper classes of generated files -----------------------------------------------------------


def _position(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    if not isinstance(module.position, nn.Parameter):
        return "PositionalEncoding", {}
    return "PositionalEncoding", {"method": "learned", "length": module.position.shape[0]}


def _rotary(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    given = {"head_size": module.size, "rope_base": module.base, "interleaved": module.interleaved}
    return "RotaryEmbedding", given


def _projections(module: Any) -> dict[str, Any]:
    return {"heads": module.heads, "dropout": module.dropout, "bias": module.query.bias is not None}


def _attention(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    return "MultiHeadAttention", _projections(module) | {"causal": module.causal}


def _linear_attention(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    bias = module.query.bias is not None
    return "LinearAttention", {"heads": module.heads, "causal": module.causal, "bias": bias}


def _grouped(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    rotary = not isinstance(module.rotary, nn.Identity)
    given = {"kv_heads": module.kv_heads, "causal": module.causal, "rotary": rotary}
    given |= {"rope_base": module.rotary.base} if rotary else {}
    return "GroupedQueryAttention", _projections(module) | given


def _block(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    known = vars(sys.modules[type(module).__module__])["ACTIVATIONS"]
    activation = next(name for name, value in known.items() if value is module.activation)
    cross = len(shapes) > 1
    return "TransformerDecoder" if cross else "TransformerEncoder", {
        "layers": 1,
        "heads": module.attention.heads,
        "feed_forward": module.up.out_features,
        "dropout": module.dropout.p,
        "activation": activation,
        "norm_first": module.norm_first,
        "epsilon": module.attention_norm.eps,
        "causal": module.attention.causal,
    }


def _llama(module: Any, shapes: tuple[Shape, ...]) -> Reading:
    return "LlamaBlock", {
        "heads": module.heads,
        "kv_heads": module.kv_heads,
        "feed_forward": module.ffn_up.out_features,
        "rope_base": module.rotary.base,
        "epsilon": module.attn_norm.eps,
    }


READERS: dict[str, Reader] = {
    "Linear": _linear,
    **{f"Conv{axes}d": _convolution(axes) for axes in (1, 2, 3)},
    **{f"ConvTranspose{axes}d": _transposed(axes) for axes in (1, 2)},
    "MaxPool1d": _window("MaxPool1D"),
    "MaxPool2d": _window("MaxPool2D"),
    "AvgPool2d": _window("AvgPool2D"),
    **{f"AdaptiveAvgPool{axes}d": _adaptive for axes in (1, 2, 3)},
    "Upsample": _upsample,
    **{f"BatchNorm{axes}d": _batch_norm for axes in (1, 2, 3)},
    "LayerNorm": _trailing("LayerNorm"),
    "RMSNorm": _trailing("RMSNorm"),
    "GroupNorm": _group_norm,
    **{f"InstanceNorm{axes}d": _instance_norm for axes in (1, 2, 3)},
    "Dropout": _dropout("Dropout"),
    **{f"Dropout{axes}d": _dropout("SpatialDropout") for axes in (1, 2, 3)},
    "Embedding": _embedding,
    "ReLU": _plain("ReLU"),
    "LeakyReLU": _plain("LeakyReLU", negative_slope="negative_slope"),
    "PReLU": lambda module, shapes: ("PReLU", {"per_channel": module.num_parameters > 1}),
    "ELU": _plain("ELU", alpha="alpha"),
    "SELU": _plain("SELU"),
    "GELU": _plain("GELU", approximate="approximate"),
    "SiLU": _plain("Swish"),
    "Mish": _plain("Mish"),
    "Sigmoid": _plain("Sigmoid"),
    "Tanh": _plain("Tanh"),
    "Softplus": _softplus,
    "Softmax": _along("Softmax"),
    "LogSoftmax": _along("LogSoftmax"),
    "GLU": _along("GLU"),
    "Flatten": _flatten,
    "TransformerEncoderLayer": _transformer,
}
"""Modules of torch.nn with one tensor in and one out."""
HELPERS: dict[str, Reader] = {
    "PositionalEncoding": _position,
    "RotaryEmbedding": _rotary,
    "Attention": _attention,
    "GroupedAttention": _grouped,
    "LinearAttention": _linear_attention,
    "TransformerBlock": _block,
    "LlamaBlock": _llama,
    "StochasticDepth": _plain("StochasticDepth", rate="rate"),
}
"""Helper classes whose state has the names that ours have."""
_PREFIXED = {"TransformerBlock": "0."}


def place_module(made: Building, name: str, module: nn.Module, inputs: tuple[Ref, ...]) -> str:
    """Adds a node for a module of one output. Raises UnsupportedError."""
    kind = type(module).__name__
    shapes = tuple(ref.shape for ref in inputs)
    if kind in HELPERS:
        type_name, given = HELPERS[kind](module, shapes)
        prefix = _PREFIXED.get(kind, "")
        state = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
        return made.add(name, type_name, given, inputs, state)
    if kind not in READERS:
        raise UnsupportedError("no node stands for it")
    need(len(inputs) == 1, f"{len(inputs)} inputs, supported is 1")
    type_name, given = READERS[kind](module, shapes)
    state = dict(module.state_dict())
    if isinstance(module, nn.TransformerEncoderLayer):
        state = _encoder_state(module)
    return made.add(name, type_name, given, inputs, state)


def _split(attention: nn.MultiheadAttention) -> dict[str, torch.Tensor]:
    """Its state under the names that Attention has."""
    found: dict[str, torch.Tensor] = {}
    parts = ("query", "key", "value")
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = tuple(getattr(attention, f"{part[0]}_proj_weight") for part in parts)
    found |= {f"{part}.weight": weight for part, weight in zip(parts, weights, strict=True)}
    if attention.in_proj_bias is not None:
        found |= {
            f"{part}.bias": bias for part, bias in zip(parts, attention.in_proj_bias.chunk(3), strict=True)
        }
    return found | {f"output.{name}": value for name, value in attention.out_proj.state_dict().items()}


def _encoder_state(module: nn.TransformerEncoderLayer) -> dict[str, torch.Tensor]:
    renamed = {"up": "linear1", "down": "linear2", "attention_norm": "norm1", "feed_forward_norm": "norm2"}
    found = {f"0.attention.{name}": value for name, value in _split(module.self_attn).items()}
    for ours, theirs in renamed.items():
        state = module.get_submodule(theirs).state_dict()
        found |= {f"0.{ours}.{name}": value for name, value in state.items()}
    return found


def place_attention(made: Building, name: str, module: nn.MultiheadAttention, inputs: tuple[Ref, ...]) -> str:
    need(module.batch_first, "batch_first False, supported is True")
    need(module.bias_k is None and not module.add_zero_attn, "extra keys, supported is without")
    bias = module.out_proj.bias is not None
    given = {"heads": module.num_heads, "dropout": module.dropout, "bias": bias}
    return made.add(name, "MultiHeadAttention", given, inputs, _split(module))


def place_recurrent(made: Building, name: str, module: Any, inputs: tuple[Ref, ...]) -> str:
    """A recurrent layer that gives its state at every step."""
    need(module.batch_first, "batch_first False, supported is True")
    need(not getattr(module, "proj_size", 0), "proj_size, supported is without")
    given = {
        "units": module.hidden_size,
        "layers": module.num_layers,
        "bias": module.bias,
        "dropout": float(module.dropout),
    }
    if module.mode.startswith("RNN"):
        given["nonlinearity"] = module.nonlinearity
    kind = type(module).__name__
    if not module.bidirectional:
        return made.add(name, kind, given, inputs, dict(module.state_dict()))
    need(module.num_layers == 1, "several layers in both directions, supported is one")
    state = {}
    for key, value in module.state_dict().items():
        way, plain = ("backwards", key[: -len("_reverse")]) if key.endswith("_reverse") else ("forwards", key)
        state[f"{way}.each.{plain}"] = value
    body = Body((Node("each", kind, 1, given),))
    return made.add(name, "Bidirectional", {"merge": "concatenate"}, inputs, state, body)
