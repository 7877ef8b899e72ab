"""A training's curve as a TensorBoard event file: scalars only, without TensorFlow, torch or protobuf.

The format: records of ``u64 length | u32 masked CRC-32C of it | data | u32 masked CRC-32C of the
data``, little-endian, where data is a tensorflow.Event in protobuf's encoding.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from backend.reports import HeadMetrics, Metrics

FIGURES = ("loss", "accuracy", "top5_accuracy", "macro_f1", "mae", "r2", "perplexity")
_FILE_VERSION = b"brain.Event:2"
_MASK_DELTA = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WALL_TIME, _STEP, _VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_VALUE, _TAG, _SIMPLE_VALUE, _STATUS, _START = 1, 1, 2, 1, 1


def scalars_of(metrics: Metrics) -> dict[str, float]:
    """By tag; what does not apply is left out."""
    found = {
        "train/loss": metrics.loss,
        "train/accuracy": metrics.accuracy,
        "train/learning_rate": metrics.learning_rate,
        "train/samples_per_s": metrics.samples_per_s,
        "validation/loss": metrics.validation_loss,
        "validation/accuracy": metrics.validation_accuracy,
        "test/accuracy": metrics.test_accuracy,
    }
    for part, heads in (("validation", metrics.validation), ("test", metrics.test)):
        found |= _of_heads(part, heads)
    return {tag: value for tag, value in found.items() if value is not None}


def _of_heads(part: str, heads: tuple[HeadMetrics, ...]) -> dict[str, float | None]:
    """Of several losses each under the name of its node."""
    several = len(heads) > 1
    return {
        f"{part}/{head.node}/{name}" if several else f"{part}/{name}": getattr(head, name)
        for head in heads
        for name in FIGURES
    }


class EventFile:
    """One file of events. Each ``add`` is on its way to disk when it returns."""

    def __init__(self, directory: Path, started_at: float, first_step: int = 0) -> None:
        """Makes the directory. With ``first_step`` readers forget what earlier files say from there on.

        ``started_at`` is in seconds since 1970. Raises OSError.
        """
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(started_at)}.cyxwiz.{os.getpid()}"
        self._file = (directory / name).open("ab")
        self._write(_number(_WALL_TIME, started_at) + _bytes(_VERSION, _FILE_VERSION))
        if first_step:
            log = _integer(_STATUS, _START)
            self._write(
                _number(_WALL_TIME, started_at) + _integer(_STEP, first_step) + _bytes(_SESSION_LOG, log)
            )
        self._file.flush()

    def add(self, step: int, scalars: Mapping[str, float], at: float) -> None:
        """Raises OSError."""
        if not scalars:
            return
        values = b"".join(
            _bytes(_VALUE, _bytes(_TAG, tag.encode()) + _single(_SIMPLE_VALUE, value))
            for tag, value in scalars.items()
        )
        self._write(_number(_WALL_TIME, at) + _integer(_STEP, step) + _bytes(_SUMMARY, values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + masked_crc(length) + event + masked_crc(event))


# -- protobuf ------------------------------------------------------------------------------------


def _key(field: int, wire: int) -> bytes:
    return bytes([field << 3 | wire])


def _integer(field: int, value: int) -> bytes:
    """Of a number that is not negative."""
    return _key(field, _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _number(field: int, value: float) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<d", value)


def _single(field: int, value: float) -> bytes:
    """As a float of 32 bits; what is too large for one becomes infinite."""
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _key(field, _FIXED32) + packed


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


# -- CRC-32C -------------------------------------------------------------------------------------


def _table() -> Iterator[int]:
    """Of Castagnoli's polynomial, bits reversed."""
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC = tuple(_table())


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> bytes:
    """Turned and shifted, so that a CRC of data that holds CRCs is still one."""
    crc = crc32c(data)
    turned = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (turned + _MASK_DELTA) & 0xFFFFFFFF)
