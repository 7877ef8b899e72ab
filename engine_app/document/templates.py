"""Ready patterns: pieces of graph to begin with, or to drop into one. Pure.

Each is given in a few words a node, laid out when it is asked for. A pattern that is no whole model says
what it takes (``sample``), so that it can be shown, and tested, with an Input and an Output around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.graph import Body, Graph, JsonValue, Link, Node, TrainingSettings
from engine_app.document.layout import arranged
from engine_app.document.ports import ports_of
from engine_app.document.view import placed, with_view
from engine_app.document.wiring import FreshIds

ONCE = TrainingSettings()


class Piece:
    """Collects nodes and links; ``add`` gives the id, to be linked from."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._links: list[Link] = []

    def add(self, type_name: str, *sources: str | tuple[str, str], **parameters: JsonValue) -> str:
        """Sources go to the inputs in order, an id for its first output. A variadic input takes all."""
        ids = FreshIds(Body(tuple(self._nodes)))
        node = Node(ids.fresh(type_name.lower()), type_name, 1, parameters)
        ports = ports_of(node).inputs
        for number, source in enumerate(sources):
            source_id, source_port = source if isinstance(source, tuple) else (source, self._first(source))
            port = ports[min(number, len(ports) - 1)]
            self._links.append(Link(source_id, source_port, node.id, port.name))
        self._nodes.append(node)
        return node.id

    def wrap(self, type_name: str, title: str, inner: Piece, *sources: str, **parameters: JsonValue) -> str:
        """A node with a piece inside."""
        name = self.add(type_name, *sources, **parameters)
        body = inner.graph("").nodes, inner.graph("").links
        self._nodes[-1] = with_view(replace(self._nodes[-1], body=Body(*body)), title=title)
        return name

    def chain(self, source: str, *layers: tuple[str, dict[str, JsonValue]]) -> str:
        for type_name, parameters in layers:
            source = self.add(type_name, source, **parameters)
        return source

    def graph(self, name: str, training: TrainingSettings = ONCE) -> Graph:
        bare = Graph(name, tuple(self._nodes), tuple(self._links), training)
        places = arranged(bare)
        return replace(bare, nodes=tuple(placed(node, *places[node.id]) for node in bare.nodes))

    def _first(self, node_id: str) -> str:
        node = next(each for each in self._nodes if each.id == node_id)
        return ports_of(node).outputs[0].name


@dataclass(frozen=True, slots=True)
class Template:
    """``is_model``: a whole graph that can be trained. Otherwise a pattern for the middle of one."""

    name: str
    group: str
    help: str
    build: Callable[[], Piece]
    is_model: bool = False
    training: TrainingSettings = ONCE

    def graph(self) -> Graph:
        """Laid out; a pattern without its Input and Output."""
        whole = self.build().graph(self.name, self.training)
        if self.is_model:
            return whole
        ends = {node.id for node in whole.nodes if node.type in ("Input", "Output")}
        return replace(
            whole,
            nodes=tuple(node for node in whole.nodes if node.id not in ends),
            links=tuple(each for each in whole.links if not {each.source_node, each.target_node} & ends),
        )

    def example(self) -> Graph:
        """With Input and Output around it."""
        return self.build().graph(self.name, self.training)


def layer(type_name: str, **parameters: JsonValue) -> tuple[str, dict[str, JsonValue]]:
    return type_name, parameters


def conv(filters: int, size: int = 3, **more: JsonValue) -> tuple[str, dict[str, JsonValue]]:
    padding: dict[str, JsonValue] = {} if "stride" in more else {"padding": "same"}
    return "Conv2D", {"filters": filters, "kernel_size": size, **padding, **more}


NORM, RELU = layer("BatchNorm"), layer("ReLU")
PICTURE: list[JsonValue] = [16, 32, 32]
FEATURES: list[JsonValue] = [64]
SEQUENCE: list[JsonValue] = [32, 64]


# -- whole models --------------------------------------------------------------------------------


def _data(
    piece: Piece, shape: list[JsonValue], classes: int = 0, *, text: int = 0, regression: bool = False
) -> str:
    facts: dict[str, JsonValue] = {"sample_shape": shape, "classes": classes}
    if text:
        facts["vocabulary"] = text
    if regression:
        facts["target_shape"] = [1]
    data = piece.add("DatasetInput", **facts)
    steps = [layer("DataSplit", stratified=not regression and not text)]
    steps += [] if text else [layer("Normalize")]
    return piece.chain(data, *steps, layer("DataLoader", batch_size=64))


def _train(piece: Piece, loader: str, output: str, loss: str, rate: float = 1e-3) -> None:
    found = piece.add(loss, output, (loader, "labels"))
    piece.add("AdamW", found, learning_rate=rate)


def _classifier(shape: list[JsonValue], classes: int, *layers: tuple[str, dict[str, JsonValue]]) -> Piece:
    piece = Piece()
    loader = _data(piece, shape, classes)
    entry = piece.add("Input", (loader, "samples"), shape=shape)
    output = piece.chain(entry, *layers, layer("Dense", units=classes), layer("Output"))
    _train(piece, loader, output, "CrossEntropyLoss")
    return piece


def _mlp() -> Piece:
    hidden = (layer("Dense", units=128), RELU, layer("Dropout", rate=0.2), layer("Dense", units=64), RELU)
    return _classifier([1, 8, 8], 10, layer("Flatten"), *hidden)


def _cnn() -> Piece:
    blocks = (conv(16), NORM, RELU, conv(32), NORM, RELU, layer("MaxPool2D"), conv(64), NORM, RELU)
    return _classifier([1, 8, 8], 10, *blocks, layer("GlobalAvgPool"), layer("Dropout", rate=0.25))


def _colour_cnn() -> Piece:
    block = [layer("MaxPool2D"), NORM, RELU]
    layers = [conv(32), NORM, RELU]
    for filters in (64, 128, 256):
        layers += [conv(filters), *block]
    return _classifier([3, 32, 32], 10, *layers, layer("GlobalAvgPool"))


def _regression() -> Piece:
    piece = Piece()
    loader = _data(piece, [8], regression=True)
    entry = piece.add("Input", (loader, "samples"), shape=[8])
    layers = (layer("Dense", units=64), RELU, layer("Dense", units=64), RELU, layer("Dense", units=1))
    _train(piece, loader, piece.chain(entry, *layers, layer("Output")), "MSELoss")
    return piece


def _sequence(*middle: tuple[str, dict[str, JsonValue]]) -> Piece:
    return _classifier([64, 8], 5, *middle)


def _series_gru() -> Piece:
    return _sequence(layer("GRU", units=64, sequences=False), layer("Dropout", rate=0.2))


def _series_transformer() -> Piece:
    encoder = layer("TransformerEncoder", layers=2, heads=4, feed_forward=128)
    return _sequence(layer("Dense", units=32), layer("PositionalEncoding"), encoder, layer("Flatten"))


# -- patterns ------------------------------------------------------------------------------------


def _between(sample: list[JsonValue], *layers: tuple[str, dict[str, JsonValue]]) -> Piece:
    piece = Piece()
    piece.chain(piece.add("Input", shape=sample), *layers, layer("Output"))
    return piece


def _tokens(*layers: tuple[str, dict[str, JsonValue]]) -> Piece:
    piece = Piece()
    piece.chain(piece.add("Input", shape=[32], vocabulary=256), *layers, layer("Output"))
    return piece


def _residual(sample: list[JsonValue], merge: str, *layers: tuple[str, dict[str, JsonValue]]) -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=sample)
    around = piece.add(merge, entry, piece.chain(entry, *layers))
    piece.chain(around, *([RELU] if sample is PICTURE else []), layer("Output"))
    return piece


def _inception() -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=PICTURE)
    ways = [
        piece.chain(entry, conv(16, 1), RELU),
        piece.chain(entry, conv(16, 1), RELU, conv(24, 3), RELU),
        piece.chain(entry, conv(8, 1), RELU, conv(16, 5), RELU),
        piece.chain(entry, layer("MaxPool2D", kernel_size=3, stride=1, padding=1), conv(8, 1), RELU),
    ]
    piece.chain(piece.add("Concatenate", *ways, axis=0), layer("Output"))
    return piece


def _unet() -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=PICTURE)
    high = piece.chain(entry, conv(16), RELU)
    middle = piece.chain(high, layer("MaxPool2D"), conv(32), RELU)
    low = piece.chain(middle, layer("MaxPool2D"), conv(64), RELU, layer("Upsample"), conv(32), RELU)
    joined = piece.chain(piece.add("Concatenate", middle, low, axis=0), conv(32), RELU)
    up = piece.chain(joined, layer("Upsample"), conv(16), RELU)
    piece.chain(piece.add("Concatenate", high, up, axis=0), conv(16), RELU, layer("Output"))
    return piece


def _attention_head() -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=SEQUENCE)
    query, key, value = (piece.add("Dense", entry, units=32, bias=False) for _ in range(3))
    turned = piece.add("Permute", key, order=[1, 0])
    weights = piece.chain(piece.add("MatMul", query, turned), layer("Softmax"))
    piece.chain(piece.add("MatMul", weights, value), layer("Output"))
    return piece


def _transformer_block() -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=SEQUENCE)
    attended = piece.chain(entry, layer("LayerNorm"), layer("SelfAttention", heads=4))
    first = piece.add("Add", entry, attended)
    wide = (layer("LayerNorm"), layer("Dense", units=256), layer("GELU"), layer("Dense", units=64))
    piece.chain(piece.add("Add", first, piece.chain(first, *wide)), layer("Output"))
    return piece


def _gated() -> Piece:
    piece = Piece()
    entry = piece.add("Input", shape=SEQUENCE)
    gate = piece.chain(entry, layer("Dense", units=172, bias=False), layer("Swish"))
    wide = piece.add("Dense", entry, units=172, bias=False)
    product = piece.add("Multiply", gate, wide)
    piece.chain(product, layer("Dense", units=64, bias=False), layer("Output"))
    return piece


def _cross_attention() -> Piece:
    piece = Piece()
    entry, context = piece.add("Input", shape=SEQUENCE), piece.add("Input", shape=[16, 64])
    found = piece.add("CrossAttention", piece.add("LayerNorm", entry), context)
    piece.chain(piece.add("Add", entry, found), layer("Output"))
    return piece


def _repeated(title: str, times: int, *layers: tuple[str, dict[str, JsonValue]]) -> Piece:
    inner = Piece()
    entry = inner.add("Input")
    inner.chain(inner.add("Add", entry, inner.chain(entry, *layers)), layer("Output"))
    piece = Piece()
    start = piece.add("Input", shape=PICTURE)
    piece.chain(piece.wrap("Repeat", title, inner, start, times=times), layer("Output"))
    return piece


def _residual_stack() -> Piece:
    return _repeated("Residual stage", 3, conv(16), NORM, RELU, conv(16), NORM)


def _llama() -> Piece:
    blocks = [layer("LlamaBlock", heads=4, kv_heads=2, feed_forward=256)] * 4
    return _tokens(layer("Embedding", dimension=64), *blocks, layer("TokenHead"))


def _gpt() -> Piece:
    encoder = layer("TransformerEncoder", layers=4, heads=4, feed_forward=256, causal=True)
    learned = layer("PositionalEncoding", method="learned")
    return _tokens(layer("Embedding", dimension=64), learned, encoder, layer("TokenHead", norm="layer"))


def _two_ways() -> Piece:
    inner = Piece()
    inner.add("LSTM", units=64, sequences=True)
    piece = Piece()
    entry = piece.add("Input", shape=SEQUENCE)
    piece.chain(piece.wrap("Bidirectional", "", inner, entry), layer("Output"))
    return piece


def _chain(loss: str, *, regression: bool) -> Piece:
    piece = Piece()
    shape: list[JsonValue] = [8]
    loader = _data(piece, shape, 0 if regression else 3, regression=regression)
    entry = piece.add("Input", (loader, "samples"), shape=shape)
    output = piece.chain(entry, layer("Dense", units=1 if regression else 3), layer("Output"))
    found = piece.add(loss, output, (loader, "labels"))
    optimizer = piece.add("AdamW", found, learning_rate=1e-3)
    piece.chain(optimizer, layer("GradientClip"), layer("WarmupScheduler"), layer("CosineAnnealing"))
    return piece


def _classification_chain() -> Piece:
    return _chain("CrossEntropyLoss", regression=False)


def _regression_chain() -> Piece:
    return _chain("HuberLoss", regression=True)


DOWN, UP = layer("MaxPool2D"), layer("Upsample")
MODELS, CNN, SEQ, TRAIN = "Models", "Convolution", "Sequences and language", "Training"
DENSE = "Dense"
TEMPLATES: tuple[Template, ...] = (
    Template("MLP classifier", MODELS, "Digits with dense layers.", _mlp, True, TrainingSettings(20)),
    Template("CNN classifier", MODELS, "Digits with convolutions.", _cnn, True, TrainingSettings(20)),
    Template("Colour pictures", MODELS, "CIFAR-sized pictures.", _colour_cnn, True, TrainingSettings(30)),
    Template("Regression", MODELS, "Numbers from numbers.", _regression, True, TrainingSettings(50)),
    Template("Series with GRU", MODELS, "Classes of time series.", _series_gru, True, TrainingSettings(20)),
    Template(
        "Series with transformer",
        MODELS,
        "Classes of time series, by attention.",
        _series_transformer,
        True,
        TrainingSettings(20),
    ),
    Template(
        "Classification training", TRAIN, "Data, loss, AdamW, warmup, cosine.", _classification_chain, True
    ),
    Template("Regression training", TRAIN, "Data, Huber loss, AdamW, cosine.", _regression_chain, True),
    Template(
        "Dense block",
        DENSE,
        "Dense, norm, ReLU, dropout.",
        lambda: _between(
            FEATURES, layer("Dense", units=64), layer("LayerNorm"), RELU, layer("Dropout", rate=0.2)
        ),
    ),
    Template(
        "Autoencoder",
        DENSE,
        "Narrow in the middle.",
        lambda: _between(
            FEATURES,
            layer("Dense", units=32),
            RELU,
            layer("Dense", units=8),
            layer("Dense", units=32),
            RELU,
            layer("Dense", units=64),
        ),
    ),
    Template(
        "Residual dense",
        DENSE,
        "Adds what goes in to what comes out.",
        lambda: _residual(FEATURES, "Add", layer("Dense", units=64), RELU, layer("Dense", units=64)),
    ),
    Template("Gated feed-forward", DENSE, "SwiGLU, as in Llama.", _gated),
    Template("Conv block", CNN, "Convolution, norm, ReLU.", lambda: _between(PICTURE, conv(32), NORM, RELU)),
    Template(
        "Downsampling block",
        CNN,
        "Half the size, more channels.",
        lambda: _between(PICTURE, conv(32), NORM, RELU, DOWN),
    ),
    Template(
        "Upsampling block",
        CNN,
        "Twice the size, fewer channels.",
        lambda: _between(PICTURE, UP, conv(8), NORM, RELU),
    ),
    Template(
        "Residual block",
        CNN,
        "Two convolutions with a way around.",
        lambda: _residual(PICTURE, "Add", conv(16), NORM, RELU, conv(16), NORM),
    ),
    Template(
        "Bottleneck block",
        CNN,
        "1, 3, 1 convolutions with a way around.",
        lambda: _residual(PICTURE, "Add", conv(4, 1), NORM, RELU, conv(4), NORM, RELU, conv(16, 1), NORM),
    ),
    Template("Residual stage", CNN, "A residual block, three times.", _residual_stack),
    Template(
        "Dense connection",
        CNN,
        "New channels beside the old ones.",
        lambda: _residual(PICTURE, "Concatenate", NORM, RELU, conv(12)),
    ),
    Template(
        "Separable block",
        CNN,
        "Few weights, for phones.",
        lambda: _between(
            PICTURE, layer("DepthwiseConv2D", padding="same"), NORM, RELU, conv(32, 1), NORM, RELU
        ),
    ),
    Template("Inception block", CNN, "Windows of several sizes.", _inception),
    Template("Encoder-decoder", CNN, "U-Net with two steps.", _unet),
    Template("Attention head", SEQ, "Query, key, value, written out.", _attention_head),
    Template("Transformer block", SEQ, "Norm first: attention, feed-forward.", _transformer_block),
    Template("Cross attention", SEQ, "One sequence looks at another.", _cross_attention),
    Template("Bidirectional LSTM", SEQ, "Reads both ways.", _two_ways),
    Template("Llama stack", SEQ, "Tokens to logits; exports to llama.cpp.", _llama),
    Template("GPT stack", SEQ, "Learned positions, causal.", _gpt),
)
