"""How each node type of a model is written: the same as its builder in ``backend.layers``, as source. Pure.

One writer a type, keyed by its name. A test compiles, runs and compares each with what its builder makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from backend.pytorch_code.arithmetic import arithmetic
from backend.pytorch_code.sheet import Spot, Values, Writer
from backend.pytorch_code.text import Code, call, short, unless

LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

# -- dense, convolution, pooling -----------------------------------------------------------------


def _dense(at: Spot) -> Code:
    return at.apply(call("nn.Linear", at.shape[-1], at["units"], **unless(bias=(at["bias"], True))))


def _geometry(at: Spot) -> dict[str, Any]:
    padding = at["padding"]
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(at["dilation"], at["kernel_size"], strict=True)]
        if not any(extent % 2 for extent in reach):
            padding = tuple(extent // 2 for extent in reach)
    return unless(
        stride=(short(at["stride"]), 1),
        padding=(short(padding), 0),
        dilation=(short(at["dilation"]), 1),
        bias=(at["bias"], True),
    )


def _convolution(axes: int) -> Writer:
    def write(at: Spot) -> Code:
        sizes = (at.shape[0], at["filters"], short(at["kernel_size"]))
        keywords = unless(groups=(at["groups"], 1)) | _geometry(at)
        return at.apply(call(f"nn.Conv{axes}d", *sizes, **keywords))

    return write


def _depthwise(at: Spot) -> Code:
    channels = at.shape[0]
    sizes = (channels, channels * at["multiplier"], short(at["kernel_size"]))
    return at.apply(call("nn.Conv2d", *sizes, groups=channels, **_geometry(at)))


def _separable(at: Spot) -> Code:
    channels = at.shape[0]
    geometry = {name: value for name, value in _geometry(at).items() if name != "bias"}
    size = short(at["kernel_size"])
    each = call("nn.Conv2d", channels, channels, size, groups=channels, bias=False, **geometry)
    mix = call("nn.Conv2d", channels, at["filters"], 1, **unless(bias=(at["bias"], True)))
    return at.apply(_sequential(at, depthwise=each, pointwise=mix))


def _sequential(at: Spot, **parts: Code) -> Code:
    at.writer.sheet.need_import("from collections import OrderedDict")
    inner = ", ".join(f"{name}={constructor}" for name, constructor in parts.items())
    return Code(f"nn.Sequential(OrderedDict({inner}))")


def _transposed(axes: int) -> Writer:
    def write(at: Spot) -> Code:
        sizes = (at.shape[0], at["filters"], short(at["kernel_size"]))
        keywords = unless(output_padding=(short(at["output_padding"]), 0)) | _geometry(at)
        return at.apply(call(f"nn.ConvTranspose{axes}d", *sizes, **keywords))

    return write


def _window(function: str) -> Writer:
    def write(at: Spot) -> Code:
        size, stride = at["kernel_size"], at["stride"] or at["kernel_size"]
        keywords = unless(stride=(short(stride), short(size)), padding=(short(at["padding"]), 0))
        return call(function, *at.inputs, short(size), **keywords)

    return write


def _over_places(function: str) -> Writer:
    def write(at: Spot) -> Code:
        return call(function, *at.inputs, dim=tuple(range(2, len(at.shape) + 1)))

    return write


def _adaptive(at: Spot) -> Code:
    size = at["output_size"]
    return call(f"functional.adaptive_avg_pool{len(at.shape) - 1}d", *at.inputs, short(size))


def _upsample(at: Spot) -> Code:
    mode = LINEAR_MODES[len(at.shape) - 1] if at["mode"] == "linear" else "nearest"
    return call("functional.interpolate", *at.inputs, scale_factor=at["factor"], mode=mode)


# -- normalization, regularization ---------------------------------------------------------------

_BATCH = {1: "1d", 2: "1d", 3: "2d", 4: "3d"}
_CHANNELS = {2: "1d", 3: "2d", 4: "3d"}


def _batch_norm(at: Spot) -> Code:
    keywords = unless(eps=(at["epsilon"], 1e-5), momentum=(at["momentum"], 0.1), affine=(at["affine"], True))
    return at.apply(call(f"nn.BatchNorm{_BATCH[len(at.shape)]}", at.shape[0], **keywords))


def _trailing_norm(kind: str) -> Writer:
    def write(at: Spot) -> Code:
        trailing = at.shape[len(at.shape) - at["axes"] :]
        size = trailing[0] if len(trailing) == 1 else trailing
        affine = unless(elementwise_affine=(at["affine"], True))
        return at.apply(call(kind, size, eps=at["epsilon"], **affine))

    return write


def _group_norm(at: Spot) -> Code:
    keywords = unless(eps=(at["epsilon"], 1e-5), affine=(at["affine"], True))
    return at.apply(call("nn.GroupNorm", at["groups"], at.shape[0], **keywords))


def _instance_norm(at: Spot) -> Code:
    keywords = unless(eps=(at["epsilon"], 1e-5), affine=(at["affine"], False))
    return at.apply(call(f"nn.InstanceNorm{_CHANNELS[len(at.shape)]}", at.shape[0], **keywords))


def _dropout(at: Spot) -> Code:
    return at.apply(call("nn.Dropout", at["rate"]))


def _spatial_dropout(at: Spot) -> Code:
    return at.apply(call(f"nn.Dropout{_CHANNELS[len(at.shape)]}", at["rate"]))


def _stochastic_depth(at: Spot) -> Code:
    return at.apply(call(at.helper("normalization", "StochasticDepth"), at["rate"]))


# -- recurrent, attention ------------------------------------------------------------------------


def _recurrent(kind: str) -> Writer:
    def write(at: Spot) -> Code:
        keywords = unless(bias=(at["bias"], True)) | {"batch_first": True}
        keywords |= unless(dropout=(at["dropout"], 0.0))
        if kind == "nn.RNN":
            keywords |= unless(nonlinearity=(at["nonlinearity"], "tanh"))
        layers = (at["layers"],) if at["layers"] != 1 else ()
        states = f"{at.apply(call(kind, at.shape[-1], at['units'], *layers, **keywords))}[0]"
        return Code(states if at["sequences"] else f"{states}[:, -1]")

    return write


def _embedding(at: Spot) -> Code:
    padding = unless(padding_idx=(at["padding_id"], None))
    return at.apply(call("nn.Embedding", at["vocabulary"], at["dimension"], **padding))


def _position(at: Spot) -> Code:
    steps, width = at.shape
    learned = at["method"] == "learned"
    length = (at["length"] if learned else None) or steps
    return at.apply(call(at.helper("attention", "PositionalEncoding"), length, width, learned=learned))


def _rotary(at: Spot) -> Code:
    *_, steps, width = at.shape
    sizes = (steps, at["head_size"] or width, at["rope_base"])
    keywords = unless(interleaved=(at["interleaved"], True))
    return at.apply(call(at.helper("attention", "RotaryEmbedding"), *sizes, **keywords))


def _attention(at: Spot) -> Code:
    query, key, value = {1: (0, 0, 0), 2: (0, 1, 1), 3: (0, 1, 2)}[len(at.inputs)]
    widths = (at.shapes[query][-1], at.shapes[key][-1], at.shapes[value][-1])
    keywords = unless(
        causal=(at.parameters.get("causal", False), False),
        dropout=(at["dropout"], 0.0),
        bias=(at["bias"], True),
    )
    layer = at.layer(call(at.helper("attention", "Attention"), widths, at["heads"], **keywords))
    return call(layer, at.inputs[query], at.inputs[key], at.inputs[value])


def _grouped(at: Spot) -> Code:
    steps, width = at.shape
    keywords: dict[str, Any] = {name: at[name] for name in ("causal", "dropout", "bias")}
    keywords["rotary"] = (steps, at["rope_base"]) if at["rotary"] else None
    sizes = (width, at["heads"], at["kv_heads"])
    return at.apply(call(at.helper("attention", "GroupedAttention"), *sizes, **keywords))


def _linear_attention(at: Spot) -> Code:
    name = at.helper("attention", "LinearAttention")
    return at.apply(call(name, at.shape[-1], at["heads"], causal=at["causal"], bias=at["bias"]))


def _transformer(*, cross: bool) -> Writer:
    def write(at: Spot) -> Code:
        names = ("causal", "dropout", "activation", "norm_first", "epsilon")
        keywords = {name: at[name] for name in names}
        sizes = (at.shape[-1], at["heads"], at["feed_forward"])
        block = call(at.helper("attention", "TransformerBlock"), *sizes, cross=cross, **keywords)
        layers = at.layer(f"nn.ModuleList({block} for _ in range({at['layers']}))")
        x, *memory = at.inputs
        at.step(f"{at.name} = {x}")
        at.step(f"for _block in {layers}:")
        at.step(f"    {at.name} = {call('_block', Code(at.name), *memory)}")
        return Code(at.name)

    return write


def _llama(at: Spot) -> Code:
    sizes = (*at.shape, at["heads"], at["kv_heads"], at["feed_forward"])
    keywords = {name: at[name] for name in ("rope_base", "epsilon")}
    return at.apply(call(at.helper("attention", "LlamaBlock"), *sizes, **keywords))


def _token_head(at: Spot) -> Code:
    (x,) = at.inputs
    parts: dict[str, Code] = {}
    if at["norm"] != "none":
        kind = "nn.RMSNorm" if at["norm"] == "rms" else "nn.LayerNorm"
        parts["output_norm"] = call(kind, at.shape[-1], eps=at["epsilon"])
    parts["output"] = call("nn.Linear", at.shape[-1], at["vocabulary"], **unless(bias=(at["bias"], True)))
    head = at.layer(_sequential(at, **parts))
    return call(head, Code(f"{x}[:, -1]") if at["last"] else x)


# -- activations, shape, merge -------------------------------------------------------------------


def _function(function: str, **renamed: str) -> Writer:
    def write(at: Spot) -> Code:
        return call(function, *at.inputs, **{name: at[given] for name, given in renamed.items()})

    return write


def _axis(at: Spot) -> int:
    axis: int = at["axis"]
    return axis + 1 if axis >= 0 else axis


def _along(function: str) -> Writer:
    return lambda at: call(function, *at.inputs, dim=_axis(at))


def _prelu(at: Spot) -> Code:
    return at.apply(call("nn.PReLU", *([at.shape[0]] if at["per_channel"] else [])))


def _flatten(at: Spot) -> Code:
    if not at.shape:
        return call("torch.unsqueeze", *at.inputs, 1)
    return call("torch.flatten", *at.inputs, 1)


def _reshape(at: Spot) -> Code:
    return call("torch.reshape", *at.inputs, (-1, *at.outputs[0]))


def _permute(at: Spot) -> Code:
    return call("torch.permute", *at.inputs, (0, *(axis + 1 for axis in at["order"])))


def _slice(at: Spot) -> Code:
    axis = at["axis"] % len(at.shape)
    start, stop, step = slice(at["start"], at["stop"], at["step"]).indices(at.shape[axis])
    if step == 1:
        return call("torch.narrow", *at.inputs, axis + 1, start, stop - start)
    return call(at.helper("function", "take_every"), *at.inputs, axis + 1, start, stop, step)


def _split(at: Spot) -> Values:
    names = at.writer.sheet.names
    parts = [Code(at.name)] + [Code(names.fresh(f"{at.name}_{n}")) for n in range(2, len(at["sizes"]) + 1)]
    split = call("torch.split", *at.inputs, at["sizes"], dim=_axis(at))
    at.step(f"{', '.join(parts)}{',' * (len(parts) == 1)} = {split}")
    return tuple(parts)


def _pad(at: Spot) -> Code:
    pairs = list(zip(at["before"], at["after"], strict=True))
    amounts = tuple(amount for pair in reversed(pairs) for amount in pair)
    if at["mode"] == "constant":
        return call("functional.pad", *at.inputs, amounts, **unless(value=(at["value"], 0.0)))
    return call("functional.pad", *at.inputs, amounts, mode=at["mode"])


def _concatenate(at: Spot) -> Code:
    return call("torch.cat", list(at.inputs), dim=_axis(at))


def _joined(operator: str) -> Writer:
    return lambda at: Code(f" {operator} ".join(at.inputs))


def _average(at: Spot) -> Code:
    if len(at.inputs) == 1:
        return at.inputs[0]
    return Code(f"({' + '.join(at.inputs)}) * {1.0 / len(at.inputs)!r}")


def _same(at: Spot) -> Code:
    return at.inputs[0]


# -- utility -------------------------------------------------------------------------------------


def _constant(at: Spot) -> Code:
    shape, values = at["shape"], at["values"]
    if len(values) == 1:
        value = call("torch.full", shape, values[0])
    else:
        value = Code(f"{call('torch.tensor', values)}.reshape({shape})")
    return call(at.layer(f"{at.helper('utility', 'ForEachSample')}({value}, trained=False)"), at.batch)


def _parameter(at: Spot) -> Code:
    shape = at["shape"]
    if at["initial"] == "normal":
        value = f"{call('torch.randn', shape)} * {at['deviation']!r}"
    else:
        value = call(f"torch.{'ones' if at['initial'] == 'ones' else 'zeros'}", shape)
    return call(at.layer(f"{at.helper('utility', 'ForEachSample')}({value}, trained=True)"), at.batch)


def _lambda(at: Spot) -> Code:
    return arithmetic(at["expression"], at.inputs)


# -- nodes with others inside --------------------------------------------------------------------


def _inside(at: Spot) -> tuple[str, bool]:
    if at.inner is None:
        raise ValueError(f"{at.name} has nothing inside it")
    return at.inner()


def _values_of(at: Spot) -> Values:
    """Names for the outputs of what is inside."""
    names = at.writer.sheet.names
    more = [Code(names.fresh(f"{at.name}_{n}")) for n in range(2, len(at.outputs) + 1)]
    return (Code(at.name), *more)


def _subgraph(at: Spot) -> Code | Values:
    name, takes_batch = _inside(at)
    answer = call(at.layer(f"{name}()"), *((at.batch,) if takes_batch else at.inputs))
    if len(at.outputs) == 1:
        return answer
    values = _values_of(at)
    at.step(f"{', '.join(values)} = {answer}")
    return values


def _repeat(at: Spot) -> Code | Values:
    name, takes_batch = _inside(at)
    blocks = at.layer(f"nn.ModuleList({name}() for _ in range({at['times']}))")
    values = _values_of(at)
    if takes_batch or len(at.inputs) != len(values):  # Runs once: nothing goes around.
        answer = call(f"{blocks}[0]", *((at.batch,) if takes_batch else at.inputs))
        at.step(f"{', '.join(values)} = {answer}")
        return values
    at.step(f"{', '.join(values)} = {', '.join(at.inputs)}")
    at.step(f"for _block in {blocks}:")
    at.step(f"    {', '.join(values)} = {call('_block', *values)}")
    return values


def _each_step(at: Spot) -> Code:
    name, _ = _inside(at)
    (x,) = at.inputs
    answer = call(at.layer(f"{name}()"), Code(f"{x}.flatten(0, 1)"))
    return call("torch.unflatten", answer, 0, (-1, at.shape[0]))


def _both_ways(at: Spot) -> Code:
    name, _ = _inside(at)
    layers = at.layer(f'nn.ModuleDict({{"forwards": {name}(), "backwards": {name}()}})')
    (x,) = at.inputs
    forwards = Code(f'{layers}["forwards"]({x})')
    # The states of all steps come in the order of the input again; a last state is as it is.
    turned = ".flip(1)" if len(at.outputs[0]) == 2 else ""
    backwards = Code(f'{layers}["backwards"]({x}.flip(1)){turned}')
    match at["merge"]:
        case "concatenate":
            return call("torch.cat", [forwards, backwards], dim=-1)
        case "multiply":
            return Code(f"{forwards} * {backwards}")
        case "average":
            return Code(f"({forwards} + {backwards}) * 0.5")
        case _:
            return Code(f"{forwards} + {backwards}")


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "Dense": _dense,
        "Conv1D": _convolution(1),
        "Conv2D": _convolution(2),
        "Conv3D": _convolution(3),
        "DepthwiseConv2D": _depthwise,
        "SeparableConv2D": _separable,
        "ConvTranspose1D": _transposed(1),
        "ConvTranspose2D": _transposed(2),
        "MaxPool1D": _window("functional.max_pool1d"),
        "MaxPool2D": _window("functional.max_pool2d"),
        "AvgPool2D": _window("functional.avg_pool2d"),
        "GlobalMaxPool": _over_places("torch.amax"),
        "GlobalAvgPool": _over_places("torch.mean"),
        "AdaptiveAvgPool": _adaptive,
        "Upsample": _upsample,
        "BatchNorm": _batch_norm,
        "LayerNorm": _trailing_norm("nn.LayerNorm"),
        "RMSNorm": _trailing_norm("nn.RMSNorm"),
        "GroupNorm": _group_norm,
        "InstanceNorm": _instance_norm,
        "Dropout": _dropout,
        "SpatialDropout": _spatial_dropout,
        "StochasticDepth": _stochastic_depth,
        "RNN": _recurrent("nn.RNN"),
        "LSTM": _recurrent("nn.LSTM"),
        "GRU": _recurrent("nn.GRU"),
        "Bidirectional": _both_ways,
        "TimeDistributed": _each_step,
        "Embedding": _embedding,
        "PositionalEncoding": _position,
        "RotaryEmbedding": _rotary,
        "MultiHeadAttention": _attention,
        "SelfAttention": _attention,
        "CrossAttention": _attention,
        "GroupedQueryAttention": _grouped,
        "LinearAttention": _linear_attention,
        "TransformerEncoder": _transformer(cross=False),
        "TransformerDecoder": _transformer(cross=True),
        "LlamaBlock": _llama,
        "TokenHead": _token_head,
        "ReLU": _function("torch.relu"),
        "LeakyReLU": _function("functional.leaky_relu", negative_slope="negative_slope"),
        "PReLU": _prelu,
        "ELU": _function("functional.elu", alpha="alpha"),
        "SELU": _function("torch.selu"),
        "GELU": _function("functional.gelu", approximate="approximate"),
        "Swish": _function("functional.silu"),
        "Mish": _function("functional.mish"),
        "Sigmoid": _function("torch.sigmoid"),
        "Tanh": _function("torch.tanh"),
        "Softplus": _function("functional.softplus", beta="beta"),
        "Softmax": _along("torch.softmax"),
        "LogSoftmax": _along("torch.log_softmax"),
        "GLU": _along("functional.glu"),
        "Flatten": _flatten,
        "Reshape": _reshape,
        "View": _reshape,
        "Permute": _permute,
        "Squeeze": _along("torch.squeeze"),
        "Unsqueeze": _along("torch.unsqueeze"),
        "Split": _split,
        "Slice": _slice,
        "Pad": _pad,
        "Concatenate": _concatenate,
        "Add": _joined("+"),
        "Multiply": _joined("*"),
        "Average": _average,
        "MatMul": _function("torch.matmul"),
        "Identity": _same,
        "Output": _same,
        "Constant": _constant,
        "Parameter": _parameter,
        "Lambda": _lambda,
        "Subgraph": _subgraph,
        "Repeat": _repeat,
    }
)
