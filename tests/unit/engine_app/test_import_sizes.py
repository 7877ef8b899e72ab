"""Sizes of open axes, as they are typed."""

from __future__ import annotations

import pytest

from engine_app.entry import CommandError
from engine_app.importing import read_sizes


def test_sizes_are_read_by_name() -> None:
    assert read_sizes(["steps=128", "a=b=2"]) == {"steps": 128, "a=b": 2}


@pytest.mark.parametrize(
    "text", ["steps", "=3", "steps=", "steps=0", "steps=-1", "steps=1.5", "steps=9999999", "s=²"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="must be NAME=N"):
        read_sizes([text])


def test_so_many_sizes_are_refused() -> None:
    with pytest.raises(CommandError, match="17 sizes, limit 16"):
        read_sizes([f"a{number}=1" for number in range(17)])
