"""Event files, read back with TensorBoard's own message definitions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from backend.reports import HeadMetrics, Metrics
from engine_app.tensorboard import EventFile, crc32c, masked_crc, scalars_of


def read(directory: Path) -> Iterator[Event]:
    [path] = directory.iterdir()
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert data[8:12] == masked_crc(data[:8])
        assert data[12 + length : 16 + length] == masked_crc(body)
        yield Event.FromString(body)
        data = data[16 + length :]


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # and the one of its appendix B.4
    assert masked_crc(b"") == struct.pack("<I", 0xA282EAD8)


def test_scalars_come_back_as_they_were_written(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "runs" / "a", 1e9)
    events.add(1, {"train/loss": 0.5, "größe/x": -2.0}, 1e9 + 1)
    events.add(300, {"train/loss": 1e60}, 1e9 + 2)
    events.add(301, {}, 1e9 + 3)
    events.close()
    first, second, third = read(tmp_path / "runs" / "a")
    assert first.file_version == "brain.Event:2" and first.wall_time == 1e9
    assert (second.step, second.wall_time) == (1, 1e9 + 1)
    found = {value.tag: value.simple_value for value in second.summary.value}
    assert found == {"train/loss": 0.5, "größe/x": -2.0}
    assert third.step == 300 and third.summary.value[0].simple_value == float("inf")


def test_a_training_that_goes_on_takes_back_what_comes_after_its_checkpoint(tmp_path: Path) -> None:
    EventFile(tmp_path, 1e9, first_step=121).close()
    _, start = read(tmp_path)
    assert (start.step, start.session_log.status) == (121, SessionLog.START)


def test_a_curve_becomes_tags_and_what_does_not_apply_is_left_out() -> None:
    metrics = Metrics(step=1, total_steps=2, epoch=0, loss=0.5, learning_rate=0.1)
    assert scalars_of(metrics) == {"train/loss": 0.5, "train/learning_rate": 0.1}
    one = (HeadMetrics("loss", "y", 0.25, mae=2.0),)
    two = (*one, HeadMetrics("other", "z", None, accuracy=0.75))
    metrics = Metrics(1, 2, 0, 0.5, validation_loss=0.25, validation=one, test=two, test_accuracy=0.75)
    assert scalars_of(metrics) == {
        "train/loss": 0.5,
        "validation/loss": 0.25,
        "validation/mae": 2.0,
        "test/accuracy": 0.75,
        "test/loss/loss": 0.25,
        "test/loss/mae": 2.0,
        "test/other/accuracy": 0.75,
    }


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        EventFile(tmp_path / "file", 1e9)
