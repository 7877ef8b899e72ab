"""Small model files, good and hostile, byte by byte: what tests refuse and where the fuzzer begins.

``scripts/fuzz/hostile_models.py`` writes them below tests/corpus. Needs no package of the formats,
so that it can write what those would never write.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "corpus"

# -- protobuf ------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(*pairs: tuple[int, int | str | bytes]) -> bytes:
    return b"".join(field(number, value) for number, value in pairs)


# -- ONNX ----------------------------------------------------------------------------------------

FLOAT, INT64 = 1, 7


def tensor(name: str, shape: tuple[int, ...], data: bytes, *more: tuple[int, int | str | bytes]) -> bytes:
    return fields(*((1, size) for size in shape), (2, FLOAT), (8, name), (9, data), *more)


def value(name: str, *axes: int | str) -> bytes:
    shape = b"".join(field(1, field(1 if isinstance(axis, int) else 2, axis)) for axis in axes)
    return fields((1, name), (2, field(1, fields((1, FLOAT), (2, shape)))))


def node(
    operator: str,
    inputs: str = "x",
    outputs: str = "y",
    *more: tuple[int, int | str | bytes],
    domain: str = "",
) -> bytes:
    names = [(1, name) for name in inputs.split()] + [(2, name) for name in outputs.split()]
    return fields(*names, (3, f"the_{operator}"), (4, operator), *([(7, domain)] if domain else []), *more)


def graph(*nodes: bytes, weights: tuple[bytes, ...] = (), more: bytes = b"") -> bytes:
    head = fields(*((1, each) for each in nodes), (2, "g"), *((5, weight) for weight in weights))
    return head + more + fields((11, value("x", "batch", 2)), (12, value("y", "batch", 2)))


def onnx(body: bytes | None = None, *more: tuple[int, int | str | bytes], version: int = 10) -> bytes:
    body = graph(node("Identity")) if body is None else body
    opset = fields((1, ""), (2, 20))
    return fields((1, version), (2, "test"), (3, "1"), (7, body), (8, opset), *more)


def function(name: str, *nodes: bytes, domain: str = "own") -> bytes:
    head = fields((1, name), (4, "x"), (5, "y"))
    return head + fields(*((7, each) for each in nodes), (9, fields((1, ""), (2, 20))), (10, domain))


def attribute(name: str, number: int, content: int | str | bytes) -> bytes:
    return fields((1, name), (number, content))


OUTSIDE = fields((1, "location"), (2, "../../secret.bin"))
EXTERNAL = tensor("w", (2,), b"", (13, OUTSIDE), (14, 1))
WEIGHT = tensor("w", (2, 2), struct.pack("<4f", 1, 2, 3, 4))


def _nested(depth: int) -> bytes:
    inner = graph(node("Identity"))
    for _ in range(depth):
        inner = graph(node("If", "x", "y", (5, attribute("then_branch", 6, inner))))
    return inner


def _laughs(count: int) -> list[tuple[int, bytes]]:
    """Functions that call the one before ten times each."""
    first = function("f0", *(node("Identity") for _ in range(10)))
    rest = [function(f"f{n}", *(node(f"f{n - 1}", domain="own") for _ in range(10))) for n in range(1, count)]
    return [(25, each) for each in (first, *rest)]


ONNX_GOOD: dict[str, bytes] = {
    "identity": onnx(),
    "matmul": onnx(graph(node("MatMul", "x w"), weights=(WEIGHT,)), (14, fields((1, "classes"), (2, "a,b")))),
    "inner_graph": onnx(_nested(3)),
    "function": onnx(graph(node("f", domain="own")), (25, function("f", node("Relu")))),
    "microsoft": onnx(graph(node("Gelu", domain="com.microsoft"))),
    "packed": onnx(
        graph(
            node("MatMul", "x w"), weights=(fields((1, b"\x02\x02"), (2, FLOAT), (4, bytes(16)), (8, "w")),)
        )
    ),
}
ONNX_REFUSED: dict[str, tuple[bytes, str]] = {
    "external": (onnx(graph(node("Add", "x w"), weights=(EXTERNAL,))), "another file"),
    "external_location_only": (
        onnx(graph(node("Add", "x w"), weights=(tensor("w", (2,), bytes(8), (14, 1)),))),
        "another file",
    ),
    "external_in_attribute": (
        onnx(graph(node("Constant", "", "y", (5, attribute("value", 5, EXTERNAL))))),
        "attribute of Constant: its data is in another file",
    ),
    "external_in_tensors": (
        onnx(graph(node("Constant", "", "y", (5, attribute("values", 10, EXTERNAL))))),
        "another file",
    ),
    "external_in_sparse": (
        onnx(graph(node("Identity"), more=field(15, fields((1, EXTERNAL), (3, 4))))),
        "sparse, initializer: its data is in another file",
    ),
    "external_in_sparse_indices": (
        onnx(graph(node("Identity"), more=field(15, fields((1, WEIGHT), (2, EXTERNAL), (3, 4))))),
        "another file",
    ),
    "external_in_sparse_attribute": (
        onnx(graph(node("Constant", "", "y", (5, attribute("sparse_value", 22, fields((1, EXTERNAL))))))),
        "another file",
    ),
    "external_in_inner_graph": (
        onnx(
            graph(
                node(
                    "If", "x", "y", (5, attribute("then_branch", 6, graph(node("Add"), weights=(EXTERNAL,))))
                )
            )
        ),
        "another file",
    ),
    "external_in_function": (
        onnx(
            graph(node("f", domain="own")),
            (25, function("f", node("Constant", "", "y", (5, attribute("value", 5, EXTERNAL))))),
        ),
        "another file",
    ),
    "custom_domain": (onnx(graph(node("Evil", domain="com.evil"))), "com.evil::Evil is not built in"),
    "file_reading_operator": (onnx(graph(node("EPContext", domain="com.microsoft"))), "EPContext is not"),
    "custom_in_inner_graph": (
        onnx(
            graph(
                node("If", "x", "y", (5, attribute("else_branch", 6, graph(node("Evil", domain="com.evil")))))
            )
        ),
        "not built in",
    ),
    "custom_in_function": (
        onnx(graph(node("f", domain="own")), (25, function("f", node("Evil", domain="com.evil")))),
        "not built in",
    ),
    "function_for_a_standard_operator": (
        onnx(None, (25, function("Identity", node("Relu"), domain=""))),
        "the runtime's own",
    ),
    "functions_in_a_circle": (
        onnx(
            graph(node("f", domain="own")),
            (25, function("f", node("g", domain="own"))),
            (25, function("g", node("f", domain="own"))),
        ),
        "in a circle",
    ),
    "functions_that_unfold": (onnx(graph(node("f19", domain="own")), *_laughs(20)), "unfolded"),
    "deep": (onnx(_nested(40)), "more than 16 deep"),
    "training": (onnx(None, (20, fields((2, graph(node("Identity")))))), "training graphs"),
    "runtime_settings": (onnx(None, (14, fields((1, "ort_config"), (2, "{}")))), "ort_config"),
    "unknown_field": (onnx(None, (99, 1)), "field 99"),
    "graph_twice": (onnx(None, (7, graph(node("Relu")))), "field 7 twice"),
    "no_graph": (fields((1, 10), (2, "test")), "no graph"),
    "future": (onnx(version=1000), "format version 1000"),
    "lying_length": (onnx()[:-3], "left"),
    "long_number": (b"\x08" + b"\xff" * 11, "64 bits"),
    "lying_shape": (
        onnx(graph(node("Add", "x w"), weights=(fields((1, 10**11), (2, FLOAT), (4, bytes(4)), (8, "w")),))),
        "cannot hold",
    ),
    "lying_raw_data": (onnx(graph(node("Add", "x w"), weights=(tensor("w", (3,), bytes(8)),))), "needs 12"),
    "negative_shape": (
        onnx(graph(node("Add", "x w"), weights=(tensor("w", (-1,), b""),))),
        "allowed are counts",
    ),
    "overflowing_shape": (
        onnx(graph(node("Add", "x w"), weights=(tensor("w", (2**62,) * 32, b""),))),
        "allowed are counts",
    ),
    "sparse_bomb": (
        onnx(graph(node("Identity"), more=field(15, fields((1, tensor("w", (0,), b"")), (3, 2**38))))),
        "as a whole",
    ),
    "segments": (
        onnx(graph(node("Add", "x w"), weights=(tensor("w", (2,), bytes(8), (3, b"")),))),
        "segment",
    ),
    "bad_text": (fields((1, 10), (2, b"\xff\xfe"), (7, graph(node("Identity")))), "UTF-8"),
}

# -- GGUF ----------------------------------------------------------------------------------------

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def info(name: str, shape: tuple[int, ...], kind: int = 0, begin: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, begin)


ARCHITECTURE = entry("general.architecture", STRING, text("cyxwiz"))


def gguf(
    entries: tuple[bytes, ...] = (ARCHITECTURE,),
    infos: tuple[bytes, ...] = (info("w", (4, 2)),),
    data: bytes = bytes(32),
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> bytes:
    tensors, keys = counts or (len(infos), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


GGUF_GOOD: dict[str, bytes] = {
    "plain": gguf(),
    "version_2": gguf(version=2),
    "no_tensors": gguf(infos=(), data=b""),
    "two_tensors": gguf(infos=(info("a", (3,)), info("b", (32, 2), 8, 32)), data=bytes(32 + 68)),
    "values": gguf(
        (
            ARCHITECTURE,
            entry("n", UINT32, struct.pack("<I", 7)),
            entry("yes", BOOL, b"\x01"),
            entry("pi", 6, struct.pack("<f", 3.5)),
            entry("tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text(b"\xff")),
            entry("types", ARRAY, struct.pack("<IQ", UINT32, 2) + struct.pack("<II", 1, 3)),
        )
    ),
}
GGUF_REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"GGUF", "left"),
    "version_1": (gguf(version=1), "version 1"),
    "big_endian": (gguf(version=3 << 24), "version 50331648"),
    "many_tensors": (gguf(counts=(2**40, 1)), "tensors"),
    "many_entries": (gguf(counts=(0, 2**61)), "metadata entries"),
    "endless_array": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("a", ARRAY, struct.pack("<IQ", UINT32, 2**62)),
        "limit 4000000",
    ),
    "endless_array_of_texts": (
        gguf((entry("a", ARRAY, struct.pack("<IQ", STRING, 3_000_000)),)),
        "are left",
    ),
    "endless_array_of_arrays": (
        gguf((entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", UINT32, 0)),)),
        "array of arrays",
    ),
    "long_key": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**61) + b"x",
        "limit 65535",
    ),
    "long_text": (gguf((text("a") + struct.pack("<IQ", STRING, 2**40),)), "limit"),
    "text_beyond_the_end": (gguf((text("a") + struct.pack("<IQ", STRING, 2**20),), (), b""), "left"),
    "unknown_value_type": (gguf((entry("a", 13, b""),)), "type 13"),
    "neither_true_nor_false": (gguf((entry("a", BOOL, b"\x02"),)), "neither"),
    "key_twice": (gguf((ARCHITECTURE, ARCHITECTURE)), "twice"),
    "tensor_twice": (gguf(infos=(info("w", (8,)), info("w", (8,), 0, 32)), data=bytes(64)), "twice"),
    "tensor_beyond_the_end": (gguf(infos=(info("w", (1024, 1024)),)), "the file at"),
    "tensor_in_the_header": (gguf(infos=(info("w", (8,), 0, 2**64 - 64),)), "expected 0"),
    "overlapping_tensors": (gguf(infos=(info("a", (8,)), info("b", (8,)))), "expected 32"),
    "overflowing_shape": (gguf(infos=(info("w", (2**32, 2**32)),)), "limit"),
    "five_axes": (gguf(infos=(info("w", (1, 1, 1, 1, 1)),)), "5 axes"),
    "no_elements": (gguf(infos=(info("w", (0,)),)), "shaped"),
    "unknown_tensor_type": (gguf(infos=(info("w", (8,), 4),)), "type 4"),
    "half_a_block": (gguf(infos=(info("w", (33,), 8),), data=bytes(64)), "blocks of 32"),
    "alignment_0": (gguf((entry("general.alignment", UINT32, bytes(4)),)), "alignment 0"),
    "alignment_3": (gguf((entry("general.alignment", UINT32, struct.pack("<I", 3)),)), "alignment 3"),
    "alignment_huge": (gguf((entry("general.alignment", UINT32, struct.pack("<I", 2**31)),)), "alignment"),
    "alignment_as_text": (gguf((entry("general.alignment", STRING, text("32")),)), "alignment 32"),
}

# -- safetensors ---------------------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"") -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data


def _entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS_GOOD: dict[str, bytes] = {
    "plain": safetensors({"w": _entry("F32", [2], 0, 8)}, bytes(8)),
    "metadata": safetensors({"__metadata__": {"format": "pt"}, "w": _entry("I64", [], 0, 8)}, bytes(8)),
}
SAFETENSORS_REFUSED: dict[str, tuple[bytes, str]] = {
    "lying_length": (struct.pack("<Q", 2**50) + b"{}", "header of"),
    "huge_nothing": (safetensors({"w": _entry("F32", [0, 2**40, 2**40], 0, 0)}), "places"),
    "lying_shape": (safetensors({"w": _entry("F32", [2**40], 0, 4 * 2**40)}), "tensors take"),
    "overlap": (
        safetensors({"a": _entry("F32", [4], 0, 16), "b": _entry("F32", [4], 0, 16)}, bytes(16)),
        "expected 16",
    ),
    "gap": (safetensors({"a": _entry("F32", [1], 4, 8)}, bytes(8)), "expected 0"),
    "not_json": (safetensors(b"{nothing"), "not JSON"),
    "deep_json": (safetensors(b'{"a":' * 100_000), "not JSON"),
    "name_twice": (safetensors(b'{"a":1,"a":1}'), "twice"),
    "pickle": (safetensors({"w": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 1]}}, b"x"), "dtype"),
}

# -- folders -------------------------------------------------------------------------------------


def index(**weight_map: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}).encode()


FOLDER_GOOD: dict[str, bytes] = {
    "index": index(w="model-00001-of-00001.safetensors"),
}
FOLDER_REFUSED: dict[str, tuple[bytes, str]] = {
    "no_map": (b"{}", "no weight_map"),
    "list": (b"[]", "no JSON object"),
    "numbers": (index(w=7), "no weight_map of texts"),
    "climbing": (index(w="../model.safetensors"), "allowed are .safetensors beside it"),
    "absolute": (index(w="/etc/passwd.safetensors"), "allowed are .safetensors beside it"),
    "hidden": (index(w=".model.safetensors"), "allowed are .safetensors beside it"),
    "pickle": (index(w="pytorch_model.bin"), "allowed are .safetensors beside it"),
    "zero": (index(w="a\0b.safetensors"), "allowed are"),
    "missing_file": (index(w="other.safetensors"), "cannot be read"),
    "missing_tensor": (index(v="model-00001-of-00001.safetensors"), "does not say what the files hold"),
    "deep": (b'{"a":' * 100_000, "cannot be read"),
    "long_number": (b'{"a":' + b"9" * 5000 + b"}", "cannot be read"),
}

# -- data: IDX, .npy and .npz --------------------------------------------------------------------


def idx(shape: tuple[int, ...], data: bytes, kind: int = 8, rank: int | None = None) -> bytes:
    sizes = struct.pack(f">{len(shape)}I", *shape)
    return bytes((0, 0, kind, len(shape) if rank is None else rank)) + sizes + data


def npy(shape: tuple[int, ...], data: bytes, kind: str = "<f4", header: str = "") -> bytes:
    text = header or repr({"descr": kind, "fortran_order": False, "shape": shape})
    written = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(written)) + written + data


def npz(x: bytes, y: bytes | None = None, kind: int = zipfile.ZIP_STORED) -> bytes:
    """Byte for byte the same whenever it is made."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in (("x.npy", x), ("y.npy", y if y is not None else npy((2,), bytes(16), "<i8"))):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, kind)
    return out.getvalue()


GZIPPED = gzip.compress(idx((2, 2), bytes(4)), mtime=0)
IDX_GOOD: dict[str, bytes] = {
    "images": idx((2, 3, 3), bytes(range(18))),
    "labels": idx((5,), bytes(5)),
    "floats": idx((2, 1), bytes(8), 13),
    "packed": GZIPPED,
    "nothing": idx((0,), b""),
}
IDX_REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no IDX file"),
    "other": (b"\0\0\x08", "no IDX file"),
    "type": (idx((1,), bytes(1), 10), "no IDX file"),
    "rank": (idx((1,) * 5, bytes(1)), "no IDX file"),
    "cut_sizes": (idx((1,), b"", rank=3), "its header alone needs 16"),
    "too_short": (idx((2, 3, 3), bytes(17)), "needs 18"),
    "too_long": (idx((2, 3, 3), bytes(19)), "needs 18"),
    "huge": (idx((2**32 - 1,) * 4, bytes(4)), "the limit"),
    "huge_nothing": (idx((2**32 - 1, 2**32 - 1, 0, 128), b""), "the limit"),
    "cut_gzip": (GZIPPED[:-9], "cannot be read"),
    "no_gzip": (b"\x1f\x8b nothing", "cannot be read"),
    "bomb": (gzip.compress(idx((2, 2), bytes(1 << 20)), mtime=0), "needs 4"),
}
NPZ_GOOD: dict[str, bytes] = {
    "plain": npz(npy((2, 3), bytes(24))),
    "packed": npz(npy((2, 3), bytes(24)), kind=zipfile.ZIP_DEFLATED),
}
NPZ_REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read"),
    "huge_shape": (npz(npy((2**50, 3), bytes(24))), "cannot be read"),
    "overflowing_shape": (npz(npy((2**62, 2**62), bytes(24))), "cannot be read"),
    "objects": (npz(npy((2, 3), b"cos\nsystem\n.", "|O")), "cannot be read"),
    "code": (npz(npy((), b"", header="__import__('os').abort()")), "cannot be read"),
    "deep": (npz(npy((), b"", header="[" * 9000)), "cannot be read"),
    "text": (npz(npy((2, 3), bytes(24), "<U1")), "allowed are numbers"),
}

GOOD = {
    "onnx": ONNX_GOOD,
    "gguf": GGUF_GOOD,
    "safetensors": SAFETENSORS_GOOD,
    "folder": FOLDER_GOOD,
    "idx": IDX_GOOD,
    "npz": NPZ_GOOD,
}
REFUSED = {
    "onnx": ONNX_REFUSED,
    "gguf": GGUF_REFUSED,
    "safetensors": SAFETENSORS_REFUSED,
    "folder": FOLDER_REFUSED,
    "idx": IDX_REFUSED,
    "npz": NPZ_REFUSED,
}


def main() -> None:
    """Writes good-NAME and refused-NAME for each format; files that the fuzzer found stay."""
    for kind, files in GOOD.items():
        folder = CORPUS / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / f"good-{name}").write_bytes(data)
        for name, (data, _) in REFUSED[kind].items():
            if len(data) < 4096:
                (folder / f"refused-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
