"""Inputs for a model, from files of users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p2p.session.arrays import _read_arrays
from p2p.session.errors import JobRefusedError


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\x80\x04K\x01."])
def test_what_is_no_array_is_refused_without_advice_to_trust_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(JobRefusedError, match=r"is no .npy or .npz file") as raised:
        _read_arrays(tmp_path / "x.npy")
    assert "pickle" not in str(raised.value)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(JobRefusedError, match=r"is no .npy or .npz file"):
        _read_arrays(tmp_path / "x.npy")
