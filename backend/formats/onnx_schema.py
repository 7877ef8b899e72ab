"""The messages of an ONNX model as tables: fields, element types, and operators that are built in."""

from __future__ import annotations

from collections.abc import Mapping

from backend.formats.protobuf import Kind

Schema = Mapping[int, Kind]

_INT, _FLOAT, _ONE, _MANY = Kind.INT, Kind.FLOAT, Kind.ONE, Kind.MANY
MODEL = {1: _INT, 2: _ONE, 3: _ONE, 4: _ONE, 5: _INT, 6: _ONE, 7: _ONE, 8: _MANY, 14: _MANY, 20: _MANY,
          25: _MANY, 26: _MANY}  # fmt: skip
GRAPH = {1: _MANY, 2: _ONE, 5: _MANY, 10: _ONE, 11: _MANY, 12: _MANY, 13: _MANY, 14: _MANY, 15: _MANY,
          16: _MANY}  # fmt: skip
NODE = {1: _MANY, 2: _MANY, 3: _ONE, 4: _ONE, 5: _MANY, 6: _ONE, 7: _ONE, 8: _ONE, 9: _MANY, 10: _MANY}
ATTRIBUTE = {1: _ONE, 2: _FLOAT, 3: _INT, 4: _ONE, 5: _ONE, 6: _ONE, 7: Kind.FLOATS, 8: Kind.INTS, 9: _MANY,
              10: _MANY, 11: _MANY, 13: _ONE, 14: _ONE, 15: _MANY, 20: _INT, 21: _ONE, 22: _ONE,
              23: _MANY}  # fmt: skip
TENSOR = {1: Kind.INTS, 2: _INT, 3: _ONE, 4: Kind.FLOATS, 5: Kind.INTS, 6: _MANY, 7: Kind.INTS, 8: _ONE,
           9: _ONE, 10: Kind.DOUBLES, 11: Kind.INTS, 12: _ONE, 13: _MANY, 14: _INT, 16: _MANY}  # fmt: skip
SPARSE = {1: _ONE, 2: _ONE, 3: Kind.INTS}
FUNCTION = {1: _ONE, 4: _MANY, 5: _MANY, 6: _MANY, 7: _MANY, 8: _ONE, 9: _MANY, 10: _ONE, 11: _MANY,
             12: _MANY, 13: _ONE, 14: _MANY}  # fmt: skip
VALUE = {1: _ONE, 2: _ONE, 3: _ONE, 4: _MANY}
TYPE = {1: _ONE, 4: _ONE, 5: _ONE, 6: _ONE, 7: _ONE, 8: _ONE, 9: _ONE}
TENSOR_TYPE = {1: _INT, 2: _ONE}
SHAPE = {1: _MANY}
DIMENSION = {1: _INT, 2: _ONE, 3: _ONE}
OPSET = {1: _ONE, 2: _INT}
PAIR = {1: _ONE, 2: _ONE}

ELEMENT_TYPES: Mapping[int, tuple[str, float]] = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4),
    7: ("int64", 8), 8: ("string", 0), 9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8),
    12: ("uint32", 4), 13: ("uint64", 8), 14: ("complex64", 8), 15: ("complex128", 16), 16: ("bfloat16", 2),
    17: ("float8e4m3fn", 1), 18: ("float8e4m3fnuz", 1), 19: ("float8e5m2", 1), 20: ("float8e5m2fnuz", 1),
    21: ("uint4", 0.5), 22: ("int4", 0.5), 23: ("float4e2m1", 0.5), 24: ("float8e8m0", 1),
    25: ("uint2", 0.25), 26: ("int2", 0.25),
}  # fmt: skip
"""Name and bytes of one element."""

STANDARD_DOMAINS = {"ai.onnx": "", "": "", "ai.onnx.ml": "ai.onnx.ml"}
MICROSOFT = "com.microsoft"
MICROSOFT_OPERATORS = frozenset({
    "Attention", "BiasGelu", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
    "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QAttention",
    "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax",
    "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""What onnxruntime's own tools put into models. EPContext, which names a file, is not among them."""


def is_built_in(domain: str, operator: str) -> bool:
    return domain in STANDARD_DOMAINS or (domain == MICROSOFT and operator in MICROSOFT_OPERATORS)
