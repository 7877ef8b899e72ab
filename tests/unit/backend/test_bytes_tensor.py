"""Texts as the Open Inference Protocol has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InputError
from backend.serving.bytes_tensor import classes_of, pack_texts, unpack_texts


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_texts_come_back_as_they_were_packed(texts: list[str]) -> None:
    assert unpack_texts("x", [len(texts)], memoryview(pack_texts(texts))) == texts
    assert unpack_texts("x", [len(texts), 1], [[text] for text in texts]) == texts


@pytest.mark.parametrize(
    ("shape", "data", "reason"),
    [
        ([], ["a"], r"texts are \[N\]"),
        ([0], [], r"texts are \[N\]"),
        ([2, 2], ["a"] * 4, r"texts are \[N\]"),
        ([1], "a", "a list of texts"),
        ([1], [1], "a list of texts"),
        ([1], memoryview(b"\1\0\0"), "0 texts|0 bytes"),
        ([1], memoryview(b"\xff\xff\xff\xffa"), "of 4294967295 bytes, 1 are left"),
        ([1], memoryview(b"\1\0\0\0\xff"), "no UTF-8"),
        ([1], memoryview(b"\0\0\0\0" * 9), "holds 9 texts, its shape says 1"),
        ([4096], memoryview(b"\0\0\0\0" * 100_000), "holds 4097 texts"),
    ],
)
def test_what_is_no_text_is_refused(shape: list[int], data: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        unpack_texts("x", shape, data)


def test_classes_are_told_from_the_likeliest_on() -> None:
    values = np.array([[0.25, 0.5, 0.25]], np.float32)
    assert classes_of(values, 2, ("a", "b", "c")).tolist() == [["0.500000:1:b", "0.250000:0:a"]]
    assert classes_of(values, 9, ()).tolist() == [["0.500000:1", "0.250000:0", "0.250000:2"]]
    with pytest.raises(InputError, match="it must be"):
        classes_of(values[0], 1, ())


def test_classes_are_no_more_texts_than_may_keep_others_waiting() -> None:
    values = np.zeros((4096, 17), np.float32)
    assert classes_of(values, 16, ()).shape == (4096, 16)
    with pytest.raises(InputError, match="69632 texts, limit 65536"):
        classes_of(values, 1 << 40, ())
