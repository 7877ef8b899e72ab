"""Feeds damaged model files to the readers of headers until the time is up; prints what breaks them.

``scripts/fuzz/formats.py [--seconds 60] [--seed N]``. A round takes a file of tests/corpus, cuts,
changes and repeats parts of it, and reads it. Nothing may be raised but ArchiveError and DatasetError,
and of what is accepted the promises must hold: tensors inside the file, no data in other files. A
round that takes longer than 20 s ends the fuzzer with the place where it hangs; one for which Python
holds more than 64 MB ends it too.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from google.protobuf.message import DecodeError, Message

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
from fuzz.hostile_models import CORPUS, SAFETENSORS_GOOD

from backend.errors import ArchiveError, DatasetError
from backend.formats.cyxmodel import inspect_cyxmodel
from backend.formats.gguf_header import read_gguf_header
from backend.formats.model_folder import read_model_folder
from backend.formats.onnx_check import check_onnx
from backend.formats.sniff import sniff
from backend.formats.tensor_header import read_tensor_header
from backend.formats.tensors import unpack_tensors
from backend.readers import arrays
from backend.readers.idx import MAX_BYTES as MAX_IDX_BYTES
from backend.readers.idx import read_idx
from backend.readers.source import ReadOptions

_HANGS_AFTER_S = 20
_MOST_BYTES = 64 << 20
_NUMBERS = (0, 1, 2, 7, 8, 9, 127, 128, 255, 2**16, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1)


def changed(source: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(source.randrange(1, 5)):
        at = source.randrange(len(out) + 1)
        match source.randrange(6):
            case 0 if out:
                out[at % len(out)] ^= 1 << source.randrange(8)
            case 1 if out:
                out[at % len(out)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
            case 2:
                del out[at : at + source.choice((1, 2, 8, 50))]
            case 3:
                begin = source.randrange(len(out) + 1)
                out[at:at] = out[begin : begin + source.randrange(60)]
            case 4:
                code = source.choice(("<I", "<Q"))
                number = source.choice(_NUMBERS) & (2**32 - 1 if code == "<I" else 2**64 - 1)
                out[at : at + struct.calcsize(code)] = struct.pack(code, number)
            case 5:
                out[at:at] = source.randbytes(source.randrange(10))
    return bytes(out)


def read_onnx(data: bytes, path: Path) -> None:
    facts = check_onnx(data)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return  # Damage in a part that holds no data; a runtime refuses it.
    assert not _external(model)
    assert [value.name for value in facts.outputs] == [value.name for value in model.graph.output]


def _external(message: Message) -> bool:
    """Whether a tensor anywhere keeps its data in another file, as protobuf's own reader sees it."""
    if isinstance(message, onnx.TensorProto):
        return bool(message.external_data) or message.data_location == onnx.TensorProto.EXTERNAL
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            inner = value if descriptor.is_repeated else (value,)
            if any(_external(each) for each in inner):
                return True
    return False


def read_gguf(data: bytes, path: Path) -> None:
    header = read_gguf_header(path)
    for tensor in header.tensors.values():
        assert 0 <= header.data_at + tensor.begin < header.data_at + tensor.begin + tensor.size_bytes
        assert header.data_at + tensor.begin + tensor.size_bytes <= len(data)


def read_safetensors(data: bytes, path: Path) -> None:
    header = read_tensor_header(io.BytesIO(data), len(data))
    found = unpack_tensors(data)
    assert found.keys() == header.tensors.keys()
    assert sum(info.end - info.begin for info in header.tensors.values()) + header.data_at == len(data)


def read_model(data: bytes, path: Path) -> None:
    found = inspect_cyxmodel(path)
    assert found.training.step <= found.training.total_steps


def read_folder(data: bytes, path: Path) -> None:
    """The data is a folder's index; the one file of weights that it may name is there."""
    folder = path.with_name("folder")
    folder.mkdir(exist_ok=True)
    (folder / "model-00001-of-00001.safetensors").write_bytes(SAFETENSORS_GOOD["plain"])
    (folder / "model.safetensors.index.json").write_bytes(data)
    found = read_model_folder(folder)
    assert all(file.parent == folder for file in found.headers)


def read_images(data: bytes, path: Path) -> None:
    found = read_idx(path)
    assert found.nbytes <= MAX_IDX_BYTES


def read_arrays(data: bytes, path: Path) -> None:
    named = path.with_name("arrays.npz")
    named.write_bytes(data)
    found = arrays.open(named, ReadOptions())
    assert found.recipe.samples > 0


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "onnx": read_onnx,
    "gguf": read_gguf,
    "safetensors": read_safetensors,
    "cyxmodel": read_model,
    "folder": read_folder,
    "idx": read_images,
    "npz": read_arrays,
}
ERRORS = (ArchiveError, DatasetError)
"""What a reader may raise."""


def files() -> list[tuple[str, bytes]]:
    return [(kind, path.read_bytes()) for kind in READERS for path in sorted((CORPUS / kind).iterdir())]


def play(seed: int, corpus: list[tuple[str, bytes]], path: Path) -> None:
    """One round; the same for the same seed and corpus. Writes to ``path`` and beside it."""
    source = random.Random(seed)
    kind, data = source.choice(corpus)
    data = changed(source, data)
    path.write_bytes(data)
    sniff(path)
    tracemalloc.start()
    try:
        with suppress(*ERRORS):
            READERS[kind](data, path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < _MOST_BYTES, f"{most} bytes held for a file of {len(data)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="play this one round only")
    options = parser.parse_args()
    corpus = files()
    seed = first = time.time_ns() if options.seed is None else options.seed
    until = time.monotonic() + (options.seconds if options.seed is None else 0)
    with TemporaryDirectory() as folder:
        while True:
            faulthandler.dump_traceback_later(_HANGS_AFTER_S, exit=True)
            try:
                play(seed, corpus, Path(folder) / "model")
            except BaseException:
                print(f"broken by --seed {seed}")
                raise
            seed += 1
            if time.monotonic() > until:
                break
    faulthandler.cancel_dump_traceback_later()
    print(f"{seed - first} rounds, nothing broken")


if __name__ == "__main__":
    main()
