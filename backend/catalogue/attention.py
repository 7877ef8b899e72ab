"""Embedding, attention and transformer layers, over sequences shaped (steps, features)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backend.catalogue.parameter import Parameter, Parameters, boolean, choice, integer, number
from backend.catalogue.record import (
    MAX_IDS,
    Category,
    Counts,
    NodeType,
    Numbers,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    described,
    elements,
    layer,
    need_axes,
)
from backend.catalogue.recurrent import SEQUENCE
from backend.errors import SetParameter, ShapeMismatchError

HEADS = integer("heads", 4, "Looks at so many things at once; must divide the features", maximum=1024)
KV_HEADS = integer("kv_heads", 2, "Heads that keys and values have; must divide heads", maximum=1024)
CAUSAL = boolean("causal", False, "A step sees itself and those before it only")
DROPOUT = number("dropout", 0.0, "Share that is dropped while training", 0.0, 0.99)
BIAS = boolean("bias", True, "Adds a learned number to each output of the projections")
ROPE_BASE = number("rope_base", 10_000.0, "How slowly the slowest pair of features turns", 1.0, 1e9)
SAME = "(steps, features) gives the same shape"


def _linear(rows: int, fan_in: int, fan_out: int, bias: bool) -> Counts:
    flops = rows * fan_out * (2 * fan_in + bias)
    return Counts(fan_out * (fan_in + bias), flops, activations=rows * fan_out)


def _scores(queries: int, keys: int, width: int, heads: int) -> Counts:
    """Softmax(q k) v: what it costs, for it has no weights."""
    return Counts(flops=queries * keys * (4 * width + 5 * heads), activations=queries * width)


def _norm(rows: int, width: int, weights: int) -> Counts:
    return Counts(weights * width, 8 * rows * width, activations=rows * width)


def _heads_of(given: Parameters, width: int) -> int:
    """The size of one head; raises ShapeMismatchError unless heads divide the width."""
    heads: int = given["heads"]
    if width % heads:
        fitting = next(n for n in range(min(heads, width), 0, -1) if width % n == 0)
        raise ShapeMismatchError(
            f"{width} features, must be divisible by heads, which is {heads}", SetParameter("heads", fitting)
        )
    return width // heads


def _need_even(size: int) -> None:
    if size % 2:
        raise ShapeMismatchError(f"a head of {size} features cannot be rotated in pairs, must be even")


def _check_grouped(given: Parameters, width: int) -> int:
    size = _heads_of(given, width)
    heads, kv_heads = given["heads"], given["kv_heads"]
    if heads % kv_heads:
        fitting = next(n for n in range(min(kv_heads, heads), 0, -1) if heads % n == 0)
        raise ShapeMismatchError(
            f"heads is {heads}, must be divisible by kv_heads, which is {kv_heads}",
            SetParameter("kv_heads", fitting),
        )
    return size


# -- embedding and position ----------------------------------------------------------------------


def _embedding_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    padding = given["padding_id"]
    if padding is not None and padding >= given["vocabulary"]:
        raise ShapeMismatchError(
            f"padding_id is {padding}, must be below vocabulary, which is {given['vocabulary']}",
            SetParameter("padding_id", None),
        )
    return (*inputs[0], given["dimension"])


def _embedding_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(given["vocabulary"] * given["dimension"])


def _position_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    length = given["length"]
    if length is not None and length < inputs[0][0]:
        raise ShapeMismatchError(
            f"length is {length}, the sequence has {inputs[0][0]} steps", SetParameter("length", inputs[0][0])
        )
    return inputs[0]


def _position_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    learned = (given["length"] or output[0]) * output[1] if given["method"] == "learned" else 0
    return Counts(learned, elements(output))


def _rotary_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    if len(shape) < 2:
        raise ShapeMismatchError(f"takes (..., steps, features), got {described(shape)}")
    size = given["head_size"] or shape[-1]
    if shape[-1] % size:
        raise ShapeMismatchError(
            f"{shape[-1]} features, must be divisible by head_size, which is {size}",
            SetParameter("head_size", None),
        )
    _need_even(size)
    return shape


def _rotary_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(flops=3 * elements(output))


# -- attention -----------------------------------------------------------------------------------


def _attention(width: int, queries: int, keys: Shape, values: Shape, heads: int, bias: bool) -> Counts:
    return (
        _linear(queries, width, width, bias)
        + _linear(keys[0], keys[1], width, bias)
        + _linear(values[0], values[1], width, bias)
        + _scores(queries, keys[0], width, heads)
        + _linear(queries, width, width, bias)
    )


def _attention_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    for shape in inputs:
        need_axes(shape, 2, SEQUENCE)
    query, key, value = inputs[0], inputs[min(1, len(inputs) - 1)], inputs[-1]
    if key[0] != value[0]:
        raise ShapeMismatchError(f"key has {key[0]} steps and value {value[0]}, must be as many")
    if given.get("causal") and query[0] != key[0]:
        raise ShapeMismatchError(
            f"causal needs as many queries as keys, got {query[0]} and {key[0]}",
            SetParameter("causal", False),
        )
    _heads_of(given, query[1])
    return query


def _attention_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    query, key, value = inputs[0], inputs[min(1, len(inputs) - 1)], inputs[-1]
    return _attention(query[1], query[0], key, value, given["heads"], given["bias"])


def _linear_attention_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    steps, width = output
    size = width // given["heads"]
    product = Counts(
        flops=steps * width * (4 * size + 4), activations=steps * width * (1 + size * given["causal"])
    )
    total = product
    for _ in range(4):
        total += _linear(steps, width, width, given["bias"])
    return total


def _grouped_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    size = _check_grouped(given, inputs[0][1])
    if given["rotary"]:
        _need_even(size)
    return inputs[0]


def _grouped(given: Parameters, steps: int, width: int, bias: bool) -> Counts:
    narrow = width // given["heads"] * given["kv_heads"]
    return (
        _linear(steps, width, width, bias)
        + _linear(steps, width, narrow, bias).times(2, 2)
        + _scores(steps, steps, width, given["heads"])
        + _linear(steps, width, width, bias)
    )


def _grouped_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return _grouped(given, output[0], output[1], given["bias"])


# -- transformers --------------------------------------------------------------------------------


def _encoder_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    _heads_of(given, inputs[0][1])
    return inputs[0]


def _feed_forward(given: Parameters, steps: int, width: int) -> Counts:
    inner = given["feed_forward"]
    return _linear(steps, width, inner, True) + _linear(steps, inner, width, True)


def _encoder_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    steps, width = output
    one = (
        _attention(width, steps, output, output, given["heads"], True)
        + _feed_forward(given, steps, width)
        + _norm(steps, width, 2).times(2, 2)
    )
    return one.times(given["layers"], given["layers"])


def _decoder_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    for shape in inputs:
        need_axes(shape, 2, SEQUENCE)
    if inputs[0][1] != inputs[1][1]:
        raise ShapeMismatchError(
            f"memory has {inputs[1][1]} features, must have those of input, {inputs[0][1]}"
        )
    _heads_of(given, inputs[0][1])
    return inputs[0]


def _decoder_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    steps, width = output
    one = (
        _attention(width, steps, output, output, given["heads"], True)
        + _attention(width, steps, inputs[1], inputs[1], given["heads"], True)
        + _feed_forward(given, steps, width)
        + _norm(steps, width, 2).times(3, 3)
    )
    return one.times(given["layers"], given["layers"])


def _llama_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    _need_even(_check_grouped(given, inputs[0][1]))
    return inputs[0]


def _llama_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    steps, width = output
    inner = given["feed_forward"]
    return (
        _grouped(given, steps, width, bias=False)
        + _linear(steps, width, inner, False).times(2, 2)
        + _linear(steps, inner, width, False)
        + _norm(steps, width, 1).times(2, 2)
    )


def _head_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 2, SEQUENCE)
    return (given["vocabulary"],) if given["last"] else (inputs[0][0], given["vocabulary"])


def _head_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    steps, width = 1 if given["last"] else inputs[0][0], inputs[0][1]
    weights = {"none": 0, "rms": 1, "layer": 2}[given["norm"]]
    norm = _norm(steps, width, weights) if weights else Counts()
    return norm + _linear(steps, width, given["vocabulary"], given["bias"])


# -- declarations --------------------------------------------------------------------------------

CountOf = Callable[[Parameters, tuple[Shape, ...], Shape], Counts]
ShapeOf = Callable[[Parameters, tuple[Shape, ...]], Shape]
INPUT = Port("input", PortKind.TENSOR)
LAYERS = integer("layers", 1, "Blocks on top of each other, each with weights of its own", maximum=128)
FEED_FORWARD = integer("feed_forward", 256, "Features between the two layers after attention")
ACTIVATION = choice("activation", "gelu", "Between the two layers", ("relu", "gelu", "gelu_tanh"))
NORM_FIRST = boolean("norm_first", True, "Normalizes before each part, which trains more steadily, not after")
EPSILON = number("epsilon", 1e-5, "Added so that nothing is divided by zero", 1e-12, 1.0)


def _type(
    name: str,
    help: str,
    rules: tuple[ShapeOf, CountOf],
    parameters: tuple[Parameter, ...],
    *keywords: str,
    inputs: tuple[str, ...] = ("input",),
    shape_rule: str = SAME,
    numbers: Numbers = Numbers.REAL,
    weights: bool = True,
) -> NodeType:
    ports = tuple(Port(port, PortKind.TENSOR) for port in inputs)
    return layer(
        name,
        Category.ATTENTION,
        help,
        *rules,
        parameters,
        keywords,
        ports,
        shape_rule=shape_rule,
        numbers=numbers,
        weights=weights,
    )


def _within_vocabulary(record: NodeType) -> NodeType:
    """Refuses ids that it has no vector for."""

    def rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
        ids = max((value.ids for value in types if isinstance(value, TensorType)), default=0)
        if ids > given["vocabulary"]:
            raise ShapeMismatchError(
                f"takes ids below {given['vocabulary']}, its vocabulary, got ids below {ids}",
                SetParameter("vocabulary", ids),
            )
        return record.rule(given, types)

    return replace(record, rule=rule)


EMBEDDING = _within_vocabulary(
    _type(
        "Embedding",
        "A learned vector for each id, such as that of a token.",
        (_embedding_shape, _embedding_count),
        (
            integer("vocabulary", 256, "Number of different ids", maximum=MAX_IDS),
            integer("dimension", 64, "Length of each vector", maximum=1 << 16),
            integer("padding_id", None, "The id whose vector stays zero", 0, MAX_IDS),
        ),
        "token",
        "lookup",
        "word vector",
        shape_rule="ids shaped (...) give (..., dimension)",
        numbers=Numbers.IDS,
    )
)
TYPES = (
    EMBEDDING,
    _type(
        "PositionalEncoding",
        "Adds to each step a vector that says where it is.",
        (_position_shape, _position_count),
        (
            choice("method", "sinusoidal", "Computed, or learned", ("sinusoidal", "learned")),
            integer("length", None, "Longest sequence that is learned; null: that of the input"),
        ),
        "position",
        "sinusoidal",
        "transformer",
    ),
    _type(
        "RotaryEmbedding",
        "Turns pairs of features by an angle that grows with the step.",
        (_rotary_shape, _rotary_count),
        (
            ROPE_BASE,
            integer("head_size", None, "Features that are rotated together; null: all", 2, 1 << 16),
            boolean("interleaved", True, "Pairs are neighbours, as in llama; else halves, as in GPT-NeoX"),
        ),
        "rope",
        "position",
        shape_rule="(..., steps, features) gives the same shape",
        weights=False,
    ),
    _type(
        "MultiHeadAttention",
        "Each query takes from the values what its keys match.",
        (_attention_shape, _attention_count),
        (HEADS, CAUSAL, DROPOUT, BIAS),
        "attention",
        "transformer",
        "mha",
        inputs=("query", "key", "value"),
        shape_rule="the shape of query; key and value are (other steps, any features)",
    ),
    _type(
        "SelfAttention",
        "Each step takes from the other steps what it looks for.",
        (_attention_shape, _attention_count),
        (HEADS, CAUSAL, DROPOUT, BIAS),
        "attention",
        "transformer",
    ),
    _type(
        "CrossAttention",
        "Each step takes from another sequence what it looks for.",
        (_attention_shape, _attention_count),
        (HEADS, DROPOUT, BIAS),
        "attention",
        "transformer",
        "encoder decoder",
        inputs=("input", "context"),
        shape_rule="the shape of input; context is (other steps, any features)",
    ),
    _type(
        "GroupedQueryAttention",
        "Self-attention in which several heads share keys and values.",
        (_grouped_shape, _grouped_count),
        (
            HEADS,
            KV_HEADS,
            boolean("causal", True, "A step sees itself and those before it only"),
            boolean("rotary", True, "Rotates queries and keys by their step"),
            ROPE_BASE,
            DROPOUT,
            boolean("bias", False, "Adds a learned number to each output of the projections"),
        ),
        "attention",
        "gqa",
        "llama",
    ),
    _type(
        "LinearAttention",
        "Self-attention whose cost grows with the length, not with its square.",
        (_attention_shape, _linear_attention_count),
        (HEADS, CAUSAL, BIAS),
        "attention",
        "efficient",
        "long sequence",
    ),
    _type(
        "TransformerEncoder",
        "Blocks of self-attention and two dense layers.",
        (_encoder_shape, _encoder_count),
        (LAYERS, HEADS, FEED_FORWARD, ACTIVATION, NORM_FIRST, CAUSAL, DROPOUT, EPSILON),
        "attention",
        "bert",
        "gpt",
    ),
    _type(
        "TransformerDecoder",
        "Blocks that look at their own past, then at another sequence.",
        (_decoder_shape, _decoder_count),
        (
            LAYERS,
            HEADS,
            FEED_FORWARD,
            ACTIVATION,
            NORM_FIRST,
            boolean("causal", True, "A step sees itself and those before it only"),
            DROPOUT,
            EPSILON,
        ),
        "attention",
        "translation",
        "sequence to sequence",
        inputs=("input", "memory"),
        shape_rule="the shape of input; memory is (other steps, the same features)",
    ),
    _type(
        "LlamaBlock",
        "The block of llama models: RMSNorm, grouped-query attention with rotary embedding, SwiGLU.",
        (_llama_shape, _llama_count),
        (
            HEADS,
            KV_HEADS,
            integer("feed_forward", 256, "Features inside SwiGLU"),
            ROPE_BASE,
            EPSILON,
        ),
        "transformer",
        "language model",
        "gguf",
    ),
    _type(
        "TokenHead",
        "A score for each token of the vocabulary.",
        (_head_shape, _head_count),
        (
            integer("vocabulary", 256, "Number of tokens", maximum=MAX_IDS),
            choice("norm", "rms", "What is normalized before the scores", ("rms", "layer", "none")),
            boolean("last", False, "Only for the last step"),
            boolean("bias", False, "Adds a learned number to each score"),
            EPSILON,
        ),
        "language model",
        "logits",
        "output",
        shape_rule="(steps, features) gives (steps, vocabulary), or (vocabulary) for the last step",
    ),
)
