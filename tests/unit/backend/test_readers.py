"""Files as users have them, each read into the one dataset format, and refused with a reason."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
from PIL import Image

from backend.datasets import load_dataset
from backend.describe import describe
from backend.errors import DatasetError
from backend.facts import DataFacts, DataNotes, read_notes
from backend.readers import ReadOptions, convert, open_source
from backend.readers.images import decode_pixels
from backend.readers.source import Missing, Task
from backend.readers.text import load_tokenizer

FLOWERS = "size,colour,price\n1,red,cheap\n2,blue,dear\n3,red,dear\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_npz_npy_and_csv_become_the_same_dataset(tmp_path: Path) -> None:
    x, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    rows = "\n".join(f"{a},{b},{c}" for (a, b), c in zip(x, y, strict=True))
    (tmp_path / "t.csv").write_text("a,b,target\n" + rows + "\n")
    convert(tmp_path / "a.npz", tmp_path / "1")
    convert(tmp_path / "x.npy", tmp_path / "2", ReadOptions(labels=tmp_path / "y.npy"))
    facts = convert(tmp_path / "t.csv", tmp_path / "3")
    assert facts == DataFacts(4, (2,), "float32", 2)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    read = [load_dataset(tmp_path / name) for name in "13"]
    assert np.array_equal(read[0].x, read[1].x) and np.array_equal(read[0].y, read[1].y)


def test_a_dataset_file_is_taken_as_it_is(tmp_path: Path, out: Path) -> None:
    convert(written(tmp_path / "t.csv", FLOWERS), tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", out)
    assert out.read_bytes() == (tmp_path / "d.safetensors").read_bytes()


def test_an_archive_without_x_and_y_names_what_it_holds(tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=np.zeros((3, 4)), labels=np.zeros(3, np.int64))
    with pytest.raises(DatasetError, match="found arrays images, labels, needed are x and y"):
        convert(tmp_path / "digits.npz", out)


def test_pickled_arrays_are_refused_and_nothing_is_left(tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(DatasetError, match="cannot be read"):
        convert(tmp_path / "a.npz", out)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


# -- tables ------------------------------------------------------------------------------------


def test_what_is_no_numpy_file_is_told_and_not_taken_for_a_pickle(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"hello, I am text")
    with pytest.raises(DatasetError, match=r"a\.npz is no NumPy file: it begins with b'hello,'"):
        convert(tmp_path / "a.npz", out)


def test_texts_become_one_input_each_and_class_names_are_kept(tmp_path: Path, out: Path) -> None:
    facts = convert(written(tmp_path / "t.csv", FLOWERS), out)
    assert facts == DataFacts(3, (3,), "float32", 2)
    names = ("size", "colour=blue", "colour=red")
    assert read_notes(out) == DataNotes(("cheap", "dear"), names, kind="table")
    dataset = load_dataset(out)
    assert dataset.x.tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1]]
    assert dataset.y.tolist() == [0, 1, 1]


def test_parquet_reads_as_the_csv_of_the_same_table(tmp_path: Path, out: Path) -> None:
    table = pyarrow.table(
        {"size": [1, 2, 3], "colour": ["red", "blue", "red"], "price": ["cheap", "dear", "dear"]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    convert(written(tmp_path / "t.csv", FLOWERS), out)
    convert(tmp_path / "t.parquet", tmp_path / "p.safetensors")
    assert out.read_bytes() == (tmp_path / "p.safetensors").read_bytes()


def test_a_number_that_turns_out_a_text_far_below_makes_its_column_text(tmp_path: Path, out: Path) -> None:
    lines = ["a,y"] + [f"{i % 3},0" for i in range(70_000)] + ["many,1"]
    convert(written(tmp_path / "t.csv", "\n".join(lines)), out)
    assert read_notes(out).input_names == ("a=0", "a=1", "a=2", "a=many")


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_delimiters_and_byte_order_marks_are_recognized(
    tmp_path: Path, out: Path, suffix: str, delimiter: str
) -> None:
    text = "a,b,target\n1,2,0.5\n3,4,0.25\n".replace(",", delimiter)
    (tmp_path / f"t.{suffix}").write_bytes(b"\xef\xbb\xbf" + text.encode())
    convert(tmp_path / f"t.{suffix}", out)
    assert read_notes(out).input_names == ("a", "b")
    assert load_dataset(out).y.tolist() == [0.5, 0.25]


HOLES = "a,b,y\n1,2,0\n,4,1\n5,NA,0\n7,8,1\n"


def test_missing_values_are_refused_by_name_unless_the_user_says_what_to_do(
    tmp_path: Path, out: Path
) -> None:
    path = written(tmp_path / "t.csv", HOLES)
    with pytest.raises(DatasetError, match=r"missing in 2 columns: a \(1\), b \(1\); say --missing drop"):
        convert(path, out)
    convert(path, out, ReadOptions(missing=Missing.DROP))
    assert load_dataset(out).x.tolist() == [[1, 2], [7, 8]]
    convert(path, out, ReadOptions(missing=Missing.FILL))
    assert np.allclose(load_dataset(out).x, [[1, 2], [13 / 3, 4], [5, 14 / 3], [7, 8]])


def test_a_missing_target_cannot_be_filled(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "t.csv", "a,y\n1,0\n2,\n")
    with pytest.raises(DatasetError, match="target 'y' is missing in 1 rows"):
        convert(path, out, ReadOptions(missing=Missing.FILL))


def test_whole_numbers_are_classes_only_while_they_are_few(tmp_path: Path, out: Path) -> None:
    few = written(tmp_path / "few.csv", "a,y\n1,0\n2,7\n")
    many = written(tmp_path / "many.csv", "a,y\n1,250000\n2,310000\n")
    assert convert(few, out).classes == 8
    assert convert(many, out).classes == 0
    assert convert(few, out, ReadOptions(task=Task.REGRESSION)).classes == 0
    assert convert(many, out, ReadOptions(task=Task.CLASSIFICATION)).classes == 310001


def test_several_targets_make_a_vector(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "t.csv", "a,b,c\n1,2,3\n4,5,6\n")
    facts = convert(path, out, ReadOptions(target=("b", "c")))
    assert facts == DataFacts(2, (1,), "float32", 0, (2,))
    assert load_dataset(out).y.tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (FLOWERS, ReadOptions(target=("weight",)), "no column 'weight', there are size, colour, price"),
        (FLOWERS, ReadOptions(target=("size",), drop=("size",)), "to be predicted and to be left out"),
        (FLOWERS, ReadOptions(task=Task.REGRESSION), "target 'price' holds 'cheap', expected numbers"),
        ("a,y\n1,None\n2,-\n", ReadOptions(task=Task.REGRESSION), "target 'y' holds '-', expected numbers"),
        (FLOWERS, ReadOptions(drop=("size", "colour")), "no column is left"),
        ("a,y\n1,-1\n2,1\n", ReadOptions(task=Task.CLASSIFICATION), "goes from -1 to 1"),
        ("a,y\n", ReadOptions(), "0 rows"),
        ("a\n1\n", ReadOptions(), "1 columns"),
        ("a,a\n1,2\n", ReadOptions(), "2 columns are called 'a'"),
        ("a,b,label\r1,2,x\r", ReadOptions(), "first line is no row"),
        ("," * 60_000 + "\n", ReadOptions(), "60001 columns, .*at most 4096"),
        ("a,b\n1,2\n1,2,3\n", ReadOptions(), "cannot be read: .*Expected 2 columns, got 3"),
        ("a,y\n" + "".join(f"t{i},0\n" for i in range(99)), ReadOptions(), "over 64 different texts such as"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_dataset_is_refused(
    tmp_path: Path, out: Path, text: str, options: ReadOptions, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        convert(written(tmp_path / "t.csv", text), out, options)
    assert not out.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00,1\n")
    with pytest.raises(DatasetError, match="cannot be read as text"):
        convert(tmp_path / "t.csv", out)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DatasetError, match=r"t.parquet cannot be read"):
        convert(tmp_path / "t.parquet", out)


@pytest.mark.parametrize("text", ["x" * (1 << 20), b"x" * (1 << 20)])
def test_a_dictionary_that_unfolds_to_gigabytes_of_text_is_refused(
    tmp_path: Path, out: Path, text: str | bytes
) -> None:
    long = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, pyarrow.int32()), [text])
    table = pyarrow.table({"a": long, "y": [0, 1] * 1000})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="column 'a' holds 2097152000 bytes in 2000 rows, limit"):
        convert(tmp_path / "t.parquet", out)


# -- images ------------------------------------------------------------------------------------


def draw(path: Path, size: tuple[int, int] = (4, 3), mode: str = "L", value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


def test_a_folder_a_class_of_images_becomes_channels_first_bytes(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "set" / "cat" / "1.png", value=1)
    draw(tmp_path / "set" / "cat" / "deep" / "2.png", value=2)
    draw(tmp_path / "set" / "dog" / "1.png", value=3)
    facts = convert(tmp_path / "set", out)
    assert facts == DataFacts(3, (1, 3, 4), "uint8", 2)
    dataset = load_dataset(out)
    assert dataset.x[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert dataset.y.tolist() == [0, 0, 1]
    assert read_notes(out).class_names == ("cat", "dog")


def test_colour_images_have_three_channels(tmp_path: Path, out: Path) -> None:
    for name in ("cat", "dog"):
        draw(tmp_path / "set" / name / "1.png", mode="RGB")
    assert convert(tmp_path / "set", out).sample_shape == (3, 3, 4)
    assert load_dataset(out).x[0, :, 0, 0].tolist() == [7, 0, 255]
    assert convert(tmp_path / "set", out, ReadOptions(channels=1)).sample_shape == (1, 3, 4)


def test_images_of_two_sizes_need_a_size(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "set" / "cat" / "1.png")
    draw(tmp_path / "set" / "cat" / "2.png")
    draw(tmp_path / "set" / "dog" / "3.png", size=(9, 9))
    with pytest.raises(DatasetError, match=r"3.png is 9x9, others 3x4: .*--image-size"):
        convert(tmp_path / "set", out)
    assert convert(tmp_path / "set", out, ReadOptions(image_size=(5, 6))).sample_shape == (1, 5, 6)


def test_what_is_no_image_is_named(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "dog").mkdir()
    (tmp_path / "set" / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DatasetError, match=r"broken.png is no image"):
        convert(tmp_path / "set", out)


def test_a_program_for_a_printer_is_no_image_whatever_its_name(tmp_path: Path, out: Path) -> None:
    """Pillow would give it to Ghostscript to run."""
    draw(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "dog").mkdir()
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "set" / "dog" / "1.png").write_bytes(program)
    with pytest.raises(DatasetError, match=r"^dog/1\.png is no image that can be read$"):
        convert(tmp_path / "set", out)
    with pytest.raises(DatasetError, match=r"is no image that can be read$"):
        decode_pixels(program, (1, 3, 4))


def test_an_image_that_claims_a_billion_pixels_is_refused(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "set" / "cat" / "1.bmp", mode="RGB")
    draw(tmp_path / "set" / "dog" / "1.bmp", mode="RGB")
    huge = tmp_path / "set" / "dog" / "1.bmp"
    data = bytearray(huge.read_bytes())
    data[18:26] = struct.pack("<II", 40_000, 40_000)
    huge.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r"1.bmp"):
        convert(tmp_path / "set", out)


# -- IDX ---------------------------------------------------------------------------------------


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_images_find_their_labels(tmp_path: Path, out: Path, pack) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(pack(idx(pixels)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(pack(idx(np.array([3, 1], np.uint8))))
    assert convert(tmp_path / "t10k-images-idx3-ubyte", out) == DataFacts(2, (1, 3, 4), "uint8", 4)
    assert np.array_equal(load_dataset(out).x[:, 0], pixels)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08\x01",
        b"\1\0\x08\x01\0\0\0\1\0",
        b"\0\0\x07\x01\0\0\0\1\0",
        b"\0\0\x08\x01\xff\xff\xff\xff\0",
        b"\0\0\x08\x04" + b"\xff" * 16,
    ],
)
def test_a_lying_idx_file_is_refused(tmp_path: Path, out: Path, data: bytes) -> None:
    (tmp_path / "x-images-idx3").write_bytes(data)
    (tmp_path / "x-labels-idx1").write_bytes(data)
    with pytest.raises(DatasetError, match="x-images-idx3"):
        convert(tmp_path / "x-images-idx3", out)


# -- text --------------------------------------------------------------------------------------


def test_plain_text_becomes_windows_that_predict_the_next_token(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog. " * 40
    source = open_source(written(tmp_path / "t.txt", text), ReadOptions(length=16, vocabulary=300))
    [(x, y)] = source.blocks()
    assert x.shape == y.shape == (source.recipe.samples, 16)
    assert np.array_equal(x[:, 1:], y[:, :-1])
    decoded = load_tokenizer(source.recipe.notes.tokenizer).decode(list(x[0]))
    assert len(decoded) >= 16 and text.startswith(decoded)


def test_the_same_text_gives_the_same_tokens(tmp_path: Path) -> None:
    path = written(tmp_path / "t.txt", "to be or not to be, that is the question. " * 30)
    one, other = (open_source(path, ReadOptions(length=8, vocabulary=280)) for _ in range(2))
    assert one.recipe.notes == other.recipe.notes


REVIEWS = "text,label,id\nvery good indeed,pos,1\nbad,neg,2\nbad and long and dull,neg,3\n"


def test_a_column_of_text_is_cut_and_padded_to_one_length(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "t.csv", REVIEWS)
    options = ReadOptions(text="text", target=("label",), length=6, vocabulary=270)
    facts = convert(path, out, options)
    assert facts == DataFacts(3, (6,), "int32", 2)
    tokenizer = load_tokenizer(read_notes(out).tokenizer)
    dataset = load_dataset(out)
    assert tokenizer.decode(list(dataset.x[1])) == "bad"
    assert (dataset.x[1] == tokenizer.token_to_id("<pad>")).sum() >= 3
    assert dataset.y.tolist() == [1, 0, 0]


def test_text_without_its_column_or_too_short_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DatasetError, match="no column 'body', there are text, label, id"):
        convert(written(tmp_path / "t.csv", REVIEWS), out, ReadOptions(text="body"))
    with pytest.raises(DatasetError, match="one sample needs 129"):
        convert(written(tmp_path / "t.txt", "short"), out)


# -- bundled, and nothing at all ---------------------------------------------------------------


def test_bundled_digits_carry_their_names(out: Path) -> None:
    assert convert("bundled:digits", out) == DataFacts(1797, (1, 8, 8), "float32", 10)
    assert read_notes(out).class_names == tuple("0123456789")


def test_bundled_diabetes_is_a_regression(out: Path) -> None:
    assert convert("bundled:diabetes", out) == DataFacts(442, (10,), "float32", 0)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("bundled:cats", "no bundled data 'cats', there are digits"),
        ("/no/such", "no such file"),
        (".", "nothing that"),
    ],
)
def test_what_is_nothing_readable_is_refused(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=reason):
        convert(source, out)


@pytest.mark.parametrize("name", ["a.npz", "packed.npz", "x.npy", "t-images-idx3-ubyte.gz", "t.parquet"])
def test_damage_at_any_byte_is_refused_as_such_or_harmless(tmp_path: Path, out: Path, name: str) -> None:
    x, y = np.arange(80, dtype=np.uint8).reshape(20, 4), np.arange(20) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez_compressed(tmp_path / "packed.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x[:, None])))
    (tmp_path / "t-labels-idx1-ubyte").write_bytes(idx(y.astype(np.uint8)))
    table = {"a": [f"{i}" for i in range(20)], "label": ["x", "y"] * 10}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    options = ReadOptions(labels=tmp_path / "y.npy") if name == "x.npy" else ReadOptions()
    whole, random = (tmp_path / name).read_bytes(), Random(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random.choice((1, 2, 8))):
            damaged[random.randrange(min(len(damaged), random.choice((64, 400, 1 << 20))))] = (
                random.randrange(256)
            )
        (tmp_path / name).write_bytes(damaged)
        try:
            convert(tmp_path / name, out, options)
        except DatasetError:
            refused += 1
    assert refused


@pytest.mark.parametrize("shape", ["(True,)", f"({1 << 70},)", f"({1 << 40}, {1 << 40})", "(1e999,)"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_shape_that_no_array_has_is_refused(tmp_path: Path, out: Path, shape: str, packed: bool) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    x = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)
    np.save(tmp_path / "y.npy", np.zeros(1))
    (tmp_path / "x.npy").write_bytes(x)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
        archive.write(tmp_path / "y.npy", "y.npy")
    source, options = (
        ("a.npz", ReadOptions()) if packed else ("x.npy", ReadOptions(labels=tmp_path / "y.npy"))
    )
    with pytest.raises(DatasetError):
        convert(tmp_path / source, out, options)


def test_an_archive_that_unpacks_to_a_monstrous_one_is_refused(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.readers.arrays.MAX_UNPACKED_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1 << 10, 1 << 10)), y=np.zeros(1 << 10, np.int64))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 15
    with pytest.raises(DatasetError, match=r"unpacks to \d+ bytes, limit 1048576"):
        convert(tmp_path / "a.npz", out)


def test_a_column_of_lists_is_named_and_can_be_left_out(tmp_path: Path, out: Path) -> None:
    table = pyarrow.table({"a": [1, 2], "b": [[1], [2]], "label": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match=r"column 'b' holds list<.*--drop b"):
        convert(tmp_path / "t.parquet", out)
    assert convert(tmp_path / "t.parquet", out, ReadOptions(drop=("b",))).samples == 2


def test_two_targets_may_be_a_text_and_a_number(tmp_path: Path, out: Path) -> None:
    facts = convert(written(tmp_path / "t.csv", FLOWERS), out, ReadOptions(target=("colour", "size")))
    assert facts == DataFacts(3, (2,), "float32", 0, (2,))
    dataset = load_dataset(out)
    assert dataset.y.tolist() == [[1, 1], [0, 2], [1, 3]]
    assert dataset.notes.class_names == ("blue", "red")
    assert dataset.notes.target_names == ("colour", "size")


def test_whole_numbers_at_each_place_are_classes_unless_they_cannot_be(tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1, 2, 2)), y=np.arange(16).reshape(4, 2, 2))
    assert convert(tmp_path / "a.npz", out) == DataFacts(4, (1, 2, 2), "float32", 16, (2, 2))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 2)), y=-np.arange(8).reshape(4, 2))
    assert convert(tmp_path / "b.npz", out) == DataFacts(4, (2,), "float32", 0, (2,))


def test_plain_text_becomes_the_next_token_at_each_place(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "t.txt", "to be or not to be " * 40)
    facts = convert(path, out, ReadOptions(length=8, vocabulary=300))
    assert (facts.sample_shape, facts.target_shape, facts.dtype) == ((8,), (8,), "int32")
    dataset = load_dataset(out)
    assert facts.classes == dataset.y.max() + 1
    assert np.array_equal(dataset.x[:, 1:], dataset.y[:, :-1])


def test_grey_images_of_sixteen_bits_keep_their_shades() -> None:
    from PIL import Image

    data = io.BytesIO()
    shades = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
    Image.fromarray(shades).save(data, "PNG")
    assert (decode_pixels(data.getvalue(), (1, 4, 4))[0] == shades >> 8).all()


@pytest.mark.parametrize("value", [300, -1, 0.5])
def test_an_image_of_32_bits_whose_white_nobody_knows_is_refused(
    tmp_path: Path, out: Path, value: float
) -> None:
    for name in ("dark", "light"):
        (tmp_path / "set" / name).mkdir(parents=True)
        pixels = np.full((3, 4), value, np.float32 if value == 0.5 else np.int32)
        Image.fromarray(pixels).save(tmp_path / "set" / name / "1.tif")
    with pytest.raises(DatasetError, match=r"1\.tif has 32 bits to a pixel and values from"):
        convert(tmp_path / "set", out)


def test_a_tokenizer_that_makes_its_library_panic_is_an_error_that_says_so(tmp_path: Path, out: Path) -> None:
    """It speaks of a token that it does not have."""
    word = word_tokenizer(tmp_path / "tokenizer.json", "a", "?")
    held = json.loads(word.to_str())
    held["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    text = written(tmp_path / "t.txt", "a a a a a a a a a")
    options = ReadOptions(tokenizer=tmp_path / "tokenizer.json", length=2)
    with pytest.raises(DatasetError, match="the tokenizer cannot read the text: no entry found"):
        convert(text, out, options)


def word_tokenizer(path: Path, *words: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return tokenizer


def test_a_given_tokenizer_that_cuts_and_fills_leaves_nothing_of_a_text_out(tmp_path: Path) -> None:
    path, given = written(tmp_path / "a.txt", "one two three four " * 50), tmp_path / "t.json"
    tokenizer = word_tokenizer(given, "one", "?")
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=600)
    tokenizer.save(str(given))
    source = open_source(path, ReadOptions(tokenizer=given, length=9))
    assert source.recipe.samples == 20  # of 200 words, ten each


def test_a_tokenizer_without_a_token_for_a_text_is_refused(tmp_path: Path) -> None:
    path, given = written(tmp_path / "a.txt", "some text"), tmp_path / "t.json"
    word_tokenizer(given, "one")
    with pytest.raises(DatasetError, match="tokenizer cannot read the text"):
        open_source(path, ReadOptions(tokenizer=given))


@pytest.mark.parametrize("value", ["1e300", "inf"])
def test_a_number_that_would_become_infinite_is_refused_with_its_column(
    tmp_path: Path, out: Path, value: str
) -> None:
    with pytest.raises(DatasetError, match=f"column 'size' holds {value.replace('e', 'e[+]')}"):
        convert(written(tmp_path / "a.csv", f"size,y\n{value},0\n1,1\n"), out)


def test_a_text_that_reads_like_a_missing_one_is_the_same_input(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "a.csv", "a,y\nx,0\n(missing),1\n,1\n")
    convert(path, out, ReadOptions(missing=Missing.FILL))
    assert load_dataset(out).x.tolist() == [[0, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([*map(str, range(99)), "n.a."], r"holds numbers and one text such as 'n.a.': empty those cells"),
        ([f"{i},5" for i in range(99)], r"holds numbers with a decimal comma such as '0,5': write them"),
        (
            [f"t{i}" for i in range(99)],
            r"over 64 different texts such as 't0': leave it out with --drop 'a b'",
        ),
    ],
)
def test_a_column_that_is_nearly_one_of_numbers_is_told_so(
    tmp_path: Path, out: Path, cells: list[str], reason: str
) -> None:
    text = "a b;y\n" + "".join(f"{cell};0\n" for cell in cells)
    with pytest.raises(DatasetError, match=reason):
        convert(written(tmp_path / "t.csv", text), out)


def test_a_question_mark_or_a_blank_is_a_missing_value(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "t.csv", "a,y\n1,0\n?,1\n ,1\n3,1\n")
    with pytest.raises(DatasetError, match=r"a \(2\)"):
        convert(path, out)
    assert convert(path, out, ReadOptions(missing=Missing.DROP)).samples == 2


@pytest.mark.parametrize(
    "word", ["", "NA", "N/A", "NaN", "null", "None", "?", "-", "<NA>", "none", "  NULL "]
)
@pytest.mark.parametrize("space", ["", " "])
def test_what_people_write_for_a_missing_number_is_one(
    tmp_path: Path, out: Path, word: str, space: str
) -> None:
    path = written(tmp_path / "a.csv", f"a,b,y\n1,7,0\n{space}{word},8,1\n4,9,1\n")
    with pytest.raises(DatasetError, match=r"missing in 1 columns: a \(1\)"):
        convert(path, out)
    convert(path, out, ReadOptions(missing=Missing.FILL))
    assert load_dataset(out).x[:, 0].tolist() == [1, 2.5, 4]
    convert(path, out, ReadOptions(missing=Missing.DROP))
    assert load_dataset(out).x[:, 1].tolist() == [7, 9]


def test_texts_that_may_be_classes_stay_texts_and_are_told(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "a.csv", "a,b,y\nNone,1,+\ncar,2,-\n?,3,-\ncar,4,+\n")
    source = open_source(path, ReadOptions(missing=Missing.FILL))
    assert source.recipe.notes.class_names == ("+", "-")
    assert source.recipe.notes.input_names[:3] == ("a=None", "a=car", "a=(missing)")
    first, second = describe(source).warnings[:2]
    assert first.startswith(
        "column 'a' holds 'None', taken for text like the others; where a value is missing"
    )
    assert second.startswith("column 'y' holds '-', taken for text")


def test_a_word_for_a_missing_number_counts_wherever_numbers_begin(tmp_path: Path, out: Path) -> None:
    cells = ["-"] * 9_000 + ["1.5"] * 9_000
    path = written(tmp_path / "a.csv", "a,y\n" + "".join(f"{cell},0\n" for cell in cells))
    assert convert(path, out, ReadOptions(missing=Missing.DROP)).samples == 9_000
    assert set(load_dataset(out).x[:, 0].tolist()) == {1.5}


def test_what_lacks_a_text_is_an_input_only_where_it_can_come(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "a.csv", "a,y\nx,0\nz,1\n,1\n")
    convert(path, out, ReadOptions(missing=Missing.DROP))
    assert read_notes(out).input_names == ("a=x", "a=z")


def test_a_time_series_repeats_the_value_before_a_missing_one_if_it_may(tmp_path: Path, out: Path) -> None:
    path = written(tmp_path / "a.csv", "a,b\n1,5\n2,-\n3,\n4,8\n")
    with pytest.raises(DatasetError, match="row 2: no value; repeat the value before with --missing fill"):
        convert(path, out, ReadOptions(window=2))
    convert(path, out, ReadOptions(window=2, missing=Missing.FILL))
    assert load_dataset(out).x.tolist() == [[[1, 2], [5, 5]], [[2, 3], [5, 5]]]
    assert load_dataset(out).y.tolist() == [5, 8]
    with pytest.raises(DatasetError, match="column 'b', row 1: no value; no value before it"):
        convert(written(path, "a,b\n1,?\n2,3\n3,4\n"), out, ReadOptions(window=1, missing=Missing.FILL))
    with pytest.raises(DatasetError, match="row 2: no finite number; leave the column out with --drop a"):
        convert(written(path, "a,b\n1,2\nmonday,3\n3,4\n"), out, ReadOptions(window=1, missing=Missing.FILL))


def test_labels_of_arrays_may_be_texts(tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.eye(3), y=np.array(["ö", "dog", "ö"]))
    assert convert(tmp_path / "t.npz", out).classes == 2
    assert read_notes(out).class_names == ("dog", "ö")
    assert load_dataset(out).y.tolist() == [1, 0, 1]
    with pytest.raises(DatasetError, match="y holds texts such as 'dog', expected numbers"):
        convert(tmp_path / "t.npz", out, ReadOptions(task=Task.REGRESSION))


def test_whole_numbers_that_are_no_classes_are_numbers_to_predict(tmp_path: Path, out: Path) -> None:
    for low, high in ((-1, 1), (0, 1 << 40)):
        np.savez(tmp_path / "t.npz", x=np.eye(2), y=np.array([low, high]))
        assert convert(tmp_path / "t.npz", out).classes == 0
        with pytest.raises(DatasetError, match=f"from {low} to {high}, classes are whole numbers from 0"):
            convert(tmp_path / "t.npz", out, ReadOptions(task=Task.CLASSIFICATION))


def test_folders_of_parts_are_not_taken_for_classes(tmp_path: Path, out: Path) -> None:
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            draw(tmp_path / "set" / part / kind / "1.png")
    with pytest.raises(DatasetError, match=r"holds parts \(train, val\), not classes: name one of them"):
        convert(tmp_path / "set", out)
    assert convert(tmp_path / "set" / "train", out).classes == 2
